package seal_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/seal"
)

func newKey(t testing.TB) *seal.Key {
	t.Helper()
	k, err := seal.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func place() seal.Place {
	return seal.Place{Node: "SHA256:node", Project: bulwark.NewProjectID(), App: bulwark.NewAppID(), Use: seal.UseConfig, Name: "TOKEN"}
}

// A value opens where it was sealed for, and nowhere else: a ciphertext that the control plane moves is worth nothing.
func TestPlace(t *testing.T) {
	k, at := newKey(t), place()
	sealed, err := seal.Value(k.Public(), at, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := k.Open(at, sealed); err != nil || string(v) != "secret" {
		t.Fatalf("%q, %v", v, err)
	}
	for name, f := range map[string]func(*seal.Place){
		"another node":    func(p *seal.Place) { p.Node = "SHA256:other" },
		"another project": func(p *seal.Place) { p.Project = bulwark.NewProjectID() },
		"another app":     func(p *seal.Place) { p.App = bulwark.NewAppID() },
		"another use":     func(p *seal.Place) { p.Use = seal.UseBuild },
		"to be revealed":  func(p *seal.Place) { p.Use = seal.UseReveal },
		"another name":    func(p *seal.Place) { p.Name = "TOKEN2" },
		"no name":         func(p *seal.Place) { p.Name = "" },
		// The parts are divided by their lengths, so that none can lend letters to the next.
		"a letter moved from use to name": func(p *seal.Place) { p.Use, p.Name = "confi", "gTOKEN" },
		"all in one part":                 func(p *seal.Place) { p.Name, p.Use = p.Name+bulwark.ConfigName(p.Use), "" },
	} {
		t.Run(name, func(t *testing.T) {
			other := at
			f(&other)
			if _, err := k.Open(other, sealed); bulwark.KindOf(err) != bulwark.KindForbidden || err == nil {
				t.Fatalf("it opened there: %v", err)
			}
		})
	}
	if _, err := newKey(t).Open(at, sealed); err == nil {
		t.Fatal("it opened with another project's key")
	}
}

// No byte of a ciphertext can be another.
func TestTampered(t *testing.T) {
	k, at := newKey(t), place()
	sealed, err := seal.Value(k.Public(), at, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := k.Open(at, bad); err == nil {
			t.Fatalf("it opened with byte %d of %d another", i, len(sealed))
		}
	}
	for _, bad := range [][]byte{nil, sealed[:1], sealed[:len(sealed)-1], append(bytes.Clone(sealed), 0), []byte("secret")} {
		if _, err := k.Open(at, bad); err == nil {
			t.Fatalf("%d of %d bytes opened", len(bad), len(sealed))
		}
	}
}

// The same value sealed twice does not look the same; an empty value is one too.
func TestFresh(t *testing.T) {
	k, at := newKey(t), place()
	a, err := seal.Value(k.Public(), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := seal.Value(k.Public(), at, nil)
	if err != nil || bytes.Equal(a, b) {
		t.Fatalf("two seals are the same: %v", err)
	}
	if v, err := k.Open(at, a); err != nil || len(v) != 0 {
		t.Fatalf("%q, %v", v, err)
	}
	if _, err := seal.Value([]byte("no key"), at, nil); err == nil {
		t.Fatal("sealed to a key that is none")
	}
}

// A kept key is the same key: it opens what was sealed and gives the same digests.
func TestKeptKey(t *testing.T) {
	k, at := newKey(t), place()
	sealed, err := seal.Value(k.Public(), at, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := again.Open(at, sealed); err != nil || string(v) != "secret" {
		t.Fatalf("%q, %v", v, err)
	}
	if again.ValueDigest("A", []byte("x")) != k.ValueDigest("A", []byte("x")) || !bytes.Equal(again.Public(), k.Public()) {
		t.Fatal("the key that was kept is another")
	}
	for _, bad := range [][]byte{nil, b[:len(b)-1], append(bytes.Clone(b), 0)} {
		if _, err := seal.ParseKey(bad); err == nil {
			t.Fatalf("%d of %d bytes are a key", len(bad), len(b))
		}
	}
}

// The key that takes another's place opens nothing of before, and what it seals the one before does not open; both give the
// same digests, also when they were kept in between.
func TestNext(t *testing.T) {
	k, at := newKey(t), place()
	before, err := seal.Value(k.Public(), at, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	last := k
	for range 3 {
		next, err := last.Next()
		if err != nil {
			t.Fatal(err)
		}
		b, err := next.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, seed) || len(b) == len(seed) {
			t.Errorf("%d bytes are kept of it", len(b))
		}
		if next, err = seal.ParseKey(b); err != nil {
			t.Fatal(err)
		}
		after, err := seal.Value(next.Public(), at, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := next.Open(at, before); err == nil {
			t.Error("it opens what was sealed to the key before")
		}
		if _, err := last.Open(at, after); err == nil {
			t.Error("the key before opens what is sealed to it")
		}
		if v, err := next.Open(at, after); err != nil || string(v) != "secret" {
			t.Errorf("%q, %v", v, err)
		}
		d := map[bulwark.ConfigName]bulwark.Digest{"A": k.ValueDigest("A", []byte("x"))}
		if next.ValueDigest("A", []byte("x")) != d["A"] || next.Revision(d) != k.Revision(d) {
			t.Error("the digests are others")
		}
		for _, bad := range [][]byte{b[:len(b)-1], append(bytes.Clone(b), 0)} {
			if _, err := seal.ParseKey(bad); err == nil {
				t.Errorf("%d of %d bytes are a key", len(bad), len(b))
			}
		}
		last = next
	}
}

// Digests tell values apart, by name too, say nothing without the key, and name a set whatever its order.
func TestDigests(t *testing.T) {
	k, other := newKey(t), newKey(t)
	seen := map[bulwark.Digest]string{}
	for _, c := range []struct{ name, value string }{{"A", "x"}, {"A", "y"}, {"B", "x"}, {"A", ""}, {"AX", ""}, {"", "Ax"}} {
		d := k.ValueDigest(bulwark.ConfigName(c.name), []byte(c.value))
		if was, twice := seen[d]; twice {
			t.Errorf("%q and %q have one digest", was, c.name+"="+c.value)
		}
		seen[d] = c.name + "=" + c.value
	}
	if k.ValueDigest("A", []byte("x")) == other.ValueDigest("A", []byte("x")) {
		t.Error("a digest can be had without the key")
	}
	a, b := k.ValueDigest("A", []byte("x")), k.ValueDigest("B", []byte("y"))
	sets := map[bulwark.Digest]bool{}
	for _, set := range []map[bulwark.ConfigName]bulwark.Digest{nil, {"A": a}, {"B": b}, {"A": a, "B": b}, {"A": b, "B": a}, {"AB": a}} {
		sets[k.Revision(set)] = true
	}
	if len(sets) != 6 {
		t.Errorf("six sets have %d names", len(sets))
	}
	if k.Revision(map[bulwark.ConfigName]bulwark.Digest{"A": a, "B": b}) != k.Revision(map[bulwark.ConfigName]bulwark.Digest{"B": b, "A": a}) {
		t.Error("one set has two names")
	}
	if sets[k.ValueDigest("A", []byte("x"))] {
		t.Error("a value has the digest of a set")
	}
}

// What an environment cannot hold is refused before it is kept.
func TestCheckValue(t *testing.T) {
	for name, c := range map[string]struct {
		value string
		want  bulwark.Kind
	}{
		"empty":            {"", ""},
		"several lines":    {"a\nb\r\n", ""},
		"the longest":      {strings.Repeat("x", seal.MaxValue), ""},
		"one more":         {strings.Repeat("x", seal.MaxValue+1), bulwark.KindTooLarge},
		"a NUL":            {"a\x00b", bulwark.KindInvalid},
		"a NUL at the end": {"a\x00", bulwark.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			err := seal.CheckValue("TOKEN", []byte(c.value))
			if c.want == "" && err != nil || c.want != "" && (err == nil || bulwark.KindOf(err) != c.want) {
				t.Fatal(err)
			}
			if err != nil && len(err.Error()) > 500 {
				t.Fatal("the refusal repeats the value")
			}
		})
	}
}

// Nothing opens but what was sealed.
func FuzzOpen(f *testing.F) {
	k := newKey(f)
	at := place()
	good, err := seal.Value(k.Public(), at, []byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := k.Open(at, b); err == nil && !(bytes.Equal(b, good) && string(v) == "secret") {
			t.Fatalf("%x opened as %q", b, v)
		}
	})
}
