package gitssh_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
)

// A signed push arrives with all that the node needs to verify it, and its certificate is one that ssh-keygen, which we
// did not write, verifies.
func TestSignedPush(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.gate.on(func(_ context.Context, _ gitssh.Push, w io.Writer) error {
		fmt.Fprintln(w, "-----> Building")
		return nil
	})
	head := r.head()
	out := r.mustPush("bulwark", "main")
	if !strings.Contains(out, "remote: -----> Building") {
		t.Errorf("no progress in\n%s", out)
	}
	if r.branch() != head {
		t.Errorf("the branch is %q, want %q", r.branch(), head)
	}
	got := r.gate.last()
	want := gitssh.Push{Session: got.Session, Person: r.person, From: "127.0.0.1", AppName: "shop", New: head, Ref: "refs/heads/main",
		Message: "First commit", Author: "Dev <dev@example.org>", Files: 1, TreeSize: 6, NonceStatus: "OK",
		NoncePath: string(r.app) + ".git", Certificate: got.Certificate}
	got.Pack = nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.NonceSeed != r.gate.seeds[0] || got.App != r.app {
		t.Errorf("session %+v", got.Session)
	}
	verify(t, r, got)
	r.verifyCertificate(got.Certificate)

	out = r.mustPush("bulwark", "main")
	if !strings.Contains(out, "Everything up-to-date") {
		t.Errorf("second push: %s", out)
	}
}

// verify checks the certificate's content and its nonce as the node does.
func verify(t *testing.T, r *rig, p gitssh.Push) {
	t.Helper()
	cert := string(p.Certificate)
	nonce := regexp.MustCompile(`(?m)^nonce (.+)$`).FindStringSubmatch(cert)
	if nonce == nil {
		t.Fatalf("no nonce in\n%s", cert)
	}
	if err := pushnonce.CheckNonce(nonce[1], p.NonceSeed, pushnonce.Path(p.App), time.Now(), time.Minute); err != nil {
		t.Errorf("nonce %s: %v", nonce[1], err)
	}
	for _, line := range []string{"pushee " + strings.Replace(r.url("shop"), "git@", "", 1), fmt.Sprintf("%040d %s refs/heads/main", 0, p.New)} {
		if !strings.Contains(cert, "\n"+line+"\n") {
			t.Errorf("no %q in\n%s", line, cert)
		}
	}
}

func (r *rig) verifyCertificate(cert []byte) {
	r.t.Helper()
	at := bytes.Index(cert, []byte("-----BEGIN SSH SIGNATURE-----"))
	if at < 0 {
		r.t.Fatalf("no signature in\n%s", cert)
	}
	sig, payload, signers := filepath.Join(r.dir, "sig"), filepath.Join(r.dir, "payload"), filepath.Join(r.dir, "signers")
	must(0, os.WriteFile(sig, cert[at:], 0o600))
	must(0, os.WriteFile(payload, cert[:at], 0o600))
	must(0, os.WriteFile(signers, append([]byte("dev "), must(os.ReadFile(filepath.Join(r.home, ".ssh", "id.pub")))...), 0o600))
	check := func(file string) (string, error) {
		in := must(os.Open(file))
		defer in.Close()
		return r.tryIn(in, "/usr/bin/ssh-keygen", "-Y", "verify", "-n", "git", "-f", signers, "-I", "dev", "-s", sig)
	}
	if out, err := check(payload); err != nil {
		r.t.Errorf("ssh-keygen does not verify the certificate: %s", out)
	}
	must(0, os.WriteFile(payload, append([]byte("x"), cert[:at]...), 0o600))
	if _, err := check(payload); err == nil {
		r.t.Error("ssh-keygen verifies anything")
	}
}

// The pack holds the commit, its trees and its blobs, and no history; it can be made during the deploy and after it.
func TestPack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	secret := r.commit("old/secret.txt", "gone\n", "A file that goes away")
	r.git("rm", "-q", "old/secret.txt")
	for i := range 20 {
		r.commit(fmt.Sprintf("dir/%d.txt", i%5), strings.Repeat(fmt.Sprintf("line %d\n", i), 200), "Change")
	}
	packs := make(chan []byte, 2)
	r.gate.on(func(ctx context.Context, p gitssh.Push, _ io.Writer) error {
		for range 2 {
			rc, err := p.Pack(ctx)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(rc)
			rc.Close()
			if err != nil {
				return err
			}
			packs <- b
		}
		return nil
	})
	r.mustPush("bulwark", "main")
	rc := must(r.srv.Pack(context.Background(), r.app, r.head()))
	defer rc.Close()
	for _, pack := range [][]byte{<-packs, <-packs, must(io.ReadAll(rc))} {
		r.checkPack(pack, 1+3-1+6) // commit, root, dir, five files and hello.txt
	}
	if out, err := r.try(r.env("id"), "/usr/bin/git", "-C", filepath.Join(r.dir, "empty0"), "cat-file", "-e", string(secret)); err == nil {
		t.Errorf("the pack has history %s", out)
	}
}

func (r *rig) checkPack(pack []byte, objects int) {
	r.t.Helper()
	dir := filepath.Join(r.dir, "empty0")
	os.RemoveAll(dir)
	r.git2(r.dir, "init", "-q", "--bare", dir)
	out, err := r.tryIn(bytes.NewReader(pack), "/usr/bin/git", "-C", dir, "index-pack", "--stdin", "--fsck-objects")
	if err != nil {
		r.t.Fatalf("index-pack: %v\n%s", err, out)
	}
	if n := len(strings.Split(r.git2(dir, "cat-file", "--batch-all-objects", "--batch-check"), "\n")); n != objects {
		r.t.Errorf("the pack has %d objects, want %d", n, objects)
	}
	work := filepath.Join(r.dir, "checkout0")
	os.RemoveAll(work)
	must(0, os.MkdirAll(work, 0o755))
	r.run("id", "/usr/bin/git", "--git-dir="+dir, "--work-tree="+work, "read-tree", string(r.head())+"^{tree}")
	r.run("id", "/usr/bin/git", "--git-dir="+dir, "--work-tree="+work, "checkout-index", "-a")
	if b, err := os.ReadFile(filepath.Join(work, "hello.txt")); string(b) != "hello\n" {
		r.t.Errorf("checkout: %q %v", b, err)
	}
}

// A pack of a commit that is not there ends with an error, and never as if it were whole.
func TestPackOfNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mustPush("bulwark", "main")
	rc := must(r.srv.Pack(context.Background(), r.app, bulwark.Commit(strings.Repeat("1", 40))))
	defer rc.Close()
	if b, err := io.ReadAll(rc); err == nil {
		t.Errorf("%d bytes and no error", len(b))
	}
}

func TestForcePushDeploys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mustPush("bulwark", "main")
	first := r.head()
	r.git("commit", "-q", "--amend", "-m", "Another history")
	r.refused([]string{"bulwark", "main"}, "non-fast-forward")
	r.mustPush("--force", "bulwark", "main")
	got := r.gate.last()
	if got.Old != first || got.New != r.head() || r.branch() != r.head() {
		t.Errorf("%s → %s, branch %s", got.Old, got.New, r.branch())
	}
	// Back to what is there already: nothing to send, and still a push.
	r.mustPush("--force", "bulwark", string(first)+":refs/heads/main")
	got = r.gate.last()
	if got.New != first || r.branch() != first {
		t.Errorf("back: %s, branch %s", got.New, r.branch())
	}
}

// A deploy that fails leaves nothing behind, and its cause stays on the server unless it is meant for users.
func TestFailedDeploy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.gate.on(func(context.Context, gitssh.Push, io.Writer) error { return errDeploy })
	out := r.refused([]string{"bulwark", "main"}, "remote:  !     Something went wrong inside Bulwark.", "pre-receive hook declined")
	if strings.Contains(out, "hunter2") {
		t.Errorf("the cause left the server:\n%s", out)
	}
	r.gate.on(func(context.Context, gitssh.Push, io.Writer) error {
		return bulwark.Fail(bulwark.KindFailed, "The build failed.", "Look at the lines above.", errDeploy)
	})
	r.refused([]string{"bulwark", "main"}, "remote:  !     The build failed.", "remote:  !     Look at the lines above.")
	r.stop()
	if r.branch() != "" {
		t.Errorf("the branch is %s", r.branch())
	}
	if out := r.git2(r.repo(), "count-objects", "-v"); !strings.Contains(out, "packs: 0") {
		t.Errorf("objects were left: %s", out)
	}
	if e, _ := os.ReadDir(filepath.Join(r.repo(), "bulwark-holds")); len(e) != 0 {
		t.Errorf("a hold was left: %v", e)
	}
}

// The client is killed in the middle of the deploy. The deploy goes on, its objects stay, and the branch moves.
func TestDropInMidDeploy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	entered, proceed, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	r.gate.on(func(ctx context.Context, p gitssh.Push, w io.Writer) error {
		fmt.Fprintln(w, "-----> Building")
		close(entered)
		<-proceed
		for range 1000 { // nobody reads this
			fmt.Fprintln(w, strings.Repeat("x", 100))
		}
		rc, err := p.Pack(ctx)
		if err == nil {
			_, err = io.Copy(io.Discard, rc)
			rc.Close()
		}
		done <- err
		return err
	})
	kill := r.start("/usr/bin/git", "-C", r.work, "push", "bulwark", "main")
	wait(t, entered, "the deploy")
	gone := r.log.next("connection ended")
	kill()
	wait(t, gone, "the server to see that the client is gone")
	settled := r.log.next("git: settled")
	close(proceed)
	if err := wait(t, done, "the deploy's end"); err != nil {
		t.Errorf("the deploy: %v", err)
	}
	wait(t, settled, "the push to be settled")
	if r.branch() != r.head() {
		t.Errorf("the branch is %q, want %q", r.branch(), r.head())
	}
	r.git2(r.repo(), "fsck", "--strict")
}
