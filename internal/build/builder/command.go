package builder

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
)

// maxCommand is the longest command line taken; execve refuses a string over 128 KiB, and nobody writes one.
const maxCommand = 8 << 10

// builtins are words that only a shell understands in the place of a program.
var builtins = strings.Fields(`. : alias bg break case cd command continue do done elif else esac eval exec exit export fg fi for
	function getopts hash if in jobs local read readonly return select set shift source then times trap type typeset ulimit umask
	unalias unset until wait while`)

// parseCommand turns a command line into a Command, as the package's documentation says. The error is a sentence without
// a place; callers know the place.
func parseCommand(line string) (bulwark.Command, error) {
	line = strings.Trim(line, " \t")
	switch {
	case line == "":
		return bulwark.Command{}, fmt.Errorf("the command is empty")
	case len(line) > maxCommand:
		return bulwark.Command{}, fmt.Errorf("the command is longer than %d bytes", maxCommand)
	case !utf8.ValidString(line):
		return bulwark.Command{}, fmt.Errorf("the command is not valid UTF-8")
	}
	for _, r := range line {
		if r < ' ' && r != '\t' || r == 0x7f {
			return bulwark.Command{}, fmt.Errorf("the command holds the control character %+q", r)
		}
	}
	w := splitter{rest: line}
	simple, err := w.run()
	if err != nil {
		return bulwark.Command{}, err
	}
	if !simple {
		return bulwark.Command{Argv: []string{"/bin/sh", "-c", line}}, nil
	}
	return bulwark.Command{Argv: w.argv, Expand: w.variables}, nil
}

// splitter cuts a simple command into words.
type splitter struct {
	rest      string
	argv      []string
	word      strings.Builder
	inWord    bool
	variables bool // some word holds a variable
	dollars   bool // some word holds a literal "$"
}

// run reports whether the line was simple. Only an unclosed quote is an error: no shell would take it either.
func (w *splitter) run() (simple bool, err error) {
	for w.rest != "" {
		c := w.rest[0]
		switch {
		case c == ' ' || c == '\t':
			w.end()
			w.rest = w.rest[1:]
		case c == '\'':
			body, rest, ok := strings.Cut(w.rest[1:], "'")
			if !ok {
				return false, fmt.Errorf("the command has a single quote (') that is never closed")
			}
			w.add(body)
			w.dollars = w.dollars || strings.Contains(body, "$")
			w.rest = rest
		case c == '"':
			if ok, err := w.double(); !ok || err != nil {
				return false, err
			}
		case c == '\\':
			if len(w.rest) < 2 {
				return false, nil
			}
			_, n := utf8.DecodeRuneInString(w.rest[1:])
			w.dollars = w.dollars || w.rest[1] == '$'
			w.add(w.rest[1 : 1+n])
			w.rest = w.rest[1+n:]
		case c == '$':
			if !w.variable() {
				return w.closed()
			}
		case strings.IndexByte("&|;<>(){}*?[]`", c) >= 0, !w.inWord && strings.IndexByte("#~!", c) >= 0:
			return w.closed()
		case c == '=' && len(w.argv) == 0:
			return w.closed() // NAME=value in front of a command
		default:
			w.add(w.rest[:1])
			w.rest = w.rest[1:]
		}
	}
	w.end()
	return w.plain(), nil
}

// plain reports whether what was split runs without a shell.
func (w *splitter) plain() bool {
	if w.variables && w.dollars || len(w.argv) == 0 || w.argv[0] == "" {
		return false
	}
	for _, b := range builtins {
		if w.argv[0] == b {
			return false
		}
	}
	return true
}

// double takes a double-quoted part. It reports false if a shell is needed.
func (w *splitter) double() (bool, error) {
	unclosed := fmt.Errorf("the command has a double quote (\") that is never closed")
	w.rest = w.rest[1:]
	w.add("")
	for w.rest != "" {
		switch c := w.rest[0]; {
		case c == '"':
			w.rest = w.rest[1:]
			return true, nil
		case c == '\\' && len(w.rest) > 1 && strings.IndexByte("\"\\$`", w.rest[1]) >= 0:
			w.dollars = w.dollars || w.rest[1] == '$'
			w.add(w.rest[1:2])
			w.rest = w.rest[2:]
		case c == '`':
			return false, nil
		case c == '$':
			if !w.variable() {
				return false, nil
			}
		default:
			w.add(w.rest[:1])
			w.rest = w.rest[1:]
		}
	}
	return false, unclosed
}

// variable takes $NAME or ${NAME} and keeps it as ${NAME}, so that what follows cannot become part of the name. It
// reports false if what follows the "$" is something else.
func (w *splitter) variable() bool {
	s, braced := strings.CutPrefix(w.rest[1:], "{")
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	if n == 0 || braced && (n == len(s) || s[n] != '}') {
		return false
	}
	w.add("${" + s[:n] + "}")
	w.variables = true
	if braced {
		n++
	}
	w.rest = s[n:]
	return true
}

// closed is the answer "a shell is needed", once it is sure that the shell will find every quote closed: an error
// now is better than a crash at start.
func (w *splitter) closed() (bool, error) {
	var quote byte
	for i := 0; i < len(w.rest); i++ {
		switch c := w.rest[i]; {
		case quote == 0 && c == '#' && i > 0 && (w.rest[i-1] == ' ' || w.rest[i-1] == '\t'):
			return false, nil // a comment; quotes in it do not count
		case c == '\\' && quote != '\'':
			i++
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == quote:
			quote = 0
		}
	}
	if quote != 0 && !strings.Contains(w.rest, "$(") && !strings.Contains(w.rest, "`") && !strings.Contains(w.rest, "#") {
		return false, fmt.Errorf("the command has a quote (%c) that is never closed", quote)
	}
	return false, nil
}

func (w *splitter) add(s string) {
	w.word.WriteString(s)
	w.inWord = true
}

func (w *splitter) end() {
	if w.inWord {
		w.argv = append(w.argv, w.word.String())
		w.word.Reset()
		w.inWord = false
	}
}
