package main

import (
	"io"
	"os"
	"time"
)

// env is all that a command may know of the world around it. It is filled in once, by main, from the process's own
// environment; tests fill in their own. No command reads the environment itself.
type env struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	stdinTTY  bool // a person can be asked
	stdoutTTY bool // a person reads the output
	stderrTTY bool // progress may move
	colour    bool // stdout may have colours: a terminal, and NO_COLOR is not set
	utf8      bool // the locale's character set is UTF-8

	home   string // absolute; empty if there is none
	cwd    string // absolute
	getenv func(string) string
	now    func() time.Time

	// secret reads a line from the terminal without showing it; nil if stdin is none.
	secret func() ([]byte, error)
	// show makes the terminal show what is typed again, after a secret was left unread; nil if there is no terminal.
	show func()

	// screen is the terminal that the person sits at; nil unless stdin and stdout are one.
	screen *screen
	// signals has signals of the kinds sent to a channel until stop is called; nil if there are none to be had.
	signals func(kinds ...os.Signal) (got <-chan os.Signal, stop func())

	version string // of this program
}
