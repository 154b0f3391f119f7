package gitssh_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
)

// never fails the test when a push reaches the gate.
func (r *rig) never() {
	r.gate.on(func(context.Context, gitssh.Push, io.Writer) error {
		r.t.Error("the push reached the gate")
		return nil
	})
}

// Every refusal is a sentence that says what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gitssh.Config) {
		c.MaxFiles, c.MaxTree, c.MaxPath = 50, 100_000, 300
	})
	r.mustPush("bulwark", "main")
	deployed := r.head()
	r.never()
	r.git("branch", "fix-1")
	r.git("branch", "x;reboot")
	r.git("tag", "v1")
	r.git("tag", "-a", "-m", "two", "v2")
	base := r.head()

	r.refused([]string{"bulwark", "fix-1"}, "remote:  !     Only the branch main of shop deploys, and this push was to another one.",
		"remote:  !     Deploy it with: git push bulwark fix-1:main")
	out := r.refused([]string{"bulwark", "x;reboot"}, "git push bulwark my-branch:main")
	if strings.Contains(out, "bulwark x;reboot:main") {
		t.Errorf("a command to copy that reboots:\n%s", out)
	}
	r.refused([]string{"bulwark", ":main"}, "remote:  !     The branch main of shop is what runs, so it cannot be deleted.")
	r.refused([]string{"bulwark", "v1"}, "remote:  !     Bulwark deploys branches and keeps no tags.", "git push --no-follow-tags bulwark main")
	r.refused([]string{"bulwark", "v2"}, "keeps no tags")
	r.commit("a", "a", "For several refs")
	r.refused([]string{"bulwark", "main", "fix-1"}, "remote:  !     One push deploys one branch, and this one carries 2 branches or tags.")
	r.refused([]string{"--follow-tags", "bulwark", "main"}, "carries 2 branches or tags", "git push --no-follow-tags bulwark main")
	r.refused([]string{"--no-signed", "bulwark", "main"}, "remote:  !     This push is not signed",
		"git config push.gpgSign if-asked", "git config gpg.format ssh", "git config user.signingKey ~/.ssh/id_ed25519.pub",
		"bulwark git setup", "bulwark apps create")

	reset := func() { r.git("reset", "-q", "--hard", string(base)) }
	reset()
	for i := range 51 {
		must(0, os.WriteFile(filepath.Join(r.work, fmt.Sprintf("f%d", i)), []byte{byte(i)}, 0o600))
	}
	r.git("add", ".")
	r.git("commit", "-q", "-m", "Many files")
	r.refused([]string{"bulwark", "main"}, "remote:  !     The commit has more than 50 files.", ".gitignore")
	reset()
	r.commit("big", strings.Repeat("0123456789", 10_001), "A big file")
	r.refused([]string{"bulwark", "main"}, "remote:  !     The files of the commit are more than 98 KiB.")
	reset()
	r.commit(strings.Repeat("deep/", 60)+"file", "x", "A long path")
	r.refused([]string{"bulwark", "main"}, "path is longer than 300 bytes")
	reset()
	r.git("update-index", "--add", "--cacheinfo", "160000,"+string(base)+",vendor/lib")
	r.git("commit", "-q", "-m", "A submodule")
	r.refused([]string{"bulwark", "main"}, `remote:  !     The commit has a submodule at "vendor/lib"`, "remove the submodule")
	reset()
	r.bomb()
	r.refused([]string{"bulwark", "main"}, "The commit has more than 50 files.")
	reset()
	if r.branch() != deployed {
		t.Errorf("the branch is %s", r.branch())
	}
	r.stop()
	if e, _ := os.ReadDir(filepath.Join(r.repo(), "bulwark-holds")); len(e) != 0 {
		t.Errorf("holds were left: %v", e)
	}
}

// bomb commits a tree of 10^10 files in eleven objects.
func (r *rig) bomb() {
	r.t.Helper()
	id := r.git("hash-object", "-w", "hello.txt")
	kind, mode := "blob", "100644"
	for range 10 {
		var b strings.Builder
		for i := range 10 {
			fmt.Fprintf(&b, "%s %s %s\tf%d\n", mode, kind, id, i)
		}
		out, err := r.tryIn(strings.NewReader(b.String()), "/usr/bin/git", "-C", r.work, "mktree")
		if err != nil {
			r.t.Fatal(out)
		}
		id, kind, mode = strings.TrimSpace(out), "tree", "040000"
	}
	r.git("update-ref", "HEAD", r.git("commit-tree", "-m", "A bomb", "-p", "HEAD", id))
}

// What git refuses by itself comes with a sentence of ours.
func TestTooLargePack(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gitssh.Config) { c.MaxPack = 300_000 })
	r.never()
	noise := make([]byte, 3_000_000)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	r.commit("noise", string(noise), "Does not compress")
	r.refused([]string{"bulwark", "main"}, " !     The push is larger than 293 KiB.")
}

func TestShallowClone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.never()
	r.commit("a", "a", "Second")
	dir := filepath.Join(r.dir, "shallow")
	r.git2(r.dir, "clone", "-q", "--depth=1", "file://"+r.work, dir)
	for _, kv := range []string{"push.gpgSign=if-asked", "gpg.format=ssh", "user.signingKey=" + filepath.Join(r.home, ".ssh", "id.pub")} {
		k, v, _ := strings.Cut(kv, "=")
		r.git2(dir, "config", k, v)
	}
	out, err := r.try(r.env("id"), "/usr/bin/git", "-C", dir, "push", r.url("shop"), "main")
	if err == nil || !strings.Contains(out, "git fetch --unshallow") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A repository that holds a bad object is refused by git's own check, before the hook is asked.
func TestBadObject(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.never()
	id := r.git("hash-object", "-w", "hello.txt")
	out, err := r.tryIn(strings.NewReader("100644 blob "+id+"\tok\n"), "/usr/bin/git", "-C", r.work, "mktree")
	if err != nil {
		t.Fatal(out)
	}
	sub := strings.TrimSpace(out)
	tree := string(must(hexBytes(sub)))
	out, err = r.tryIn(strings.NewReader("40000 .git\x00"+tree), "/usr/bin/git", "-C", r.work, "hash-object", "-t", "tree", "-w", "--literally", "--stdin")
	if err != nil {
		t.Fatal(out)
	}
	commit := r.git("commit-tree", "-m", "Evil", strings.TrimSpace(out))
	r.refused([]string{"bulwark", commit + ":refs/heads/main"}, "hasDotgit", " !     Git could not take this push")
}

func TestNotACommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.never()
	r.git("tag", "-a", "-m", "x", "v1")
	blob := r.git("rev-parse", "HEAD:hello.txt")
	tag := r.git("rev-parse", "v1")
	// Git's own push refuses these; a client of one's own need not.
	for _, id := range []string{blob, tag} {
		out, err := r.push("bulwark", id+":refs/heads/main")
		if err == nil {
			t.Errorf("taken:\n%s", out)
		}
	}
}

// A full repository takes no more until it was tidied.
func TestFullRepository(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gitssh.Config) { c.MaxRepo = 100 })
	r.mustPush("bulwark", "main")
	r.commit("a", "a", "More")
	r.refused([]string{"bulwark", "main"}, " !     The repository of shop holds")
	if err := r.srv.Tidy(context.Background(), r.app); err != nil {
		t.Error(err)
	}
}

// Tidying makes one pack of many and harms nothing.
func TestTidy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 3 {
		r.commit("a", fmt.Sprint(i), "Change")
		r.mustPush("bulwark", "main")
	}
	if err := r.srv.Tidy(context.Background(), r.app); err != nil {
		t.Fatal(err)
	}
	if out := r.git2(r.repo(), "count-objects", "-v"); !strings.Contains(out, "packs: 1\n") {
		t.Error(out)
	}
	r.commit("a", "after", "After")
	r.mustPush("bulwark", "main")
	r.git2(r.repo(), "fsck", "--strict")
}

// A certificate whose signature would have git start gpg on a client's bytes ends as any other: the gate gets it,
// and no program was started.
func TestForeignSignature(t *testing.T) {
	t.Parallel()
	for _, begin := range []string{"-----BEGIN PGP SIGNATURE-----", "-----BEGIN SIGNED MESSAGE-----"} {
		r := newRig(t)
		fake := filepath.Join(r.dir, "fake-gpg")
		end := strings.Replace(begin, "BEGIN", "END", 1)
		must(0, os.WriteFile(fake, []byte("#!/bin/sh\ncat >/dev/null\nprintf '\\n[GNUPG:] SIG_CREATED \\n' >&2\nprintf '%s\\n\\nabc\\n%s\\n' '"+begin+"' '"+end+"'\n"), 0o700))
		format := "openpgp"
		if strings.Contains(begin, "SIGNED") {
			format = "x509"
		}
		r.git("config", "gpg.format", format)
		r.git("config", "gpg."+format+".program", fake)
		r.git("config", "user.signingKey", "me")
		r.mustPush("bulwark", "main")
		if cert := r.gate.last().Certificate; !strings.Contains(string(cert), begin) {
			t.Errorf("certificate:\n%s", cert)
		}
	}
}
