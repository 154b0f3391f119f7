package ledger_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// tryOpen opens a book's ledger, which may fail.
func tryOpen(k *kept) error {
	l, err := ledger.Open(k.ctx(), ledger.Config{Path: k.path, Key: k.node, Keys: projectkeys.Open(k.dir, k.spare.Recipient()), Domain: "apps.example.org"})
	if err == nil {
		l.Close()
	}
	return err
}

// kill -9 at each step leaves what a node that is started again completes or takes back.
func TestRotateCutOff(t *testing.T) {
	p := bulwark.FirstProject
	for _, c := range []struct {
		name    string
		step    func(t *testing.T, k *kept)
		version uint64
	}{
		{"before anything", func(*testing.T, *kept) {}, 1},
		{"while the copy is written", func(t *testing.T, k *kept) {
			ok(t, os.WriteFile(filepath.Join(k.dir, ".tmp-"+string(p)+".2.key.age-123"), []byte("half"), 0o600))
		}, 1},
		{"when the copy is there", func(t *testing.T, k *kept) {
			_, err := k.keys.Make(p, 2, k.private())
			ok(t, err)
			ok(t, os.Remove(filepath.Join(k.dir, string(p)+".2.key")))
		}, 1},
		{"while the key is written", func(t *testing.T, k *kept) {
			_, err := k.keys.Make(p, 2, k.private())
			ok(t, err)
			ok(t, os.Rename(filepath.Join(k.dir, string(p)+".2.key"), filepath.Join(k.dir, ".tmp-"+string(p)+".2.key-9")))
		}, 1},
		{"when the key is there", func(t *testing.T, k *kept) {
			_, err := k.keys.Make(p, 2, k.private())
			ok(t, err)
		}, 1},
		{"when it counts", func(t *testing.T, k *kept) {
			k.must(k.ana, statement.KindProjectRotate, "", rotation())
			k.hasFiles("P.2.key", "P.2.key.age", "P.key", "P.key.age")
		}, 2},
		{"when the old one is written over", func(t *testing.T, k *kept) {
			k.must(k.ana, statement.KindProjectRotate, "", rotation())
			ok(t, os.WriteFile(filepath.Join(k.dir, string(p)+".key"), make([]byte, 32), 0o600))
		}, 2},
		{"when the old one is gone", func(t *testing.T, k *kept) {
			k.must(k.ana, statement.KindProjectRotate, "", rotation())
			ok(t, os.Remove(filepath.Join(k.dir, string(p)+".key")))
		}, 2},
		{"when all is done", func(t *testing.T, k *kept) { k.rotates() }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := keep(t)
			c.step(t, k)
			// Before it looks around, too: what serves must not wait for it.
			ok(t, k.Close())
			reopen(t, k.book, k.path)
			k.opens()
			ok(t, k.Settle(k.ctx()))
			if v := k.key().Version; v != c.version {
				t.Fatalf("version %d counts", v)
			}
			k.hasFiles(map[uint64][]string{1: {"P.key", "P.key.age"}, 2: {"P.2.key", "P.2.key.age"}}[c.version]...)
			k.opens()
			k.rotates()
			k.opens()
		})
	}
}

// TestRotateKilled kills a process that does nothing but rotate, again and again.
func TestRotateKilled(t *testing.T) {
	k := keep(t)
	ok(t, k.Close())
	for i := range 15 {
		self, err := os.Executable()
		ok(t, err)
		cmd := exec.Command(self, "-test.run=^TestRotateForever$")
		cmd.Env = append(os.Environ(), "ROTATE_DIR="+k.dir, "ROTATE_LEDGER="+k.path, "ROTATE_KEY="+base64.StdEncoding.EncodeToString(k.node.Seed()))
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		_, err = io.ReadFull(out, make([]byte, 1)) // it has begun
		ok(t, err)
		time.Sleep(time.Duration(i*7) * time.Millisecond)
		ok(t, cmd.Process.Kill())
		_ = cmd.Wait()
		reopen(t, k.book, k.path)
		k.opens()
		ok(t, k.Settle(k.ctx()))
		if n := len(k.files()); n != 2 {
			t.Fatalf("there is %q", k.files())
		}
		k.opens()
		ok(t, k.Close())
	}
	reopen(t, k.book, k.path)
	t.Logf("version %d", k.key().Version)
	if k.key().Version < 2 {
		t.Errorf("only version %d was made", k.key().Version)
	}
}

// TestRotateForever is the process that TestRotateKilled kills.
func TestRotateForever(t *testing.T) {
	dir := os.Getenv("ROTATE_DIR")
	if dir == "" {
		return // it tests nothing by itself
	}
	seed, err := base64.StdEncoding.DecodeString(os.Getenv("ROTATE_KEY"))
	ok(t, err)
	spare, err := age.GenerateHybridIdentity()
	ok(t, err)
	l, err := ledger.Open(context.Background(), ledger.Config{Path: os.Getenv("ROTATE_LEDGER"), Key: ed25519.NewKeyFromSeed(seed),
		Keys: projectkeys.Open(dir, spare.Recipient()), Domain: "apps.example.org"})
	ok(t, err)
	_, err = os.Stdout.WriteString("!")
	ok(t, err)
	for {
		_, err := l.RotateDue(context.Background(), 0)
		ok(t, err)
		ok(t, l.Settle(context.Background()))
	}
}
