package base

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// debianKeys is the keyring that Debian's own archive is checked with.
const debianKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// HostMirrors returns the host's own sources of Debian 12 as sources.list(5) lines, so that a site with a mirror uses it.
// dir is /etc/apt. Other suites, other components than "main" and other vendors' repositories are left out; a source
// keeps its own keyring and otherwise is checked with Debian's. "trusted=yes" is not kept: what is not signed is not used.
func HostMirrors(dir string) ([]string, error) {
	var out []string
	for _, pattern := range []string{"sources.list", "sources.list.d/*.list", "sources.list.d/*.sources"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, fmt.Errorf("cannot look for apt's sources: %w", err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name) //nolint:gosec // the caller's directory
			if err != nil {
				return nil, fmt.Errorf("cannot read apt's sources: %w", err)
			}
			if strings.HasSuffix(name, ".sources") {
				out = append(out, parseDeb822(b)...)
			} else {
				out = append(out, parseOneLine(b)...)
			}
		}
	}
	if !slices.ContainsFunc(out, func(line string) bool { return strings.Contains(line, " "+suite+" ") }) {
		return nil, bulwark.Fail(bulwark.KindNotFound, "This host has no apt source for Debian 12 (bookworm).",
			"Give the mirrors in the settings, as lines of sources.list.", nil)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// wantSuite tells the three suites that make up a patched Debian 12.
func wantSuite(s string) bool {
	return s == suite || s == suite+"-updates" || s == suite+"-security"
}

func sourceLine(uri, suite, keyring string) string {
	if !filepath.IsAbs(keyring) || strings.ContainsAny(keyring, " \t]") {
		keyring = debianKeys
	}
	return fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, uri, suite)
}

// parseOneLine reads the format "deb [options] uri suite component…".
func parseOneLine(b []byte) []string {
	var out []string
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var keyring string
		if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
			options, after, _ := strings.Cut(rest[1:], "]")
			rest = after
			for _, o := range strings.Fields(options) {
				if v, ok := strings.CutPrefix(o, "signed-by="); ok {
					keyring = v
				}
			}
		}
		f := strings.Fields(rest)
		if len(f) >= 3 && wantSuite(f[1]) && slices.Contains(f[2:], "main") {
			out = append(out, sourceLine(f[0], f[1], keyring))
		}
	}
	return out
}

// parseDeb822 reads the format of *.sources: paragraphs of "Field: value" with folded lines.
func parseDeb822(b []byte) []string {
	var out []string
	flush := func(f map[string]string) {
		if !slices.Contains(strings.Fields(f["types"]), "deb") || strings.EqualFold(f["enabled"], "no") ||
			!slices.Contains(strings.Fields(f["components"]), "main") {
			return
		}
		for _, uri := range strings.Fields(f["uris"]) {
			for _, s := range strings.Fields(f["suites"]) {
				if wantSuite(s) {
					out = append(out, sourceLine(uri, s, f["signed-by"]))
				}
			}
		}
	}
	fields, last := map[string]string{}, ""
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			flush(fields)
			fields, last = map[string]string{}, ""
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += " " + strings.TrimSpace(line)
		default:
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(name))
			fields[last] = strings.TrimSpace(value)
		}
	}
	flush(fields)
	return out
}
