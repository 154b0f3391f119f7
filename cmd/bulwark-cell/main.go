// Command bulwark-cell locks itself in and becomes another program:
//
//	bulwark-cell CELL PROGRAM [ARGUMENT...]
//
// CELL is a sandbox.Cell in JSON. The node starts git and the helpers that read a stranger's bytes through it, under a user,
// a control group and namespaces of their own. It reads nothing from outside itself.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// failed is the exit code if the program was not started, as env and chroot have it.
const failed = 125

func main() {
	err := fmt.Errorf("usage: bulwark-cell CELL PROGRAM [ARGUMENT...]")
	if len(os.Args) > 2 {
		var c sandbox.Cell
		if err = json.Unmarshal([]byte(os.Args[1]), &c); err == nil {
			if err = sandbox.Confine(c, os.Args[2]); err == nil {
				err = syscall.Exec(os.Args[2], os.Args[2:], os.Environ())
			}
		}
	}
	fmt.Fprintln(os.Stderr, "bulwark-cell:", err)
	os.Exit(failed)
}
