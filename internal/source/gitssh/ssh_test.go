package gitssh_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
)

func hexBytes(s string) ([]byte, error) { return hex.DecodeString(s) }

// Nothing but two verbs of git is behind the door.
func TestBogusCommands(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.never()
	for _, line := range []string{
		"git-receive-pack '../../etc'", "git-receive-pack '/../shop.git'", "git-receive-pack '/shop.git/../x.git'",
		"git-receive-pack '/etc/passwd'", "git-receive-pack '/" + string(r.app) + ".git'", "git-receive-pack ''", "git-receive-pack",
		"git-receive-pack shop", "git-receive-pack '/shop.git' ; id", "git-receive-pack '/shop.git''; id'", "git-receive-pack --help '/shop.git'",
		"git-receive-pack  '/shop.git'", "git receive-pack --upload-pack='id' '/shop.git'", "git-upload-archive '/shop.git'",
		"git-shell", "git -c core.sshCommand=id receive-pack '/shop.git'", "sh", "id", "scp -t /tmp", "rsync --server . /", "/usr/bin/env",
		"git-receive-pack '/SHOP.git'", "git-receive-pack '/shop\n.git'", "$(id)", strings.Repeat("a", 100_000),
	} {
		out, err := r.ssh("id", line)
		if err == nil || !strings.Contains(out, " !     ") || strings.Contains(out, "uid=") {
			t.Errorf("%.60q: %v, %.200q", line, err, out)
		}
	}
	if r.gate.asked() != 0 {
		t.Errorf("the gate was asked %d times", r.gate.asked())
	}
	if out, err := r.ssh("id", "git-receive-pack '/other.git'"); err == nil || !strings.Contains(out, " !     There is no app other.") {
		t.Errorf("a foreign app: %v %s", err, out)
	}
}

func TestNoShell(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, args := range [][]string{nil, {"-t"}, {"-A"}, {"-X"}} {
		host, port, _ := net.SplitHostPort(r.addr)
		all := append(sshArgs(filepath.Join(r.home, ".ssh", "id")), "-p", port)
		out, err := r.try(r.env("id"), "/usr/bin/ssh", append(append(all, args...), "git@"+host)...)
		e, ok := err.(*process.ExitError)
		if !ok || e.Code != 1 || !strings.Contains(out, "Hi, you are signed in as "+string(r.person)+". Bulwark gives no shell; push with git.") {
			t.Errorf("ssh %q: %v %s", args, err, out)
		}
	}
	if out, err := r.ssh("id", "-s", "sftp"); err == nil || !strings.Contains(out, "subsystem request failed") {
		t.Errorf("sftp: %v %s", err, out)
	}
}

// dial connects as the developer, with Go's own client.
func (r *rig) dial(change ...func(*ssh.ClientConfig)) (*ssh.Client, error) {
	key := must(ssh.ParsePrivateKey(r.read(".ssh/id")))
	cfg := &ssh.ClientConfig{User: "git", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: limit}
	for _, c := range change {
		c(cfg)
	}
	return ssh.Dial("tcp", r.addr, cfg)
}

// Every request and channel that is not a git command is refused.
func TestRequestsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := must(r.dial())
	defer c.Close()
	s := must(c.NewSession())
	if err := s.Setenv("GIT_CONFIG_PARAMETERS", "'core.hooksPath=/tmp'"); err == nil {
		t.Error("env was taken")
	}
	if err := s.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("pty was given")
	}
	for _, what := range []string{"x11-req", "auth-agent-req@openssh.com", "subsystem", "window-change", "break"} {
		if ok, _ := s.SendRequest(what, true, nil); ok {
			t.Errorf("%s was taken", what)
		}
	}
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("remote forwarding was taken")
	}
	if _, err := c.ListenUnix(filepath.Join(r.dir, "x")); err == nil {
		t.Error("remote forwarding of a socket was taken")
	}
	if _, err := c.Dial("tcp", r.addr); err == nil {
		t.Error("forwarding was taken")
	}
	for _, what := range []string{"direct-streamlocal@openssh.com", "tun@openssh.com", "x11", "nonsense"} {
		if _, _, err := c.OpenChannel(what, nil); err == nil {
			t.Errorf("channel %s was opened", what)
		}
	}
}

func TestForeignKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.never()
	r.key("stranger", "", "-t", "ed25519")
	r.key("small", r.person, "-t", "rsa", "-b", "2048")
	r.key("rsa", r.person, "-t", "rsa", "-b", "3072")
	r.key("ecdsa", r.person, "-t", "ecdsa")
	for key, ok := range map[string]bool{"stranger": false, "small": false, "rsa": true, "ecdsa": true} {
		out, err := r.ssh(key)
		if got := strings.Contains(out, "signed in"); got != ok || !ok && !strings.Contains(out, "Permission denied (publickey)") {
			t.Errorf("%s: %v %s", key, err, out)
		}
	}
	// A certificate over a known key, by an authority of the stranger's.
	ssh := filepath.Join(r.home, ".ssh")
	r.run("", "/usr/bin/ssh-keygen", "-q", "-s", filepath.Join(ssh, "stranger"), "-I", "x", "-n", "git", filepath.Join(ssh, "id.pub"))
	r.run("", "/bin/mv", filepath.Join(ssh, "id-cert.pub"), filepath.Join(ssh, "rsa-cert.pub"))
	if out, err := r.ssh("stranger", "-o", "PreferredAuthentications=none,password,keyboard-interactive"); err == nil {
		t.Errorf("without a key: %s", out)
	}
}

// Old algorithms find nobody to talk to.
func TestLegacyRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, change := range map[string]func(*ssh.ClientConfig){
		"dh-group14-sha1": func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.InsecureKeyExchangeDH14SHA1} },
		"dh-group14":      func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.KeyExchangeDH14SHA256} },
		"cbc":             func(c *ssh.ClientConfig) { c.Ciphers = []string{ssh.InsecureCipherAES128CBC} },
		"hmac-sha1": func(c *ssh.ClientConfig) {
			c.Ciphers, c.MACs = []string{ssh.CipherAES128CTR}, []string{ssh.HMACSHA1}
		},
		"mac-then-encrypt": func(c *ssh.ClientConfig) {
			c.Ciphers, c.MACs = []string{ssh.CipherAES128CTR}, []string{ssh.HMACSHA256}
		},
	} {
		if c, err := r.dial(change); err == nil {
			c.Close()
			t.Errorf("%s was taken", name)
		}
	}
	c := must(r.dial(func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.KeyExchangeMLKEM768X25519} }))
	c.Close()
}

// One address cannot take all places, and a place comes free again.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gitssh.Config) { c.MaxPerAddress = 3 })
	var open []*ssh.Client
	for range 3 {
		open = append(open, must(r.dial()))
	}
	if c, err := r.dial(); err == nil {
		c.Close()
		t.Error("a fourth connection was taken")
	}
	ended := r.log.next("connection ended")
	open[0].Close()
	wait(t, ended, "a connection to end")
	for i := 0; ; i++ { // the place is given back just after the line is written
		c, err := r.dial()
		if err == nil {
			c.Close()
			break
		}
		if i == 1000 {
			t.Fatal(err)
		}
	}
	open[1].Close()
	open[2].Close()
}

// A client that connects and says nothing is hung up on.
func TestSilentClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := must(net.Dial("tcp", r.addr))
	defer c.Close()
	start := time.Now()
	c.SetDeadline(start.Add(limit))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d < 9*time.Second || d > 20*time.Second {
		t.Errorf("hung up after %s", d)
	}
}

// A connection that opens channel after channel is hung up on.
func TestChannelLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := must(r.dial())
	defer c.Close()
	opened := make(chan bool, 100)
	go func() { // the library's client may wait for ever for an answer once the connection is closed
		for range 100 {
			_, _, err := c.OpenChannel("session", nil)
			opened <- err == nil
		}
	}()
	ended := make(chan error)
	go func() { ended <- c.Wait() }()
	wait(t, ended, "the server to hang up")
	count := 0
	for len(opened) > 0 {
		if <-opened {
			count++
		}
	}
	if count > 4 {
		t.Errorf("%d sessions at once", count)
	}
}

func TestClone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := filepath.Join(r.dir, "clone")
	if out := r.git2(r.dir, "clone", r.url("shop"), dir); !strings.Contains(out, "empty repository") {
		t.Errorf("clone of nothing: %s", out)
	}
	r.mustPush("bulwark", "main")
	r.git2(dir, "pull", "-q", "origin", "main")
	if got := r.git2(dir, "rev-parse", "HEAD"); got != string(r.head()) {
		t.Errorf("HEAD is %s", got)
	}
	if out, err := r.try(r.env("id"), "/usr/bin/git", "ls-remote", r.url("other")); err == nil || !strings.Contains(out, "There is no app other.") {
		t.Errorf("a foreign app: %v %s", err, out)
	}
	// The branch that deploys is another one from now on: a clone checks that one out.
	r.gate.mu.Lock()
	r.gate.apps["shop"] = gitssh.Session{App: r.app, Branch: "release/1"}
	r.gate.mu.Unlock()
	r.mustPush("bulwark", "main:release/1")
	if out := r.git2(r.dir, "ls-remote", "--symref", r.url("shop"), "HEAD"); !strings.Contains(out, "ref: refs/heads/release/1\tHEAD") {
		t.Errorf("HEAD: %s", out)
	}
}

// The server may be asked to stop at any time, twice over.
func TestStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := must(r.dial())
	r.stop()
	if err := c.Wait(); err == nil {
		t.Error("the connection is still open")
	}
	r.serve()
	r.mustPush("bulwark", "main")
}

// A second server on the same repositories would take the first one's pushes for those of a crash.
func TestOneServer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := gitssh.New(r.config())
	if bulwark.KindOf(err) != bulwark.KindConflict {
		t.Errorf("a second server: %v", err)
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	weak := must(ssh.NewSignerFromSigner(must(rsa.GenerateKey(rand.Reader, 2048))))
	for name, change := range map[string]func(*gitssh.Config){
		"no gate":       func(c *gitssh.Config) { c.Gate = nil },
		"no log":        func(c *gitssh.Config) { c.Log = nil },
		"no keys":       func(c *gitssh.Config) { c.HostKeys = nil },
		"a weak key":    func(c *gitssh.Config) { c.HostKeys = []ssh.Signer{weak} },
		"relative path": func(c *gitssh.Config) { c.Git = "git" },
	} {
		cfg := r.config()
		cfg.Repos = filepath.Join(r.dir, "other")
		change(&cfg)
		if _, err := gitssh.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A connection that somebody opened with a key ends when the key is taken away, also one over which nothing goes on; others stay.
func TestKeyTakenAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := must(r.dial())
	defer c.Close()
	other := must(r.dial(func(cfg *ssh.ClientConfig) {
		r.key("spare", r.person, "-t", "ed25519")
		cfg.Auth = []ssh.AuthMethod{ssh.PublicKeys(must(ssh.ParsePrivateKey(r.read(".ssh/spare"))))}
	}))
	defer other.Close()
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		t.Fatal("it ended by itself:", err)
	case <-time.After(5 * time.Second):
	}
	key := must(ssh.ParsePrivateKey(r.read(".ssh/id")))
	r.gate.mu.Lock()
	delete(r.gate.persons, string(key.PublicKey().Marshal()))
	r.gate.mu.Unlock()
	select {
	case <-ended:
	case <-time.After(limit):
		t.Fatal("the connection of a key that was taken away is still open")
	}
	if _, err := other.NewSession(); err != nil {
		t.Fatal("the connection of another key was cut:", err)
	}
}
