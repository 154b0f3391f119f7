// Command bulwark-pack reads the tar of a layer from its standard input and writes an EROFS image to descriptor 3:
//
//	bulwark-pack [BYTES]
//
// BYTES is how large the layer's files may be together. The node runs it in a cell under a user id of its own, without
// capabilities: see package pack. What is wrong with the layer is the last line of its standard error.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/image/pack"
)

// tooLarge is the exit code if the layer is more than may be taken.
const tooLarge = 3

func main() {
	err := run()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	if e, ok := errors.AsType[*bulwark.Error](err); ok && e.Kind == bulwark.KindTooLarge {
		os.Exit(tooLarge)
	}
	os.Exit(1)
}

func run() error {
	limits := pack.DefaultLimits
	if len(os.Args) > 1 {
		n, err := strconv.ParseInt(os.Args[1], 10, 64)
		if err != nil {
			return err
		}
		limits.Bytes = n
	}
	in, err := pack.Decompress(os.Stdin)
	if err != nil {
		return err
	}
	return pack.Layer(in, os.NewFile(3, "output"), ".", limits)
}
