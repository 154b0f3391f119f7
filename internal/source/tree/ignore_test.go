package tree_test

import (
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
)

func TestIgnore(t *testing.T) {
	ig, err := tree.ParseIgnore(strings.Join([]string{"# what is not sent", "", "node_modules/", "*.log", "!keep.log", "/build", "docs/*.pdf", "a/**/z", "!node_modules/x", `\#odd`, "tmp?"}, "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"node_modules/": true, "node_modules/x": true, "web/node_modules/y/z.js": true, "node_modules": false,
		"x.log": true, "deep/er/x.log": true, "keep.log": false, "deep/keep.log": false,
		"build": true, "build/x": true, "sub/build": false, "docs/a.pdf": true, "docs/sub/a.pdf": false, "x/docs/a.pdf": false,
		"a/z": true, "a/b/c/z": true, "a/b/zz": false, "#odd": true, "tmp1": true, "tmp": false, "tmp12": false, "main.go": false,
	} {
		p, folder := strings.CutSuffix(path, "/")
		if got := ig.Ignores(p, folder); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	if (*tree.Ignore)(nil).Ignores("x", false) {
		t.Error("no file leaves something out")
	}
}

func TestIgnoreSyntax(t *testing.T) {
	for _, text := range []string{"ok\n[", "ok\na/../b", "ok\n/", "ok\n!", "ok\na//b"} {
		if _, err := tree.ParseIgnore(text); bulwark.KindOf(err) != bulwark.KindInvalid || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
