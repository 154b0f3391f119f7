package gitssh

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// Git's own client does not send these; one of somebody's own may.
func TestReadCommitRefuses(t *testing.T) {
	ctx, app := context.Background(), bulwark.NewAppID()
	st := &store{git: "/usr/bin/git", dir: t.TempDir(), heads: map[bulwark.AppID]*head{}}
	if err := st.ensure(ctx, app, "main"); err != nil {
		t.Fatal(err)
	}
	put := func(kind, content string) bulwark.Commit {
		t.Helper()
		c := st.cmd(app, nil, "hash-object", "-w", "--stdin", "-t", kind)
		c.Stdin = strings.NewReader(content)
		out, err := process.Output(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return bulwark.Commit(strings.TrimSpace(string(out)))
	}
	blob, big := put("blob", "x"), put("blob", strings.Repeat("x", 4*maxObject))
	tree := put("tree", "")
	who := " A <a@b> 1 +0000\n"
	commit := put("commit", "tree "+string(tree)+"\nauthor"+who+"committer"+who+"\nSubject\n\nBody\n")
	tag := put("tag", "object "+string(commit)+"\ntype commit\ntag v\ntagger"+who+"\nx\n")

	cert, about, err := st.readCommit(ctx, app, commit, string(blob), nil)
	if err != nil || string(cert) != "x" || about != (commitInfo{"Subject", "A <a@b>"}) {
		t.Errorf("%q %+v %v", cert, about, err)
	}
	for _, c := range []struct {
		commit bulwark.Commit
		cert   string
		kind   bulwark.Kind
	}{
		{blob, string(blob), bulwark.KindInvalid}, {tree, string(blob), bulwark.KindInvalid}, {tag, string(blob), bulwark.KindInvalid},
		{big, string(blob), bulwark.KindTooLarge}, {commit, string(big), bulwark.KindTooLarge},
		{commit, string(commit), bulwark.KindInternal}, {commit, "HEAD", bulwark.KindInternal},
		{bulwark.Commit(strings.Repeat("1", 40)), string(blob), bulwark.KindInternal},
	} {
		if _, _, err := st.readCommit(ctx, app, c.commit, c.cert, nil); bulwark.KindOf(err) != c.kind || err == nil {
			t.Errorf("%s %s: %v", c.commit, c.cert, err)
		}
	}
}

// A hold takes nothing but a quarantine's objects, whatever path it is told.
func TestHold(t *testing.T) {
	repo := t.TempDir()
	quarantine := filepath.Join(repo, "objects", "tmp_objdir-incoming-abc")
	for name, content := range map[string]string{"pack/p.pack": "1", "pack/p.idx": "2", "pack/p.keep": "3", "pack/tmp_idx": "4",
		"ab/cd": "5", "info/alternates": "6", "ab/tmp_obj": "7"} {
		path := filepath.Join(quarantine, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", "/", "objects", "../objects/pack", quarantine + "/..", "/etc", quarantine + "x"} {
		if _, err := newHold(repo, bad, "bad"); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	h, err := newHold(repo, "/elsewhere/tmp_objdir-incoming-abc", "good") // only the name counts
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(quarantine); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is safe to repeat
		if err := h.keep(); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.drop(); err != nil {
		t.Fatal(err)
	}
	var got []string
	filepath.WalkDir(filepath.Join(repo, "objects"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, strings.TrimPrefix(path, repo+"/objects/"))
		}
		return err
	})
	if strings.Join(got, " ") != "ab/cd pack/p.idx pack/p.pack" {
		t.Errorf("kept %q", got)
	}
}
