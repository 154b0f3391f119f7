package waf

import (
	"bufio"
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/wasilibs/go-re2/experimental"
)

// readable is a rule of a rule set as the plan understands it.
type readable struct {
	id         int
	level      int // of paranoia
	groups     uint8
	transforms []string
	operator   string
	argument   string
	file       string
}

// readRule reads a directive: a rule that may be left out if none of its texts can match, or nil. goesOn tells that the next one belongs to it.
func readRule(text string) (r *readable, goesOn bool) {
	rest, ok := strings.CutPrefix(text, "SecRule ")
	if !ok {
		return nil, strings.HasPrefix(text, "SecAction ") && slices.Contains(actions(text), "chain")
	}
	vars, rest, ok := strings.Cut(strings.TrimSpace(rest), " ")
	rest = strings.TrimSpace(rest)
	if !ok || rest == "" || rest[0] != '"' {
		return nil, false
	}
	end := 1
	for ; end < len(rest) && rest[end] != '"'; end++ {
		if rest[end] == '\\' && end+1 < len(rest) {
			end++
		}
	}
	if end >= len(rest) {
		return nil, false
	}
	op, acts := strings.ReplaceAll(rest[1:end], `\"`, `"`), actions(strings.TrimSpace(rest[end+1:]))
	goesOn = slices.Contains(acts, "chain")
	r = &readable{level: 1}
	if r.operator, r.argument, ok = strings.Cut(op, " "); !ok {
		return nil, goesOn
	}
	r.argument = strings.TrimSpace(r.argument)
	for v := range strings.SplitSeq(vars, "|") {
		if strings.HasPrefix(v, "!") {
			continue // it looks at less
		}
		g, ok := group(v)
		if !ok {
			return nil, goesOn
		}
		r.groups |= 1 << g
	}
	for _, a := range acts {
		k, v, _ := strings.Cut(a, ":")
		v = strings.Trim(v, "'")
		switch strings.ToLower(k) {
		case "id":
			r.id, _ = strconv.Atoi(v)
		case "phase":
			if v != "2" && v != "request" {
				return nil, goesOn
			}
		case "multimatch":
			return nil, goesOn
		case "t":
			if strings.EqualFold(v, "none") {
				r.transforms = nil
			} else {
				r.transforms = append(r.transforms, v)
			}
		case "tag":
			if l, ok := strings.CutPrefix(v, "paranoia-level/"); ok {
				r.level, _ = strconv.Atoi(l)
			}
		}
	}
	if r.id == 0 || r.groups == 0 {
		return nil, goesOn
	}
	return r, goesOn
}

// actions takes the actions of a rule apart.
func actions(s string) (out []string) {
	s = strings.Trim(s, `"`)
	quoted := false
	from := 0
	for i := range len(s) {
		switch {
		case s[i] == '\'' && (i == 0 || s[i-1] != '\\'):
			quoted = !quoted
		case s[i] == ',' && !quoted:
			out = append(out, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(out, strings.TrimSpace(s[from:]))
}

// literals are what a text must have that the rule's operator matches; none: nobody knows.
func (r *readable) literals(files fs.FS) []clause {
	switch r.operator {
	case "@rx":
		if _, err := experimental.CompileLatin1("(?s)" + r.argument); err != nil {
			return nil // it is compiled otherwise: see newRx
		}
		return required("(?s)" + r.argument)
	case "@pm":
		return words(strings.Split(r.argument, " "))
	case "@pmFromFile":
		if strings.Contains(r.argument, " ") {
			return nil
		}
		b, err := fs.ReadFile(files, path.Join(path.Dir(r.file), r.argument))
		if err != nil {
			return nil
		}
		var list []string
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			if l := strings.TrimSpace(s.Text()); l != "" && l[0] != '#' {
				list = append(list, l)
			}
		}
		return words(list)
	}
	return nil
}

// words are what is looked for by a list of words.
func words(list []string) []clause {
	var c clause
	for _, w := range list {
		w = strings.ToLower(w)
		if w == "" || strings.ContainsFunc(w, func(r rune) bool { return r >= 0x80 }) {
			return nil
		}
		c = append(c, w)
	}
	if len(c) == 0 {
		return nil
	}
	return []clause{cut(c)}
}
