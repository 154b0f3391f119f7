package statement_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func entry(path string, mode statement.TreeMode, text string) statement.TreeEntry {
	return statement.TreeEntry{Path: path, Mode: mode, Sum: sha256.Sum256([]byte(text))}
}

// TestSumTree has the test vectors of the specification at TreeDigest.
func TestSumTree(t *testing.T) {
	for _, c := range []struct {
		want    statement.TreeDigest
		entries []statement.TreeEntry
	}{
		{"tree1:592a6a746b9004250d31f7aeae737fce14094fa1c27e9032db5cdf73b72b8c36", []statement.TreeEntry{entry("a", statement.TreeFile, "b\n")}},
		// In any order: a folder's content does not sort beside it ("a.b" < "a/b" < "a0").
		{"tree1:15dc08cddfa4f2089b4c569c11076bc70f30af6e51b7ed6f81efb90a5a120679", []statement.TreeEntry{
			entry("a0", statement.TreeLink, "a/b"), entry("a/b", statement.TreeProgram, "#!"), entry("a.b", statement.TreeFile, "")}},
	} {
		got, err := statement.SumTree(c.entries)
		if err != nil || got != c.want {
			t.Errorf("%s, %v; want %s", got, err, c.want)
		}
		if back, err := statement.ParseTreeDigest(string(got)); err != nil || back != got {
			t.Errorf("%s, %v", back, err)
		}
	}
}

func TestSumTreeRefuses(t *testing.T) {
	for name, entries := range map[string][]statement.TreeEntry{
		"twice":          {entry("a", statement.TreeFile, "1"), entry("a", statement.TreeFile, "1")},
		"below a file":   {entry("a", statement.TreeFile, "1"), entry("a.b", statement.TreeFile, ""), entry("a/b/c", statement.TreeFile, "1")},
		"mode":           {entry("a", "100600", "1")},
		"no path":        {entry("", statement.TreeFile, "1")},
		"absolute":       {entry("/a", statement.TreeFile, "1")},
		"dot dot":        {entry("a/../b", statement.TreeFile, "1")},
		"NUL":            {entry("a\x00b", statement.TreeFile, "1")},
		"slash at end":   {entry("a/", statement.TreeFile, "1")},
		"not UTF-8":      {entry("a\xff", statement.TreeFile, "1")},
		"long part":      {entry(strings.Repeat("a", 256), statement.TreeFile, "1")},
		"long path":      {entry(strings.Repeat("abcdefgh/", 300)+"a", statement.TreeFile, "1")},
		"too many parts": {entry(strings.Repeat("a/", 100)+"a", statement.TreeFile, "1")},
	} {
		if d, err := statement.SumTree(entries); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%s: %s, %v", name, d, err)
		}
	}
}

func TestDeployCheck(t *testing.T) {
	tree, image := statement.TreeDigest("tree1:"+strings.Repeat("0", 64)), bulwark.Sum(nil)
	for name, c := range map[string]struct {
		d  statement.Deploy
		ok bool
	}{
		"tree": {statement.Deploy{Tree: tree, Message: "fix ☃"}, true}, "image": {statement.Deploy{Image: image}, true},
		"neither": {statement.Deploy{}, false}, "both": {statement.Deploy{Tree: tree, Image: image}, false},
		"long":  {statement.Deploy{Tree: tree, Message: strings.Repeat("x", 1001)}, false},
		"lines": {statement.Deploy{Tree: tree, Message: "a\nb"}, false},
	} {
		if err := c.d.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	var d statement.Deploy
	for _, body := range []string{`{"tree":"` + string(image) + `"}`, `{"tree":"x"}`, `{"image":"` + string(tree) + `"}`, `{"tree":"tree1:` + strings.Repeat("A", 64) + `"}`} {
		if err := (&statement.Statement{Body: []byte(body)}).Decode(&d); err == nil {
			t.Errorf("%s was taken", body)
		}
	}
}
