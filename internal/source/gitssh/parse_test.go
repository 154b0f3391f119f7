package gitssh

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
)

func TestParseCommand(t *testing.T) {
	for line, want := range map[string]command{
		"git-receive-pack '/shop.git'":  {verbReceive, "shop"},
		"git receive-pack '/shop.git'":  {verbReceive, "shop"},
		"git-receive-pack 'shop.git'":   {verbReceive, "shop"},
		"git-receive-pack '/my-app-2'":  {verbReceive, "my-app-2"},
		"git-upload-pack '/shop.git'":   {verbUpload, "shop"},
		"git upload-pack 'shop'":        {verbUpload, "shop"},
		"git-upload-pack '/x.git'":      {verbUpload, "x"},
		"git-receive-pack '//shop.git'": {}, "git-receive-pack '/shop.git/'": {}, "git-receive-pack '/shop.git.git'": {},
		"git-receive-pack '/a'\\''b.git'": {}, "git-receive-pack '": {}, "git-receive-pack ''": {}, "git-receive-pack '/'": {},
		"git-receive-pack \"/shop.git\"": {}, "git-receive-pack /shop.git": {}, "git-receive-pack\t'/shop.git'": {},
		"git-receive-pack '/shop.git' ": {}, "git-receive-pack '~/shop.git'": {}, "git-receive-pack '-x'": {},
		"git-receive-pack '/api.git'": {}, " git-receive-pack '/shop.git'": {}, "GIT-RECEIVE-PACK '/shop.git'": {},
	} {
		got, err := parseCommand(line)
		if got != want || (err == nil) != (want != command{}) {
			t.Errorf("%q: %+v %v", line, got, err)
		}
		if err != nil && bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%q: kind %s", line, bulwark.KindOf(err))
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"git-receive-pack '/shop.git'", "git upload-pack 'shop'", "git-receive-pack '/a'\\''b.git'", "sh -c 'id'", "git-receive-pack ''"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parseCommand(line)
		if err != nil {
			if c != (command{}) {
				t.Fatalf("%q: %+v beside an error", line, c)
			}
			return
		}
		if _, err := bulwark.ParseAppName(string(c.app)); err != nil {
			t.Fatalf("%q: app %q", line, c.app)
		}
		// Only a handful of spellings of each command is taken.
		for _, form := range []string{"git-%s '/%s.git'", "git-%s '/%s'", "git-%s '%s.git'", "git-%s '%s'",
			"git %s '/%s.git'", "git %s '/%s'", "git %s '%s.git'", "git %s '%s'"} {
			if line == fmt.Sprintf(form, c.verb, c.app) {
				return
			}
		}
		t.Fatalf("%q was taken for %+v", line, c)
	})
}

func FuzzCleanLines(f *testing.F) {
	for _, s := range []string{"a\r\nb\rc", "\x1b[31mred\x1b[0m", "\x1b]0;t\x07", "\x1b[", "\x9b31m", "é\xff", "\u202eabc", strings.Repeat("x", 5000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out := cleanLines(b)
		if !utf8.Valid(out) || len(out) > 0 && out[len(out)-1] != '\n' {
			t.Fatalf("%q became %q", b, out)
		}
		for line := range bytes.Lines(out) {
			if len(line) > maxLine+32 {
				t.Fatalf("a line of %d bytes", len(line))
			}
		}
		rest := string(out)
		for {
			i := strings.IndexByte(rest, 0x1b)
			if i < 0 {
				break
			}
			n := colour([]byte(rest[i:]))
			if n == 0 || strings.Trim(rest[i+2:i+n-1], "0123456789;") != "" {
				t.Fatalf("%q kept an escape: %q", b, out)
			}
			rest = rest[i+n:]
		}
		if strings.ContainsFunc(string(out), func(r rune) bool {
			return r < 0x20 && r != '\n' && r != '\t' && r != 0x1b || r >= 0x7f && r < 0xa0 || r == 0x202e
		}) {
			t.Fatalf("%q kept a control character: %q", b, out)
		}
		if again := cleanLines(out); !bytes.Equal(again, out) {
			t.Fatalf("%q, again %q", out, again)
		}
	})
}

func FuzzCountTree(f *testing.F) {
	id := strings.Repeat("0", 40)
	f.Add([]byte("100644 blob " + id + "       6\thello.txt\x00120000 blob " + id + "       1\ta\tb\x00"))
	f.Add([]byte("160000 commit " + id + "       -\tsub\x00"))
	f.Add([]byte("100644 blob " + id + " -5\tx\x00"))
	cfg := &Config{MaxFiles: 3, MaxTree: 1000, MaxPath: 40}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := cfg.countTree(bytes.NewReader(b))
		if err == nil && (info.files > 3 || info.bytes > 1000 || info.bytes < 0 || info.files != bytes.Count(b, []byte{0})) {
			t.Fatalf("%q: %+v", b, info)
		}
	})
}

func FuzzParseCommitInfo(f *testing.F) {
	f.Add([]byte("tree x\nauthor A B <a@b> 1 +0000\ncommitter C <c> 2 +0000\n\nSubject\n\nBody"))
	f.Add([]byte("author \x1b[2J\n\n\n\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := parseCommitInfo(b)
		for _, s := range []string{c.subject, c.author} {
			if !utf8.ValidString(s) || utf8.RuneCountInString(s) > 200 || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
				t.Fatalf("%q: %q", b, s)
			}
		}
	})
}

func FuzzParseUpdate(f *testing.F) {
	one := strings.Repeat("1", 40)
	f.Add(string(zero) + " " + one + " refs/heads/main")
	f.Add(one + " " + string(zero) + " refs/heads/main")
	f.Add(one + " " + one + " refs/tags/main")
	f.Fuzz(func(t *testing.T, line string) {
		u, err := parseUpdate([]string{line}, "shop", "main")
		if err == nil && (u.ref != "refs/heads/main" || len(u.new) != 40 || u.new == zero || u.old == zero) {
			t.Fatalf("%q: %+v", line, u)
		}
	})
}

func TestPlainBranch(t *testing.T) {
	for name, want := range map[string]bool{
		"main": true, "release/1.x": true, "a-b_c.d": true, "": false, "-x": false, "a/-x": false, ".a": false, "a/.b": false,
		"a..b": false, "a.lock": false, "a.lock/b": false, "a.": false, "a//b": false, "/a": false, "a/": false, "x;y": false,
		"a b": false, "é": false, "a@{0}": false, strings.Repeat("a", 101): false, "HEAD": true,
	} {
		if plainBranch(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}

func TestAddressKey(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:22": "192.0.2.1", "[::ffff:192.0.2.1]:22": "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:22": "2001:db8:1:2::/64", "[fe80::1%eth0]:22": "fe80::/64",
	} {
		if got := addressKey(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter[string](3, 2)
	a, b := l.enter("x"), l.enter("x")
	if a == nil || b == nil || l.enter("x") != nil {
		t.Fatal("per key")
	}
	c := l.enter("y")
	if c == nil || l.enter("z") != nil {
		t.Fatal("in all")
	}
	a()
	a() // again: nothing
	if d := l.enter("z"); d == nil || l.enter("z") != nil {
		t.Fatal("a place given back once")
	}
	b()
	if len(l.by) != 2 {
		t.Errorf("left: %v", l.by)
	}
}
