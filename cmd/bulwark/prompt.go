package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// maxLine bounds what is read for one answer.
const maxLine = 64 << 10

// ask prints a question on stderr and reads one line. Ctrl-C ends the wait.
func (c *cli) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(c.stderr, question)
	return awaited(ctx, c.stderr, func() (string, error) {
		line, err := bufio.NewReader(io.LimitReader(c.stdin, maxLine)).ReadString('\n')
		if err == io.EOF && line != "" {
			err = nil
		}
		return strings.TrimSpace(line), err
	})
}

// askSecret is ask for what must not be shown.
func (c *cli) askSecret(ctx context.Context, question string) (string, error) {
	if c.secret == nil {
		return c.ask(ctx, question)
	}
	fmt.Fprint(c.stderr, question)
	text, err := awaited(ctx, c.stderr, func() (string, error) {
		b, err := c.secret()
		fmt.Fprintln(c.stderr)
		return strings.TrimSpace(string(b)), err
	})
	if ctx.Err() != nil && c.show != nil {
		c.show()
	}
	return text, err
}

// awaited runs a read that knows nothing of ctx. When ctx ends first the read is left behind: the process ends too.
func awaited(ctx context.Context, w io.Writer, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		text, err := read()
		got <- answer{text, err}
	}()
	select {
	case a := <-got:
		if errors.Is(a.err, io.EOF) {
			return "", bulwark.Invalid("There was no answer.", "Run the command again.")
		}
		return a.text, a.err
	case <-ctx.Done():
		fmt.Fprintln(w)
		return "", ctx.Err()
	}
}

// confirm has a person type the name of what is about to be lost, unless they gave it with --confirm.
func (c *cli) confirm(ctx context.Context, given, name, loss string) error {
	wrong := func(got string) error {
		return misuse("The confirmation "+quote(got)+" is not "+quote(name)+", so nothing was done.", "To go on, repeat the name exactly.")
	}
	if given != "" {
		if given != name {
			return wrong(given)
		}
		return nil
	}
	if !c.stdinTTY {
		return misuse(loss, "To go on, add --confirm "+name+".")
	}
	c.note("%s", loss)
	got, err := c.ask(ctx, "      To go on, type "+name+": ")
	if err != nil {
		return err
	}
	if got != name {
		return wrong(got)
	}
	return nil
}
