package witness

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
)

// A checkpoint as the node signs it, and the keys of the log and of one that is another's.
func rig(t *testing.T) (checkpoint []byte, log, foreign string, other []byte) {
	t.Helper()
	sign := func(name string) ([]byte, string) {
		secret, public, err := note.GenerateKey(rand.Reader, name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := note.NewSigner(secret)
		if err != nil {
			t.Fatal(err)
		}
		b, err := note.Sign(&note.Note{Text: "bulwark.dev/audit/x\n7\nE99jxuw4n3Mt/+Vx1q4BVPCVbgF8eKQmLH3/TbVPGjA=\n"}, s)
		if err != nil {
			t.Fatal(err)
		}
		return b, public
	}
	checkpoint, log = sign("bulwark.dev/audit/x")
	other, foreign = sign("bulwark.dev/audit/x")
	return checkpoint, log, foreign, other
}

func TestWitness(t *testing.T) {
	checkpoint, log, foreign, other := rig(t)
	key, err := Generate("witness.example.org")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(checkpoint, log, key)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := Open(signed, log, key.Public)
	if err != nil || seen.Size != 7 || time.Since(seen.At) > time.Minute || time.Since(seen.At) < -time.Minute {
		t.Fatal(seen, err)
	}
	// The node's own signature still holds, for who knows no witness.
	if _, err := open(signed, log); err != nil {
		t.Error(err)
	}
	// A witness's signature replaces that witness's own, and brings along nobody else's.
	again, err := Sign(signed, log, key)
	if err != nil || strings.Count(string(again), "\n— ") != 2 {
		t.Errorf("%s %v", again, err)
	}
	second, err := Generate("witness.example.org")
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() error{
		"a checkpoint that another key signed":         func() error { _, err := Sign(other, log, key); return err },
		"a checkpoint without the witness's signature": func() error { _, err := Open(checkpoint, log, key.Public); return err },
		"another witness of the same name":             func() error { _, err := Open(signed, log, second.Public); return err },
		"the log of another node":                      func() error { _, err := Open(signed, foreign, key.Public); return err },
		"a size that was changed": func() error {
			_, err := Open([]byte(strings.Replace(string(signed), "\n7\n", "\n8\n", 1)), log, key.Public)
			return err
		},
		"the witness's signature without the node's": func() error {
			lines := strings.SplitAfter(string(signed), "\n")
			_, err := Open([]byte(strings.Join(append(lines[:4:4], lines[5:]...), "")), log, key.Public)
			return err
		},
		"something huge": func() error { _, err := Open(make([]byte, maxNote+1), log, key.Public); return err },
	} {
		if err := f(); bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\n", strings.Repeat("a", maxName+1)} {
		if _, err := Generate(name); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%q is a name: %v", name, err)
		}
	}
	for _, public := range []string{"", "x", key.Secret, strings.Replace(key.Public, "+", "-", 1)} {
		if _, err := Name(public); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%q is a key: %v", public, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	key, err := Generate("w")
	if err != nil {
		f.Fatal(err)
	}
	_, log, err := note.GenerateKey(rand.Reader, "bulwark.dev/audit/x")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("bulwark.dev/audit/x\n7\nAAAA\n\n— w AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Open(b, log, key.Public); err == nil {
			t.Fatalf("nobody signed %q", b)
		}
	})
}
