// Command bulwark-pack reads the tar of a layer from its standard input and writes an EROFS image to descriptor 3. The
// node runs it under a user id of its own, without capabilities: see package pack.
package main

import (
	"fmt"
	"os"

	"github.com/bulwark-paas/bulwark/internal/image/pack"
)

func main() {
	out := os.NewFile(3, "output")
	in, err := pack.Decompress(os.Stdin)
	if err == nil {
		err = pack.Layer(in, out, ".", pack.DefaultLimits)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
