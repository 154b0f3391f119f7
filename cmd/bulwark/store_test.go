package main

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func testEnv(t *testing.T) *env {
	t.Helper()
	vars := map[string]string{}
	return &env{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, home: t.TempDir(), cwd: t.TempDir(),
		getenv: func(name string) string { return vars[name] }}
}

func testServer(url string) server {
	k := statement.NewKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)).Public().(ed25519.PublicKey))
	return server{URL: url, CA: "pem", Node: k.Fingerprint, Key: k.PKIX(), Domain: "bulwark.localhost", Device: deviceFile}
}

func TestStoreKeeps(t *testing.T) {
	e := testEnv(t)
	st, err := openStore(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.choose(""); bulwark.KindOf(err) != bulwark.KindUnauthorized {
		t.Fatalf("an empty store: %v", err)
	}
	st.put(testServer("https://a:1"))
	st.put(testServer("https://b:1"))
	if err := st.save(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{st.dir: 0o700, filepath.Join(st.dir, configFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, info.Mode().Perm(), want, err)
		}
	}
	if st, err = openStore(e); err != nil {
		t.Fatal(err)
	}
	if s, err := st.choose(""); err != nil || s.URL != "https://b:1" {
		t.Fatalf("the default is %s, %v", s.URL, err)
	}
	if s, err := st.choose("A:1"); err != nil || s.URL != "https://a:1" {
		t.Fatalf("the one by address is %s, %v", s.URL, err)
	}
	st.remove("https://b:1")
	if s, err := st.choose(""); err != nil || s.URL != "https://a:1" {
		t.Fatalf("after the default was removed: %s, %v", s.URL, err)
	}
}

func TestStoreRefusesTampered(t *testing.T) {
	for name, change := range map[string]func(*server){
		"another key":        func(s *server) { s.Key = statement.NewKey(make([]byte, 32)).PKIX() },
		"no key":             func(s *server) { s.Key = nil },
		"a path as the file": func(s *server) { s.Device = "../device.key" },
	} {
		e := testEnv(t)
		st, err := openStore(e)
		if err != nil {
			t.Fatal(err)
		}
		srv := testServer("https://a:1")
		change(&srv)
		st.put(srv)
		if err := st.save(); err != nil {
			t.Fatal(err)
		}
		if _, err := openStore(e); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

func TestDeviceKey(t *testing.T) {
	st, err := openStore(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	name, key, err := st.newKey()
	if err != nil || name != deviceFile {
		t.Fatalf("%s, %v", name, err)
	}
	path := filepath.Join(st.dir, name)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	got, err := st.readKey(name)
	if err != nil || !got.Equal(key) {
		t.Fatalf("it came back as another: %v", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := st.readKey(name); bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("a key of mode %v was read: %v", mode, err)
		}
	}
	second, _, err := st.newKey()
	if err != nil || second == name {
		t.Fatalf("a second key took the first one's place: %s, %v", second, err)
	}
	if err := os.Symlink(path, filepath.Join(st.dir, "link.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := st.readKey("link.key"); err == nil {
		t.Error("a link was followed")
	}
	if _, err := st.readKey("none.key"); bulwark.KindOf(err) != bulwark.KindUnauthorized {
		t.Errorf("a missing key: %v", err)
	}
}

func TestDropKeyKeepsWhatIsUsed(t *testing.T) {
	st, err := openStore(testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := st.newKey(); err != nil {
		t.Fatal(err)
	}
	st.put(testServer("https://a:1"))
	if dropped, err := st.dropKey(deviceFile); dropped || err != nil {
		t.Fatalf("a key in use: %v, %v", dropped, err)
	}
	st.remove("https://a:1")
	if dropped, err := st.dropKey(deviceFile); !dropped || err != nil {
		t.Fatalf("a key out of use: %v, %v", dropped, err)
	}
}

func TestServerURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://localhost:8443": "https://localhost:8443", "https://Localhost:8443/": "https://localhost:8443", "paas.example.org": "https://paas.example.org",
		"http://localhost": "", "": "", "https://": "", "https://u:p@h": "", "https://h/x": "", "https://h?x=1": "", "ftp://h": "", "https://h#x": "",
	} {
		if got, err := serverURL(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}
