package tree

import (
	"fmt"
	"path"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// IgnoreFile is the name of the file, at the top of a folder, that says what "bulwark deploy" leaves out.
const IgnoreFile = ".bulwarkignore"

// Ignore is what an ignore file says. Each line is a pattern as in .gitignore: "*", "?" and "[…]" stand for what they
// stand for in a shell, "**" for any number of folders; a pattern with "/" at its beginning or in its middle counts from
// the top, any other at every depth; "/" at the end means folders only; "!" takes back what an earlier line left out,
// unless a folder above it is left out; "#" begins a comment.
type Ignore struct{ rules []rule }

type rule struct {
	parts   []string // of the pattern
	keep    bool     // "!"
	folders bool     // "/" at the end
}

// ParseIgnore reads an ignore file.
func ParseIgnore(text string) (*Ignore, error) {
	ig := &Ignore{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, " \t\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		var r rule
		line, r.keep = strings.CutPrefix(line, "!")
		line = strings.TrimPrefix(line, `\`) // "\#" and "\!" begin with these signs
		line, r.folders = strings.CutSuffix(line, "/")
		anchored := strings.Contains(line, "/")
		r.parts = strings.Split(strings.TrimPrefix(line, "/"), "/")
		if !anchored {
			r.parts = append([]string{"**"}, r.parts...)
		}
		for _, part := range r.parts {
			if _, err := path.Match(part, ""); err != nil || part == "" || part == "." || part == ".." {
				return nil, bulwark.Invalid(fmt.Sprintf("%s: line %d is no pattern: %+q.", IgnoreFile, n, line), "Write it as in .gitignore, such as node_modules/ or *.log.")
			}
		}
		ig.rules = append(ig.rules, r)
	}
	return ig, nil
}

// Ignores reports whether a path is left out, by itself or because a folder above it is.
func (ig *Ignore) Ignores(p string, folder bool) bool {
	if ig == nil || len(ig.rules) == 0 {
		return false
	}
	for i := range p {
		if p[i] == '/' && ig.matches(p[:i], true) {
			return true
		}
	}
	return ig.matches(p, folder)
}

// matches asks the rules about one path; the last that fits decides.
func (ig *Ignore) matches(p string, folder bool) bool {
	parts := strings.Split(p, "/")
	for i := len(ig.rules) - 1; i >= 0; i-- {
		r := ig.rules[i]
		if (folder || !r.folders) && fits(r.parts, parts) {
			return !r.keep
		}
	}
	return false
}

func fits(pattern, parts []string) bool {
	if len(pattern) == 0 {
		return len(parts) == 0
	}
	if pattern[0] == "**" {
		if len(pattern) == 1 {
			return len(parts) > 0
		}
		for i := range parts {
			if fits(pattern[1:], parts[i:]) {
				return true
			}
		}
		return false
	}
	if len(parts) == 0 {
		return false
	}
	ok, err := path.Match(pattern[0], parts[0])
	return err == nil && ok && fits(pattern[1:], parts[1:])
}
