package pushnonce_test

import (
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
)

// Made with: printf 0123456789abcdef | openssl dgst -sha1 -hmac app_x.git:1790000000 (git 2.39 agrees, see gitssh's tests)
const vector = "1790000000-ef7e726700a918ef168faedffa31f45d2eb77b17"

var at = time.Unix(1790000000, 0)

func TestVector(t *testing.T) {
	if got := pushnonce.Make("0123456789abcdef", "app_x.git", at); got != vector {
		t.Fatalf("Make = %s, want %s", got, vector)
	}
}

func TestCheckNonce(t *testing.T) {
	const seed, path, slop = "0123456789abcdef", "app_x.git", time.Minute
	long := strings.Repeat("k", 100) // longer than the hash's block
	for _, c := range []struct {
		name, nonce, seed, path string
		now                     time.Time
		ok                      bool
	}{
		{"as made", vector, seed, path, at, true},
		{"a long seed", pushnonce.Make(long, path, at), long, path, at, true},
		{"a long path", pushnonce.Make(seed, long, at), seed, long, at, true},
		{"at the edge", vector, seed, path, at.Add(slop), true},
		{"a clock that is behind", vector, seed, path, at.Add(-slop), true},
		{"too old", vector, seed, path, at.Add(slop + time.Second), false},
		{"from the future", vector, seed, path, at.Add(-slop - time.Second), false},
		{"another seed", vector, "another seed 123", path, at, false},
		{"no seed", pushnonce.Make("", path, at), "", path, at, false},
		{"another app", vector, seed, "app_y.git", at, false},
		{"another stamp", "1790000001" + vector[10:], seed, path, at, false},
		{"upper case", strings.ToUpper(vector), seed, path, at, false},
		{"cut", vector[:len(vector)-1], seed, path, at, false},
		{"with more", vector + "0", seed, path, at, false},
		{"leading zero", "0" + vector, seed, path, at, false},
		{"sign", "+" + vector, seed, path, at, false},
		{"huge", "9999999999999-" + vector[11:], seed, path, at, false},
		{"empty", "", seed, path, at, false},
		{"dash", "-", seed, path, at, false},
	} {
		err := pushnonce.CheckNonce(c.nonce, c.seed, c.path, c.now, slop)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("%s: kind %s", c.name, bulwark.KindOf(err))
		}
	}
}

func FuzzCheckNonce(f *testing.F) {
	f.Add(vector)
	f.Add("1-")
	f.Fuzz(func(t *testing.T, nonce string) {
		if pushnonce.CheckNonce(nonce, "0123456789abcdef", "app_x.git", at, time.Minute) != nil {
			return
		}
		for d := -60; d <= 60; d++ {
			if nonce == pushnonce.Make("0123456789abcdef", "app_x.git", at.Add(time.Duration(d)*time.Second)) {
				return
			}
		}
		t.Fatalf("%q passed and was not made from the seed", nonce)
	})
}
