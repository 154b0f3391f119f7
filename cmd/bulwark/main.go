// Command bulwark is the platform in one program: a person's commands, which are clients of the HTTP API and nothing
// else, and the operator's, which run the platform's processes.
//
// It promises that whatever changes an app was signed here, with keys that do not leave this machine. Whoever owns the
// account that runs it owns those keys.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	e, err := processEnv()
	if err != nil {
		fmt.Fprintln(os.Stderr, " !    "+err.Error())
		os.Exit(exitFailure)
	}
	os.Exit(execute(ctx, e, newRoot(e, append(userCommands(e), operatorCommands(e)...)...), os.Args[1:]))
}

// processEnv reads the environment. Nothing else in this program does.
func processEnv() (*env, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/nonexistent" // a process of the platform has none
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	tty := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		stdinTTY: tty(os.Stdin), stdoutTTY: tty(os.Stdout), stderrTTY: tty(os.Stderr) && os.Getenv("TERM") != "dumb",
		home: home, cwd: cwd, getenv: os.Getenv, now: time.Now, version: version()}
	e.colour = e.stdoutTTY && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	locale := strings.ToLower(os.Getenv("LC_ALL") + "," + os.Getenv("LC_CTYPE") + "," + os.Getenv("LANG"))
	e.utf8 = strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
	if e.stdinTTY {
		fd := int(os.Stdin.Fd())
		e.secret = func() ([]byte, error) { return term.ReadPassword(fd) }
		if state, err := term.GetState(fd); err == nil {
			e.show = func() { _ = term.Restore(fd, state) } // the process ends here, there is nothing better to do
		}
	}
	if e.stdinTTY && e.stdoutTTY {
		e.screen = newScreen(int(os.Stdin.Fd()), int(os.Stdout.Fd()))
	}
	e.signals = func(kinds ...os.Signal) (<-chan os.Signal, func()) {
		got := make(chan os.Signal, 8)
		signal.Notify(got, kinds...)
		return got, func() { signal.Stop(got) }
	}
	return e, nil
}

// newScreen is the terminal on two descriptors.
func newScreen(in, out int) *screen {
	return &screen{
		size: func() (columns, rows int, err error) { return term.GetSize(out) },
		raw: func() (func(), error) {
			state, err := term.MakeRaw(in)
			return func() { _ = term.Restore(in, state) }, err // a terminal that is gone needs no restoring
		},
	}
}

// version is what the Go tool recorded of the source.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "devel"
	}
	return info.Main.Version
}
