package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
	"github.com/bulwark-paas/bulwark/internal/terminal"
)

// screen is a person's terminal.
type screen struct {
	size func() (columns, rows int, err error)
	raw  func() (restore func(), err error) // passes every key on, Ctrl-C too
}

// exitError has the program end with the exit code of a command that it ran for a person; there is nothing more to say.
type exitError struct{ code int }

// Error implements error.
func (e *exitError) Error() string { return fmt.Sprintf("the command ended with exit code %d", e.code) }

// runOptions are the flags of bulwark run.
type runOptions struct {
	tty, noTTY, detach bool
	size               string
}

func (c *cli) runCommand() *cobra.Command {
	var o runOptions
	cmd := c.forApp(command("run [flags] -- COMMAND [ARGUMENT...]", "Run a command once, in an instance of its own",
		"  $ bulwark run -- ls -l\n  $ bulwark run -a shop -- bash\n  $ bulwark run -- python manage.py migrate\n  $ pg_dump | bulwark run --size large -- ./import\n  $ bulwark run --detach -- ./reindex",
		atLeast(1, "a command to run"), func(ctx context.Context, args []string) error { return c.run(ctx, args, o) }))
	cmd.Long = `Runs a command in a fresh instance of the release that serves, with the app's config and no way in from outside. If you
are at a terminal the command has one too; otherwise its input and output are connected to yours. The exit code is the
command's. When you leave, the command is ended.

What you type and what is printed is encrypted between this machine and the node. The command line itself is part of what
you sign and is kept with it: give secrets by config or by stdin, not as arguments.

With --detach the command runs on without you for up to 24 hours; bulwark ps shows it, bulwark logs what it prints.`
	f := cmd.Flags()
	f.SetInterspersed(false) // what comes after the command's name is the command's
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal, also if this is none")
	f.BoolVar(&o.noTTY, "no-tty", false, "give the command no terminal, also if this is one")
	f.BoolVar(&o.detach, "detach", false, "leave the command to itself and print its name")
	f.StringVar(&o.size, "size", "", "limits of the instance: tiny, small, medium or large")
	return cmd
}

// statement makes what the person signs, but for the recipient.
func (o runOptions) statement(args []string, tty bool) (statement.Run, error) {
	body := statement.Run{Argv: args, Terminal: tty, Detach: o.detach}
	switch {
	case o.tty && (o.noTTY || o.detach):
		return body, misuse("The flag --tty does not go together with --no-tty or --detach.", "Give one of them.")
	case o.size != "":
		var err error
		body.Size, err = bulwark.ParseSize(o.size)
		return body, usage(err)
	}
	return body, nil
}

func (c *cli) run(ctx context.Context, args []string, o runOptions) error {
	body, err := o.statement(args, o.tty || c.screen != nil && !o.noTTY && !o.detach)
	if err != nil {
		return err
	}
	s, _, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	if o.detach {
		return c.runDetached(ctx, s, app, body)
	}
	stream, w, err := c.attach(ctx, s, app, body)
	if err != nil {
		return err
	}
	return c.session(ctx, stream, body, w)
}

// ran is what a detached command is known by.
type ran struct {
	Instance bulwark.InstanceID `json:"instance"`
	Name     string             `json:"name"`
	Release  uint64             `json:"release"`
}

func (c *cli) runDetached(ctx context.Context, s *session, app client.App, body statement.Run) error {
	signed, err := s.sign(statement.KindRun, app.ID, body)
	if err != nil {
		return err
	}
	var answer *client.Ran
	err = c.during("Starting "+body.Argv[0], func() (err error) {
		answer, _, err = s.Run(ctx, app.Name, signed)
		return err
	})
	if err != nil {
		return err
	}
	if answer == nil {
		return oddAnswer()
	}
	w, err := terminal.OpenWelcome(answer.Welcome, s.server.key(), bulwark.Sum(signed.Envelope))
	if err != nil {
		return err
	}
	return c.result(ran{w.Instance, w.Name, w.Release}, func() {
		fmt.Fprintln(c.stdout, w.Name)
		fmt.Fprintf(c.stderr, "It runs as %s of release v%d. See bulwark ps and bulwark logs.\n", w.Instance, w.Release)
	})
}

// attach signs for a command and makes the stream that it is connected by; the command starts when the stream is used.
func (c *cli) attach(ctx context.Context, s *session, app client.App, body statement.Run) (*terminal.Stream, *terminal.Welcome, error) {
	key, err := terminal.NewKey()
	if err != nil {
		return nil, nil, err
	}
	body.Recipient = key.Public()
	signed, err := s.sign(statement.KindRun, app.ID, body)
	if err != nil {
		return nil, nil, err
	}
	var stream *terminal.Stream
	var w *terminal.Welcome
	err = c.during("Starting "+body.Argv[0], func() error {
		_, conn, err := s.Run(ctx, app.Name, signed)
		if err != nil {
			return err
		}
		if conn == nil {
			return oddAnswer()
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		welcome, err := terminal.ReadWelcome(conn)
		if err == nil {
			stream, w, err = key.Open(conn, welcome, s.server.key(), bulwark.Sum(signed.Envelope))
		}
		if err != nil {
			conn.Close()
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return stream, w, err
}

func oddAnswer() error {
	return bulwark.Fail(bulwark.KindUnavailable, "The server's answer is not what was asked for.", "Use a bulwark command of the same version as the server.", nil)
}

// session connects this terminal to the command until it has ended.
func (c *cli) session(ctx context.Context, stream *terminal.Stream, body statement.Run, w *terminal.Welcome) error {
	l := terminal.Local{Stdin: c.stdin, Stdout: c.stdout, Stderr: c.stderr}
	done := make(chan struct{})
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer close(done)
	passed := c.passed(body.Terminal)
	if body.Terminal {
		l.Start.Term = terminal.TermName(c.getenv("TERM"))
		if c.screen == nil {
			l.Stdin = io.MultiReader(c.stdin, strings.NewReader("\x04")) // what Ctrl-D types: the end of what a terminal reads
		} else {
			l.Start.Window = c.window()
			fmt.Fprintf(c.stderr, "%s is %s of release v%d.\r\n", clean(strings.Join(body.Argv, " ")), clean(w.Name), w.Release)
			restore, err := c.screen.raw()
			if err != nil {
				return err
			}
			defer restore()
		}
	}
	stop := context.AfterFunc(ctx, func() { fmt.Fprint(c.stderr, "\r\nEnding the command; press Ctrl-C again to leave at once.\r\n") })
	defer stop()
	windows, signals := make(chan terminal.Window), make(chan syscall.Signal)
	l.Windows, l.Signals = windows, signals
	helpers.Go(func() { c.forward(passed, windows, signals, done) })
	code, err := stream.Attach(ctx, l)
	if err == nil && code != 0 {
		err = &exitError{code}
	}
	return err
}

// caught are the signals that the program hears for a command.
type caught struct {
	got  <-chan os.Signal
	stop func()
}

// passed begins to catch what is passed on: changes of size for a terminal, and without one what a terminal's keys would
// have been in it. SIGINT and SIGTERM end the program and so the command; SIGHUP does both at once.
func (c *cli) passed(tty bool) caught {
	if c.signals == nil {
		return caught{stop: func() {}}
	}
	kinds := []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH}
	if !tty {
		kinds[2] = syscall.SIGQUIT
	}
	got, stop := c.signals(kinds...)
	return caught{got, stop}
}

func (c *cli) forward(from caught, windows chan<- terminal.Window, signals chan<- syscall.Signal, done <-chan struct{}) {
	defer from.stop()
	for {
		var sig os.Signal
		select {
		case <-done:
			return
		case sig = <-from.got:
		}
		number, ok := sig.(syscall.Signal)
		if !ok {
			continue
		}
		if number == syscall.SIGWINCH {
			select {
			case windows <- c.window():
			case <-done:
			}
			continue
		}
		select {
		case signals <- number:
		case <-done:
		}
	}
}

// window is the size of the person's terminal.
func (c *cli) window() terminal.Window {
	if c.screen == nil {
		return terminal.Window{}
	}
	columns, rows, err := c.screen.size()
	if err != nil || columns < 1 || rows < 1 || columns > 0xffff || rows > 0xffff {
		return terminal.Window{}
	}
	return terminal.Window{Columns: uint16(columns), Rows: uint16(rows)}
}
