package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/seal"
)

// from says where the value of an assignment comes from.
type from int

const (
	fromText  from = iota // it is the text itself
	fromFile              // the text is a file's path
	fromStdin             // standard input
)

// assignment is one NAME=VALUE of a command line, not yet read.
type assignment struct {
	name bulwark.ConfigName
	from from
	text string
}

// parseAssignment reads NAME=VALUE, NAME=@FILE or NAME=-. The error never repeats a value: it may be a secret.
func parseAssignment(s string) (assignment, error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		// It may be a value whose name was forgotten, so it is not repeated.
		return assignment{}, bulwark.Invalid("An argument is not of the form NAME=VALUE.",
			"Write NAME=VALUE, NAME=@FILE for a file's content, or NAME=- for standard input.")
	}
	n, err := bulwark.ParseConfigName(name)
	if err != nil {
		return assignment{}, err
	}
	a := assignment{name: n, text: value}
	switch {
	case value == "-":
		a.from, a.text = fromStdin, ""
	case strings.HasPrefix(value, "@"):
		a.from, a.text = fromFile, value[1:]
		if a.text == "" {
			return assignment{}, bulwark.Invalid(fmt.Sprintf("The value of %s is \"@\" without a file.", n),
				"Write NAME=@FILE; a value that begins with \"@\" comes from standard input with NAME=-.")
		}
	default:
		if err := seal.CheckValue(n, []byte(value)); err != nil {
			return assignment{}, err
		}
	}
	return a, nil
}

// parseAssignments reads all of them before any is used.
func parseAssignments(args []string) ([]assignment, error) {
	var out []assignment
	seen := map[bulwark.ConfigName]bool{}
	stdin := 0
	for _, arg := range args {
		a, err := parseAssignment(arg)
		if err != nil {
			return nil, err
		}
		if seen[a.name] {
			return nil, bulwark.Invalid(fmt.Sprintf("%s is given twice.", a.name), "Give each name once.")
		}
		seen[a.name] = true
		if a.from == fromStdin {
			stdin++
		}
		out = append(out, a)
	}
	if stdin > 1 {
		return nil, bulwark.Invalid("Standard input can be the value of one name only.", "Use NAME=@FILE for the others.")
	}
	return out, nil
}

// readValues gets the values and checks them, before anything is sent.
func (c *cli) readValues(ctx context.Context, args []assignment) (map[bulwark.ConfigName][]byte, error) {
	out := map[bulwark.ConfigName][]byte{}
	for _, a := range args {
		v, err := c.readValue(ctx, a)
		if err != nil {
			return nil, err
		}
		if err := seal.CheckValue(a.name, v); err != nil {
			return nil, usage(err)
		}
		out[a.name] = v
	}
	return out, nil
}

func (c *cli) readValue(ctx context.Context, a assignment) ([]byte, error) {
	switch a.from {
	case fromFile:
		f, err := os.Open(c.path(a.text))
		if err != nil {
			return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file for %s cannot be read.", a.name), "Look at its path: "+clean(c.path(a.text)), err)
		}
		defer f.Close()
		return readLimited(f)
	case fromStdin:
		if c.secret != nil {
			v, err := c.askSecret(ctx, "Value of "+string(a.name)+": ")
			return []byte(v), err
		}
		text, err := awaited(ctx, c.stderr, func() (string, error) {
			b, err := readLimited(c.stdin)
			return string(b), err
		})
		return []byte(text), err
	}
	return []byte(a.text), nil
}

// readLimited reads one value and leaves out one line end at its end, which editors and echo put there. What is too long
// for a value is cut at a length that the check refuses.
func readLimited(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, seal.MaxValue+3))
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r")), nil
}

// parseNames reads the names of variables.
func parseNames(args []string) ([]bulwark.ConfigName, error) {
	var out []bulwark.ConfigName
	seen := map[bulwark.ConfigName]bool{}
	for _, arg := range args {
		n, err := bulwark.ParseConfigName(arg)
		if err != nil {
			return nil, err
		}
		if !seen[n] {
			out = append(out, n)
		}
		seen[n] = true
	}
	return out, nil
}
