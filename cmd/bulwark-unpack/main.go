// Command bulwark-unpack unpacks a source tree, or says which one a folder holds:
//
//	bulwark-unpack unpack DIR   reads a tar stream from its standard input and writes the tree into DIR, an empty folder
//	bulwark-unpack digest DIR   reads DIR
//
// It prints one line of JSON, a tree.Outcome. The node runs it under a user id of the app's own, without capabilities,
// first the one and then the other, so that the digest is found by a process that never saw the stream: see package tree.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"github.com/bulwark-paas/bulwark/internal/source/tree"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bulwark-unpack unpack|digest DIR")
		os.Exit(2)
	}
	syscall.Umask(0o022) // the node's is tighter, and the builder's steps have other ids
	out := tree.Outcome{}
	var err error
	switch os.Args[1] {
	case "unpack":
		err = tree.Unpack(os.Stdin, os.Args[2], tree.DefaultLimits)
	case "digest":
		out.Digest, err = tree.Digest(os.Args[2], tree.DefaultLimits)
	default:
		err = fmt.Errorf("%q is neither unpack nor digest", os.Args[1])
	}
	if err != nil {
		out = tree.Failed(err)
		fmt.Fprintln(os.Stderr, err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
