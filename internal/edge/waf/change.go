package waf

import (
	"path"
	"strings"
)

// change is what a row of transformations does to a text.
type change uint8

// A plan scans texts with ASCII letters of both cases as one, so a change of those alone is none.
const (
	same     change = iota
	squeezed        // one space for what is white
	bare            // nothing that is white
	shell           // as a shell's command line is made simple
	cleaned         // as a path
	unknown         // Coraza is to do it
)

// marks are what a text has in it that transformations change.
type marks uint16

const (
	hasPercent marks = 1 << iota // or +
	hasAnd
	hasBackslash
	hasBeyondASCII
	hasNull
	hasStar
	hasWhite
	hasHyphens // or #
	hasShell
	hasSlash
	hasColon
	hasOddEnd // a dot or a space, or nothing but dots
	allMarks
)

var markTable = func() (t [256]marks) {
	for c := 0x80; c < 0x100; c++ {
		t[c] = hasBeyondASCII
	}
	for _, c := range "\t\n\v\f\r " {
		t[c] = hasWhite
	}
	for _, c := range "\"'^,;\t\r\n (" {
		t[c] |= hasShell
	}
	t['%'], t['+'], t['&'], t['\\'], t[0], t['*'] = hasPercent, hasPercent, hasAnd, hasBackslash|hasShell, hasNull, hasStar
	t['-'], t['#'], t['/'], t[':'] = hasHyphens, hasHyphens, hasSlash|hasShell, hasColon
	return t
}()

func marksOf(s string) (m marks) {
	for i := range len(s) {
		m |= markTable[s[i]]
	}
	if m&(hasPercent|hasAnd) != 0 && !escapes(s) { // signs alone, as prose has them
		m &^= hasPercent | hasAnd
	}
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || s[len(s)-1] == ' ' {
		m |= hasOddEnd
	}
	return m
}

// escapes tells whether a text has a percent sign, a plus or an ampersand that stands for something else.
func escapes(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case '+':
			return true
		case '%', '&':
			if i+1 == len(s) {
				continue
			}
			if c := s[i+1]; letter(c) || c >= '0' && c <= '9' || c == '#' {
				return true
			}
		}
	}
	return false
}

// changeOf says what transformations do to a text with marks: at most one of those that are known here may change it.
func changeOf(names []string, m marks) change {
	done := same
	for _, n := range names {
		if done != same {
			return unknown
		}
		switch strings.ToLower(n) {
		case "lowercase":
			if m&hasBeyondASCII != 0 {
				return unknown // letters beyond ASCII may become letters of ASCII
			}
		case "urldecodeuni":
			if m&hasPercent != 0 {
				return unknown
			}
		case "htmlentitydecode":
			if m&hasAnd != 0 {
				return unknown
			}
		case "jsdecode", "cssdecode":
			if m&hasBackslash != 0 {
				return unknown
			}
		case "utf8tounicode":
			if m&hasBeyondASCII != 0 {
				return unknown
			}
		case "removenulls":
			if m&hasNull != 0 {
				return unknown
			}
		case "replacecomments":
			if m&hasStar != 0 {
				return unknown
			}
		case "removecommentschar":
			if m&(hasStar|hasHyphens) != 0 {
				return unknown
			}
		case "compresswhitespace", "removewhitespace":
			if m&hasBeyondASCII != 0 {
				return unknown
			}
			if m&hasWhite != 0 {
				if done = squeezed; strings.EqualFold(n, "removeWhitespace") {
					done = bare
				}
			}
		case "cmdline":
			if m&hasShell != 0 {
				done = shell
			}
		case "normalizepath", "normalisepath":
			if m&(hasSlash|hasOddEnd) != 0 {
				done = cleaned
			}
		case "normalizepathwin", "normalisepathwin":
			if m&(hasSlash|hasBackslash|hasColon|hasOddEnd) != 0 {
				return unknown
			}
		default:
			return unknown
		}
	}
	return done
}

// of makes the change, in the text's ASCII letters of whatever case.
func (c change) of(s string) string {
	switch c {
	case squeezed, bare:
		var b strings.Builder
		b.Grow(len(s))
		white := false
		for i := range len(s) {
			if markTable[s[i]]&hasWhite == 0 {
				b.WriteByte(s[i])
				white = false
			} else if c == squeezed && !white {
				b.WriteByte(' ')
				white = true
			}
		}
		return b.String()
	case shell:
		return command(s)
	case cleaned:
		switch p := path.Clean(s); {
		case p == ".":
			return ""
		case s[len(s)-1] == '/':
			return p + "/"
		default:
			return p
		}
	}
	return s
}

// command is a text as t:cmdLine makes it.
func command(s string) string {
	b := make([]byte, 0, len(s))
	space := false
	for i := range len(s) {
		switch s[i] {
		case '"', '\'', '\\', '^':
			continue
		case ' ', ',', ';', '\t', '\r', '\n':
			if !space {
				b = append(b, ' ')
			}
			space = true
			continue
		case '/', '(':
			if space {
				b = b[:len(b)-1]
			}
		}
		space = false
		b = append(b, s[i])
	}
	return string(b)
}
