package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// result prints v as JSON if that was asked for, else it lets text print it for people.
func (c *cli) result(v any, text func()) error {
	if !c.json {
		text()
		return nil
	}
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// list makes JSON of a list that is empty "[]" and not "null".
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// event prints one line of a stream as JSON.
func (c *cli) event(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// say prints a line for people; with --json stdout is for programs, so it goes to stderr.
func (c *cli) say(format string, args ...any) {
	w := c.stdout
	if c.json {
		w = c.stderr
	}
	fmt.Fprintln(w, cleanLines(fmt.Sprintf(format, args...)))
}

func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = clean(l)
	}
	return strings.Join(lines, "\n")
}

// The colours, as SGR parameters.
const (
	bold    = "1"
	faint   = "2"
	red     = "31"
	green   = "32"
	yellow  = "33"
	blue    = "34"
	magenta = "35"
	cyan    = "36"
)

// paint colours s if colours are wanted.
func (e *env) paint(style, s string) string {
	if !e.colour || style == "" {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

// stateStyle is the colour of the words for states.
func stateStyle(word string) string {
	switch word {
	case "pass", "running", "healthy", "promoted", "succeeded", "done", "ok", "allowed":
		return green
	case "fail", "failed", "crashed", "unhealthy", "refused":
		return red
	case "unknown", "starting", "waiting", "candidate", "degraded", "stopping", "exited", "canceled":
		return yellow
	}
	return ""
}

// head prints a header: "=== shop".
func (c *cli) head(format string, args ...any) {
	fmt.Fprintln(c.stdout, c.paint(faint, "===")+" "+c.paint(bold, clean(fmt.Sprintf(format, args...))))
}

// empty says that there is nothing to list.
func (c *cli) empty(format string, args ...any) {
	fmt.Fprintln(c.stdout, clean(fmt.Sprintf(format, args...)))
}

// table prints rows with their columns aligned. Cells are made harmless; words for states are coloured.
func (c *cli) table(rows [][]string) {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			r[i] = clean(cell)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(r[i]))
		}
	}
	for _, r := range rows {
		for len(r) > 0 && r[len(r)-1] == "" {
			r = r[:len(r)-1] // no blanks at a line's end
		}
		for i, cell := range r {
			pad := widths[i] - utf8.RuneCountInString(cell)
			io.WriteString(c.stdout, c.paint(stateStyle(cell), cell))
			if i < len(r)-1 {
				io.WriteString(c.stdout, strings.Repeat(" ", pad+2))
			}
		}
		io.WriteString(c.stdout, "\n")
	}
}

// fields prints names and values aligned; a field without a value is left out.
func (c *cli) fields(pairs ...string) {
	var rows [][]string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			rows = append(rows, []string{pairs[i] + ":", pairs[i+1]})
		}
	}
	c.table(rows)
}
