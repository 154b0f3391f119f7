package builder

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// redactor takes the values of build secrets out of text.
type redactor struct {
	replace *strings.Replacer
	longest int // bytes of the longest value
}

// shortSecret is the length below which a value is left alone: taking every "1" or "yes" out of a log would make the
// value known by its absence and the log unreadable.
const shortSecret = 4

func newRedactor(values map[string]string) *redactor {
	var parts []string
	for _, v := range values {
		// A value of several lines, such as a key, comes by line, for the log is read by line.
		for _, line := range append(strings.Split(v, "\n"), v) {
			if line = strings.TrimSpace(line); len(line) >= shortSecret {
				parts = append(parts, line)
			}
		}
	}
	// Longest first: a replacer takes the first pattern that fits, and one value may begin with another.
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	r := &redactor{}
	if len(parts) > 0 {
		r.longest = len(parts[0])
		pairs := make([]string, 0, 2*len(parts))
		for _, p := range parts {
			pairs = append(pairs, p, "[secret]")
		}
		r.replace = strings.NewReplacer(pairs...)
	}
	return r
}

func (r *redactor) apply(s string) string {
	if r == nil || r.replace == nil {
		return s
	}
	return r.replace.Replace(s)
}

// clean makes text safe to show in a terminal and a browser: valid UTF-8, one line, no escape sequences, no control
// characters but the tab, nothing that turns the direction of writing, at most maxLine bytes.
func clean(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == 0x1b {
			i += escapeLen(s[i:])
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == '\n':
			r = ' '
		case r != '\t' && unicode.IsControl(r), r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x2028, r == 0x2029:
			continue
		}
		if b.Len()+utf8.RuneLen(r) > maxLine-len("…") {
			b.WriteString("…")
			break
		}
		b.WriteRune(r) // an invalid byte becomes U+FFFD
	}
	return strings.TrimRight(b.String(), " \t")
}

// escapeLen returns the length of the terminal's escape sequence at the start of s, which begins with ESC (ECMA-48: CSI
// and its parameters, OSC and the other strings up to their end, or a single character).
func escapeLen(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[':
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', 'X', '^', '_':
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
		return len(s)
	}
	return 2
}

// lines cuts a stream of output into lines and hands them on.
type lines struct {
	emit func(string)
	room int // bytes of a line that are kept: enough that a secret which begins within maxLine is there as a whole
	buf  []byte
}

func newLines(r *redactor, emit func(string)) *lines {
	return &lines{emit: emit, room: maxLine + r.longest}
}

// write takes more output. A carriage return within a line begins the line anew, as on a terminal: progress bars show
// their last state only.
func (l *lines) write(p []byte) {
	for i, c := range p {
		switch {
		case c == '\n':
			l.flush()
		case c == '\r':
			if i+1 < len(p) && p[i+1] != '\n' {
				l.buf = l.buf[:0]
			}
		case len(l.buf) >= l.room: // the rest of the line is dropped
		default:
			l.buf = append(l.buf, c)
		}
	}
}

// flush ends the line.
func (l *lines) flush() {
	if len(l.buf) > 0 {
		l.emit(string(l.buf))
	}
	l.buf = l.buf[:0]
}
