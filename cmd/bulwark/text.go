package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// clean makes text of others harmless: what a server, an app or a build wrote must not drive the terminal of the person
// who reads it (move its cursor, change its title, write into its input). Escape sequences and control characters but
// the tab go, and so do the marks that turn the direction of writing, with which a line can be made to read otherwise.
func clean(s string) string {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for rest := s; rest != ""; {
		if n := escapeSequence(rest); n > 0 {
			rest = rest[n:]
			continue
		}
		r, n := utf8.DecodeRuneInString(rest)
		if r == '\t' || !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(rest[:n])
		}
		rest = rest[n:]
	}
	return b.String()
}

// escapeSequence returns the length of the control sequence (ECMA-48, "CSI … final") or string ("OSC …", up to BEL or
// ST) that s begins with, 0 if it begins with none.
func escapeSequence(s string) int {
	if len(s) < 2 || s[0] != 0x1b {
		return 0
	}
	switch s[1] {
	case '[':
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
			if s[i] < 0x20 || s[i] > 0x7e {
				return i
			}
		}
		return len(s)
	case ']', 'P', '_', '^', 'X':
		end := len(s)
		for i := 2; i < len(s); i++ {
			if s[i] == '\a' {
				end = i + 1
				break
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				end = i + 2
				break
			}
		}
		return end
	}
	return 1
}

// quote shows what somebody typed: escaped, and cut so that it does not flood a terminal.
func quote(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%+q…", s[:60])
	}
	return fmt.Sprintf("%+q", s)
}

// ago says how long before now t was, as people say it.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	switch {
	case d < -time.Minute:
		return t.UTC().Format(time.RFC3339) // the clocks differ
	case d < 10*time.Second:
		return "just now"
	}
	return span(d) + " ago"
}

// span says how long d is in its largest unit.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		size time.Duration
		name string
	}{{365 * day, "year"}, {30 * day, "month"}, {7 * day, "week"}, {day, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / u.size); n >= 1 {
			return counted(n, u.name)
		}
	}
	return counted(int(d/time.Second), "second")
}

// counted says "1 build", "2 builds".
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// size says how many bytes n are, as people say it.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
