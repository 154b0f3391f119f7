// Command bulwark-sbom reads a layer of an image, an EROFS file on descriptor 3, and prints its inventory: one line of
// JSON, an inventory.Layer. The node runs it in a cell, under a user that nobody else has meanwhile, one per layer: see
// package catalog.
//
// Before the first byte of the layer it also takes from itself all files and all system calls that it can do without.
// Whoever owns it can make up the inventory of that one layer.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/sandbox"
	"github.com/bulwark-paas/bulwark/internal/sbom/catalog"
)

// memory bounds its data in bytes; the address space is not bounded, for Go reserves much more of it than it uses. From soft
// on it collects garbage more often.
const memory, soft = 1 << 30, 256 << 20

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	in := os.NewFile(3, "layer")
	debug.SetMemoryLimit(soft)
	for what, most := range map[int]uint64{unix.RLIMIT_DATA: memory, unix.RLIMIT_FSIZE: 0} {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("cannot set a limit: %w", err)
		}
	}
	if err := sandbox.Enter(sandbox.Policy{}); err != nil {
		return err
	}
	layer, err := catalog.Layer(in, catalog.DefaultLimits)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(layer)
}
