package gitssh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
)

// limit is how long anything in these tests may take before it counts as stuck.
const limit = time.Minute

var hookBinary string // the real hook, built once

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "bulwark-hook-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	hookBinary = filepath.Join(dir, "bulwark-hook")
	err = process.Run(context.Background(), process.Cmd{
		Path: goTool(), Dir: must(os.Getwd()), Env: append(os.Environ(), "CGO_ENABLED=0"),
		Args: []string{"build", "-trimpath", "-o", hookBinary, "github.com/bulwark-paas/bulwark/cmd/bulwark-hook"},
	})
	if err != nil {
		panic(err)
	}
	return m.Run()
}

func goTool() string {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if p := filepath.Join(dir, "go"); filepath.IsAbs(p) {
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	panic("no go in PATH")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// gate is a Gate of one person and some apps. receive may be set by a test.
type gate struct {
	mu      sync.Mutex
	persons map[string]bulwark.PersonID // by marshalled key
	apps    map[bulwark.AppName]gitssh.Session
	seeds   []string
	begun   int
	at      time.Time // of the last Begin

	pushes  []gitssh.Push
	receive func(context.Context, gitssh.Push, io.Writer) error
}

// on has a test say what becomes of the next pushes.
func (g *gate) on(receive func(context.Context, gitssh.Push, io.Writer) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.receive = receive
}

// last is the push that reached the gate last.
func (g *gate) last() gitssh.Push {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pushes[len(g.pushes)-1]
}

func (g *gate) when() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at
}

// asked is how often Begin was called.
func (g *gate) asked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.begun
}

func (g *gate) Person(_ context.Context, key ssh.PublicKey) (bulwark.PersonID, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p, ok := g.persons[string(key.Marshal())]; ok {
		return p, nil
	}
	return "", bulwark.Failf(bulwark.KindUnauthorized, "Nobody has this key.")
}

func (g *gate) Begin(_ context.Context, _ bulwark.PersonID, app bulwark.AppName) (gitssh.Session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begun++
	g.at = time.Now()
	s, ok := g.apps[app]
	if !ok {
		return s, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There is no app %s.", app), "See: bulwark apps", nil)
	}
	s.NonceSeed = rand.Text()
	g.seeds = append(g.seeds, s.NonceSeed)
	return s, nil
}

func (g *gate) Receive(ctx context.Context, p gitssh.Push, w io.Writer) error {
	g.mu.Lock()
	g.pushes = append(g.pushes, p)
	receive := g.receive
	g.mu.Unlock()
	if receive == nil {
		return nil
	}
	return receive(ctx, p, w)
}

// rig is a running server and a developer's machine.
type rig struct {
	t      testing.TB
	dir    string // everything below is under it
	home   string // the developer's
	work   string // the developer's repository, branch main, with one commit
	repos  string
	addr   string
	app    bulwark.AppID
	person bulwark.PersonID
	gate   *gate
	srv    *gitssh.Server
	log    *logs
	stop   func() // stops the server and waits
}

func newRig(t testing.TB, change ...func(*gitssh.Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: must(os.MkdirTemp("", "gs")), app: bulwark.NewAppID(), person: bulwark.NewPersonID(), log: &logs{}}
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	r.home, r.work, r.repos = filepath.Join(r.dir, "home"), filepath.Join(r.dir, "work"), filepath.Join(r.dir, "repos")
	r.gate = &gate{persons: map[string]bulwark.PersonID{}, apps: map[bulwark.AppName]gitssh.Session{
		"shop": {App: r.app, Branch: "main"},
	}}
	r.developer()
	r.serve(change...)
	r.git("remote", "add", "bulwark", r.url("shop"))
	return r
}

func (r *rig) url(app string) string { return "ssh://git@" + r.addr + "/" + app + ".git" }

// serve starts the server; after stop it may be called again.
func (r *rig) serve(change ...func(*gitssh.Config)) {
	r.t.Helper()
	addr := r.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l := must(net.Listen("tcp", addr))
	r.addr = l.Addr().String()
	cfg := r.config()
	cfg.Listener = l
	for _, c := range change {
		c(&cfg)
	}
	srv, err := gitssh.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx) }()
	r.srv = srv
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("Serve: %v", err)
			}
		case <-time.After(limit):
			r.t.Error("Serve does not end")
		}
		if r.t.Failed() {
			r.t.Log(r.log.String())
		}
	})
	r.t.Cleanup(func() { r.stop() })
}

// config is a configuration without a listener of its own that anybody calls.
func (r *rig) config() gitssh.Config {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	return gitssh.Config{
		Listener: (*net.TCPListener)(nil), HostKeys: []ssh.Signer{must(ssh.NewSignerFromSigner(key))}, Repos: r.repos,
		Git: "/usr/bin/git", Hook: hookBinary, HookSocket: filepath.Join(r.dir, "hook.sock"), Gate: r.gate,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// developer makes a key, an SSH configuration, and a repository that signs pushes as ENGINE.md says.
func (r *rig) developer() {
	ssh := filepath.Join(r.home, ".ssh")
	must(0, os.MkdirAll(ssh, 0o700))
	r.key("id", r.person, "-t", "ed25519")
	r.git2(r.dir, "init", "-q", "-b", "main", r.work)
	r.git("config", "user.name", "Dev")
	r.git("config", "user.email", "dev@example.org")
	r.git("config", "push.gpgSign", "if-asked")
	r.git("config", "gpg.format", "ssh")
	r.git("config", "user.signingKey", filepath.Join(ssh, "id.pub"))
	r.commit("hello.txt", "hello\n", "First commit")
}

// key makes a key; person may be empty for a stranger's.
func (r *rig) key(name string, person bulwark.PersonID, args ...string) {
	r.t.Helper()
	path := filepath.Join(r.home, ".ssh", name)
	r.run("", "/usr/bin/ssh-keygen", append(args, "-q", "-N", "", "-C", name, "-f", path)...)
	pub, _, _, _, err := ssh.ParseAuthorizedKey(must(os.ReadFile(path + ".pub")))
	if err != nil {
		r.t.Fatal(err)
	}
	if person != "" {
		r.gate.mu.Lock()
		r.gate.persons[string(pub.Marshal())] = person
		r.gate.mu.Unlock()
	}
}

func (r *rig) env(key string) []string {
	path := filepath.Join(r.home, ".ssh", key)
	return []string{
		"HOME=" + r.home, "PATH=/usr/bin:/bin", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_SSH_COMMAND=ssh " + strings.Join(sshArgs(path), " "),
	}
}

func sshArgs(key string) []string {
	return []string{"-F", "/dev/null", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"}
}

// ssh runs OpenSSH's client and returns all it printed.
func (r *rig) ssh(key string, args ...string) (string, error) {
	host, port, _ := net.SplitHostPort(r.addr)
	all := append(sshArgs(filepath.Join(r.home, ".ssh", key)), "-p", port)
	return r.try(r.env(key), "/usr/bin/ssh", append(append(all, "git@"+host), args...)...)
}

func (r *rig) try(env []string, path string, args ...string) (string, error) {
	return r.program(process.Cmd{Path: path, Args: args, Env: env})
}

func (r *rig) tryIn(in io.Reader, path string, args ...string) (string, error) {
	return r.program(process.Cmd{Path: path, Args: args, Env: r.env("id"), Stdin: in})
}

func (r *rig) program(c process.Cmd) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var out lockedBuffer
	c.Dir, c.Stdout, c.Stderr = r.dir, &out, &out
	err := process.Run(ctx, c)
	return out.String(), err
}

// start starts a program with a process group of its own; kill kills the group and waits.
func (r *rig) start(path string, args ...string) (kill func()) {
	r.t.Helper()
	p, err := process.Start(context.Background(), process.Cmd{Path: path, Args: args, Env: r.env("id"), Dir: r.dir,
		Stdout: &lockedBuffer{}, Stderr: &lockedBuffer{}, Attr: &syscall.SysProcAttr{Setpgid: true}})
	if err != nil {
		r.t.Fatal(err)
	}
	return func() {
		syscall.Kill(-p.PID(), syscall.SIGKILL)
		p.Wait()
	}
}

func (r *rig) run(key, path string, args ...string) string {
	r.t.Helper()
	out, err := r.try(r.env(key), path, args...)
	if err != nil {
		r.t.Fatalf("%s %q: %v\n%s", path, args, err, out)
	}
	return strings.TrimSpace(out)
}

func (r *rig) git2(dir string, args ...string) string {
	r.t.Helper()
	return r.run("id", "/usr/bin/git", append([]string{"-C", dir}, args...)...)
}

// git runs git in the developer's repository; it must succeed.
func (r *rig) git(args ...string) string { r.t.Helper(); return r.git2(r.work, args...) }

// push runs git push in the developer's repository.
func (r *rig) push(args ...string) (string, error) {
	return r.try(r.env("id"), "/usr/bin/git", append([]string{"-C", r.work, "push"}, args...)...)
}

// mustPush pushes; it must succeed.
func (r *rig) mustPush(args ...string) string {
	r.t.Helper()
	out, err := r.push(args...)
	if err != nil {
		r.t.Fatalf("push %q: %v\n%s", args, err, out)
	}
	return out
}

// refused pushes; it must fail and print every one of want.
func (r *rig) refused(args []string, want ...string) string {
	r.t.Helper()
	out, err := r.push(args...)
	if err == nil {
		r.t.Fatalf("push %q was taken\n%s", args, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			r.t.Errorf("push %q: no %q in\n%s", args, w, out)
		}
	}
	return out
}

func (r *rig) commit(file, content, message string) bulwark.Commit {
	r.t.Helper()
	r.write(file, content)
	r.git("add", file)
	r.git("commit", "-q", "-m", message)
	return r.head()
}

func (r *rig) write(file, content string) {
	path := filepath.Join(r.work, file)
	must(0, os.MkdirAll(filepath.Dir(path), 0o755))
	must(0, os.WriteFile(path, []byte(content), 0o644))
}

func (r *rig) head() bulwark.Commit { return bulwark.Commit(r.git("rev-parse", "HEAD")) }

func (r *rig) repo() string { return filepath.Join(r.repos, string(r.app)+".git") }

// branch is what the server's branch says; empty if there is none.
func (r *rig) branch() bulwark.Commit {
	out, err := r.try(r.env("id"), "/usr/bin/git", "-C", r.repo(), "rev-parse", "--verify", "-q", "refs/heads/main")
	if err != nil {
		return ""
	}
	return bulwark.Commit(strings.TrimSpace(out))
}

// logs is the server's log; a test can wait for a line.
type logs struct {
	mu      sync.Mutex
	b       bytes.Buffer
	waiting []waiter
}

type waiter struct {
	text string
	ch   chan struct{}
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(b)
	for i, w := range l.waiting {
		if w.ch != nil && bytes.Contains(b, []byte(w.text)) {
			close(w.ch)
			l.waiting[i].ch = nil
		}
	}
	return len(b), nil
}

// next returns a channel that is closed by the next line that has text.
func (l *logs) next(text string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := make(chan struct{})
	l.waiting = append(l.waiting, waiter{text, ch})
	return ch
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func wait[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(limit):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

// lockedBuffer takes the standard output and error of one program.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var errDeploy = errors.New("the database's password is hunter2")

func (r *rig) read(file string) []byte { return must(os.ReadFile(filepath.Join(r.home, file))) }
