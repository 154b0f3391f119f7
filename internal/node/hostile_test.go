package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/process"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func isKind(t *testing.T, err error, want bulwark.Kind) {
	t.Helper()
	if err == nil || bulwark.KindOf(err) != want {
		t.Fatalf("%v, want %s", err, want)
	}
}

// A builder prints what it likes. What is not an event is passed over, control characters stay inside, the log and each
// line are bounded, and the last word counts.
func TestReadEvents(t *testing.T) {
	image := bulwark.Sum([]byte("image"))
	result := fmt.Sprintf(`{"result":{"image":%q,"plan":{"planner":"go","processes":{}}}}`, image)
	for name, c := range map[string]struct {
		out    string
		events int
		image  bulwark.Digest
		fails  bool
	}{
		"nothing":                         {"", 0, "", false},
		"a build":                         {`{"stage":"detect"}` + "\n" + `{"log":"hello"}` + "\n" + result + "\n", 3, image, false},
		"without a line end":              {result, 1, image, false},
		"what is no event":                {"garbage\n[]\n\n\"x\"\n{\"log\":1}\n" + result, 1, image, false},
		"an image that is none":           {`{"result":{"image":"sha256:../../etc"}}`, 0, "", false},
		"a process of a name that climbs": {`{"result":{"image":"` + string(image) + `","plan":{"processes":{"../web":{"argv":["x"]}}}}}`, 0, "", false},
		"a failure":                       {`{"error":{"kind":"failed","message":"It did not compile."}}`, 0, "", true},
		"a failure after a result":        {result + "\n" + `{"error":{"kind":"failed","message":"no"}}`, 1, image, true},
		"a line without end":              {strings.Repeat("x", 2<<20), 0, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &buildRun{}
			got, err := readEvents(strings.NewReader(c.out), r, make(chan *bulwark.BuildResult, 1))
			if (err != nil) != c.fails || len(r.events) != c.events || (got == nil) != (c.image == "") || got != nil && got.Image != c.image {
				t.Fatalf("%+v, %v, %d events", got, err, len(r.events))
			}
		})
	}
}

// A builder that prints for ever fills no memory of the node's.
func TestReadEventsIsBounded(t *testing.T) {
	line := `{"log":"` + strings.Repeat("x", 1000) + `"}` + "\n"
	r := &buildRun{}
	if _, err := readEvents(strings.NewReader(strings.Repeat(line, 20_000)), r, make(chan *bulwark.BuildResult, 1)); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, e := range r.events {
		kept += len(e.Log)
	}
	if kept > 13<<20 || !strings.Contains(r.events[len(r.events)-1].Log, "cut") {
		t.Fatalf("%d bytes are kept, the last line is %.40q", kept, r.events[len(r.events)-1].Log)
	}
}

// No line of an app or a builder drives the terminal of who reads it.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext":              "plain\ttext",
		"\x1b[2J\x1b]0;title\x07":  "[2J]0;title",
		"a\rb\nc\x00d\x7f":         "abcd",
		"\u009b31mred":             "31mred",
		"Grüße, 世界 🙂":              "Grüße, 世界 🙂",
		string([]byte{0xff, 'a'}):  "\ufffda",
		strings.Repeat("\x08", 10): "",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// What is kept of a program's error output has an end, and the program is never told so.
func TestLimited(t *testing.T) {
	l := &limited{n: 10}
	for range 5 {
		if n, err := l.Write([]byte("1234")); n != 4 || err != nil {
			t.Fatal(n, err)
		}
	}
	if l.String() != "1234123412" {
		t.Fatalf("%q", l.String())
	}
}

// A verb's message is one JSON value of what the verb knows, of a bounded size.
func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want bulwark.Kind
	}{
		"as it should be":    {`{"grace":"1s"}`, ""},
		"nothing":            {``, bulwark.KindInvalid},
		"more than is known": {`{"grace":"1s","signal":9}`, bulwark.KindInvalid},
		"two values":         {`{"grace":"1s"}{}`, bulwark.KindInvalid},
		"an id that climbs":  {`{"instance":"../../ledger"}`, bulwark.KindInvalid},
		"an id of a build":   {fmt.Sprintf(`{"instance":%q}`, bulwark.NewBuildID()), bulwark.KindInvalid},
		"too much":           {strings.Repeat(" ", maxVerb+1), bulwark.KindTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			var in nodeapi.Stop
			err := read(httptest.NewRequest("POST", "/v1/stop", strings.NewReader(c.body)), &in)
			if c.want == "" {
				must(t, err)
				return
			}
			isKind(t, err, c.want)
		})
	}
}

// Some verbs are for root on the machine. Whoever comes without a name that the kernel gave is nobody.
func TestOnlyRoot(t *testing.T) {
	ctx := func(v any) context.Context { return context.WithValue(t.Context(), peerKey{}, v) }
	must(t, onlyRoot(ctx(uint32(0))))
	for name, c := range map[string]context.Context{"the server": ctx(uint32(1001)), "nobody": t.Context(), "another type": ctx(0)} {
		if bulwark.KindOf(onlyRoot(c)) != bulwark.KindForbidden {
			t.Errorf("%s counts as root", name)
		}
	}
}

// The kernel says who connects to the verbs; a stranger's connection is closed before a byte of it is read.
func TestPeers(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	must(t, err)
	defer l.Close()
	uid := uint32(os.Getuid())
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := peers{l, uid}.Accept()
		if err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	c, err := net.Dial("unix", l.Addr().String())
	must(t, err)
	defer c.Close()
	got := <-accepted
	if got == nil || got.(*peer).uid != uid {
		t.Fatalf("%+v", got)
	}
	got.Close()
}

// The server's folder is the server's: what lies there in place of its host key may be a link to what only root can read,
// or a pipe that never ends. Nothing goes out but public keys.
func TestReadHostKeys(t *testing.T) {
	dir := t.TempDir()
	pub, err := ssh.NewPublicKey(testKey(t).Public())
	must(t, err)
	line := string(ssh.MarshalAuthorizedKey(pub))
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte(line), 0o600))
	for name, c := range map[string]struct {
		make  func(path string) error
		keys  int
		fails bool
	}{
		"nothing":           {func(string) error { return nil }, 0, false},
		"a key":             {func(p string) error { return os.WriteFile(p, []byte(line), 0o600) }, 1, false},
		"two keys":          {func(p string) error { return os.WriteFile(p, []byte(line+line), 0o600) }, 2, false},
		"a comment of evil": {func(p string) error { return os.WriteFile(p, []byte(strings.TrimSpace(line)+" \x1b[2J\n"), 0o600) }, 1, false},
		"what is no key":    {func(p string) error { return os.WriteFile(p, []byte("root:$6$hash:19000:0:99999:7:::\n"), 0o600) }, 0, false},
		"a link":            {func(p string) error { return os.Symlink(secret, p) }, 0, true},
		"a pipe":            {func(p string) error { return unix.Mkfifo(p, 0o600) }, 0, true},
		"a directory":       {func(p string) error { return os.Mkdir(p, 0o700) }, 0, true},
		"without end":       {func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte(line), 10_000), 0o600) }, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ssh_host_key.pub")
			must(t, c.make(path))
			keys, err := readHostKeys(path)
			if (err != nil) != c.fails || c.keys >= 0 && len(keys) != c.keys || len(keys) > 1000 {
				t.Fatalf("%d keys, %v", len(keys), err)
			}
			for _, k := range keys {
				if strings.ContainsAny(k, "\x1b\n") {
					t.Fatalf("%q", k)
				}
			}
		})
	}
}

// An instance's config is served to one connection, on a socket that the app's user alone can connect to.
func TestServeConfig(t *testing.T) {
	n := &instances{dirs: dirs{init: t.TempDir()}}
	values := map[string]string{"TOKEN": "s\"e\\c\nret <&>", "EMPTY": ""}
	o, err := n.offerConfig(bulwark.NewInstanceID(), os.Getuid(), values)
	must(t, err)
	defer o.close()
	st, err := os.Stat(o.path)
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Fatalf("its mode is %s", st.Mode())
	}
	c, err := net.Dial("unix", o.path)
	must(t, err)
	defer c.Close()
	b, err := io.ReadAll(c)
	must(t, err)
	var got map[string]string
	must(t, json.Unmarshal(b, &got))
	for k, v := range values {
		if got[k] != v {
			t.Errorf("%s came as %q", k, got[k])
		}
	}
	must(t, o.await(configTime))
	if second, err := net.Dial("unix", o.path); err == nil {
		second.Close()
		t.Fatal("it was served again")
	}
}

// repository makes a repository with one commit and returns the pack of it, as the server sends it.
func repository(t *testing.T, git string, files map[string]string) (bulwark.Commit, []byte) {
	t.Helper()
	dir := t.TempDir()
	run := func(stdin string, args ...string) []byte {
		t.Helper()
		out, err := process.Output(t.Context(), process.Cmd{Path: git, Args: append([]string{"-C", dir}, args...), Stdin: strings.NewReader(stdin),
			Env: []string{"HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "PATH=/usr/bin:/bin", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org",
				"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org"}})
		must(t, err)
		return out
	}
	run("", "init", "-q")
	for name, text := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	run("", "add", "-A")
	run("", "commit", "-q", "-m", "first", "--allow-empty")
	head := strings.TrimSpace(string(run("", "rev-parse", "HEAD")))
	return bulwark.Commit(head), run(head+"\n", "pack-objects", "--stdout", "--revs", "-q")
}

// The source of a build is the commit that a person signed for, whatever pack the server brings.
func TestMeasure(t *testing.T) {
	git, err := process.Look("git", "git")
	must(t, err)
	b, top, uid := unpacking(t)
	b.config.Git = git
	folder := func() string {
		d, err := os.MkdirTemp(top, "")
		must(t, err)
		must(t, os.Chmod(d, 0o755))
		return d
	}
	commit, pack := repository(t, git, map[string]string{"main.go": "package main", "dir/a": "a"})
	other, otherPack := repository(t, git, map[string]string{"main.go": "package evil"})

	dir := folder()
	tree, err := b.measure(t.Context(), dir, uid, commit, bytes.NewReader(pack))
	must(t, err)
	if len(tree) != 40 {
		t.Fatalf("tree %q", tree)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "src/dir/a")); err != nil || string(b) != "a" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "git")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the repository was left behind")
	}
	spoilt := bytes.Clone(pack)
	spoilt[len(spoilt)/2] ^= 1
	for name, c := range map[string]struct {
		commit bulwark.Commit
		pack   []byte
	}{
		"the pack of another commit": {commit, otherPack},
		"another commit's name":      {other, pack},
		"a pack that was altered":    {commit, spoilt},
		"a pack cut short":           {commit, pack[:len(pack)-1]},
		"no pack":                    {commit, nil},
		"what is no pack":            {commit, []byte("#!/bin/sh\n")},
		"an option for a commit":     {"--all", pack},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := b.measure(t.Context(), folder(), uid, c.commit, bytes.NewReader(c.pack)); err == nil {
				t.Fatal("it was taken")
			}
		})
	}
}

// The keys are made once. A node that lost its own does not make a new one beside an old ledger, and every project key can be
// had again with the recovery key.
func TestKeys(t *testing.T) {
	dir := t.TempDir()
	keys, recovery := filepath.Join(dir, "keys"), filepath.Join(dir, "RECOVERY")
	first, err := openKeys(keys, recovery)
	must(t, err)
	must(t, os.Remove(recovery)) // taken away
	again, err := openKeys(keys, recovery)
	must(t, err)
	if !first.node.Equal(again.node) {
		t.Fatal("the node has another key")
	}
	if _, err := os.Stat(recovery); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the recovery key was written again")
	}
	entries, err := os.ReadDir(keys)
	must(t, err)
	for _, e := range entries {
		st, err := e.Info()
		must(t, err)
		if st.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(e.Name(), ".pub") {
			t.Errorf("%s has the mode %s", e.Name(), st.Mode())
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "ledger.db"), nil, 0o600))
	must(t, os.Remove(filepath.Join(keys, "node.pem")))
	_, err = openKeys(keys, recovery)
	isKind(t, err, bulwark.KindUnavailable)
}
