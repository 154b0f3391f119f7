// Command bulwark-hook is the pre-receive hook of Bulwark's git server. It promises to decide nothing and to refuse a
// push when the server does not answer; package hook says how, and what an attacker who owns it could do: no more than
// the server's own user. git starts it under the name pre-receive.
package main

import (
	"os"

	"github.com/bulwark-paas/bulwark/internal/source/gitssh/hook"
)

func main() { os.Exit(hook.Run(os.Getenv, os.Stdin, os.Stderr)) }
