package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func TestParseGitURL(t *testing.T) {
	for in, want := range map[string]gitAddress{
		"ssh://git@localhost:2222/shop.git": {"localhost", "2222", "shop"},
		"ssh://git@paas.example.org/shop":   {"paas.example.org", "", "shop"},
		"git@paas.example.org:shop.git":     {"paas.example.org", "", "shop"},
	} {
		if got, err := parseGitURL(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "shop", "https://example.org/shop.git", "ssh://git@h/", "ssh://git@h/a/b.git", "/srv/shop.git", "ext::sh -c x", "ssh:///shop.git"} {
		if a, err := parseGitURL(in); err == nil {
			t.Errorf("%q was read as %+v", in, a)
		}
	}
}

// A server that lies about the address of a repository must not get the node's host keys pinned for a stranger's host.
func TestTrustedGitURL(t *testing.T) {
	info := &statement.Info{Domain: "bulwark.localhost", Ports: statement.InfoPorts{SSH: 2222}}
	srv := server{URL: "https://paas.example.org:8443"}
	for address, ok := range map[string]bool{
		"ssh://git@paas.example.org:2222/shop.git":      true,
		"ssh://git@bulwark.localhost:2222/shop.git":     true,
		"ssh://git@git.bulwark.localhost:2222/shop.git": true,
		"ssh://git@localhost:2222/shop.git":             true,
		"ssh://git@github.com:2222/shop.git":            false,
		"ssh://git@evilbulwark.localhost:2222/shop.git": false,
		"ssh://git@paas.example.org:22/shop.git":        false,
		"ssh://git@paas.example.org/shop.git":           false,
		"ssh://git@paas.example.org:2222/other.git":     false,
		"git@paas.example.org:shop.git":                 false,
		"https://paas.example.org:2222/shop.git":        false,
		"ssh://-oProxyCommand=x:2222/shop.git":          false,
	} {
		if _, err := trustedGitURL(client.App{Name: "shop", GitURL: address}, srv, info); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

const (
	keyA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"
	keyB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJC"
)

func TestMergeHostKeys(t *testing.T) {
	const m = "[h]:2222"
	for name, c := range map[string]struct {
		old, want string
		added     int
	}{
		"empty":             {"", m + " " + keyA + "\n", 1},
		"no line end":       {"# mine", "# mine\n" + m + " " + keyA + "\n", 1},
		"there already":     {m + " " + keyA + "\n", m + " " + keyA + "\n", 0},
		"there, a comment":  {m + " " + keyA + " me\n", m + " " + keyA + " me\n", 0},
		"there twice":       {m + " " + keyA + "\n" + m + " " + keyA + "\n", m + " " + keyA + "\n", 0},
		"another key":       {m + " " + keyB + "\n", m + " " + keyA + "\n", 1},
		"another host's":    {"[g]:2222 " + keyB + "\n", "[g]:2222 " + keyB + "\n" + m + " " + keyA + "\n", 1},
		"revoked is kept":   {"@revoked " + m + " " + keyB + "\n", "@revoked " + m + " " + keyB + "\n" + m + " " + keyA + "\n", 1},
		"a list is no mark": {m + ",x " + keyB + "\n", m + ",x " + keyB + "\n" + m + " " + keyA + "\n", 1},
	} {
		got, added := mergeHostKeys(c.old, m, []string{m + " " + keyA})
		if got != c.want || added != c.added {
			t.Errorf("%s: %d\n%s\nwant %d\n%s", name, added, got, c.added, c.want)
		}
	}
}

func TestPinHostKeysKeepsALink(t *testing.T) {
	home, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "hosts")
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(elsewhere, []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(home, ".ssh", "known_hosts")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		if n, err := pinHostKeys(home, "h", "2222", []string{keyA + " comment"}); err != nil || n != want {
			t.Fatalf("%d, %v; want %d", n, err, want)
		}
	}
	b, err := os.ReadFile(elsewhere)
	if err != nil || string(b) != "# mine\n[h]:2222 "+keyA+"\n" {
		t.Fatalf("%q, %v", b, err)
	}
	if n, err := pinHostKeys(home, "h", "22", []string{keyA}); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if b, _ := os.ReadFile(elsewhere); !strings.Contains(string(b), "\nh ssh-ed25519 ") {
		t.Errorf("SSH's own port is written in brackets: %q", b)
	}
	if _, err := pinHostKeys(home, "h", "22", []string{"no key"}); err == nil {
		t.Error("a broken key was taken")
	}
}

func TestReadSSHKeyNeverTakesAPrivateOne(t *testing.T) {
	dir := t.TempDir()
	private := filepath.Join(dir, "id")
	if err := os.WriteFile(private, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSSHKey(private); err == nil || strings.Contains(err.Error(), "secret") {
		t.Fatalf("%v", err)
	}
	if err := os.WriteFile(private+".pub", []byte(keyA+" me@here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := readSSHKey(private)
	if err != nil || k.line != keyA || k.path != private+".pub" {
		t.Fatalf("%+v, %v", k, err)
	}
	if err := os.WriteFile(private+".pub", []byte("-----BEGIN OPENSSH PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSSHKey(private); err == nil {
		t.Error("a private key in a .pub file was taken")
	}
}
