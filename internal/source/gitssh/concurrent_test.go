package gitssh_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh/hook"
)

// Two pushes to one app at once: both reach the gate, which takes one after the other, and the branch ends at the one
// that was accepted last, though git would have left it at the first.
func TestTwoPushesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mustPush("bulwark", "main")
	base := r.head()
	first := r.commit("a", "a", "First")
	r.git("branch", "one")
	r.git("reset", "-q", "--hard", string(base))
	second := r.commit("b", "b", "Second")

	var turn sync.Mutex // the gate's order
	entered, proceed := make(chan gitssh.Push, 2), make(chan struct{})
	r.gate.on(func(_ context.Context, p gitssh.Push, _ io.Writer) error {
		entered <- p
		<-proceed
		if p.New == second {
			turn.Lock() // released by the first
		}
		return nil
	})
	turn.Lock()
	type result struct {
		out string
		err error
	}
	results := map[string]chan result{"one": make(chan result, 1), "main": make(chan result, 1)}
	for branch, ch := range results {
		go func() {
			out, err := r.push("bulwark", branch+":main")
			ch <- result{out, err}
		}()
	}
	for range 2 {
		if p := wait(t, entered, "both deploys"); p.Old != base {
			t.Errorf("old is %s", p.Old)
		}
	}
	close(proceed)
	if one := wait(t, results["one"], "the first push"); one.err != nil {
		t.Errorf("first: %s", one.out)
	}
	settled := r.log.next("git: settled")
	if r.branch() != first {
		t.Errorf("after the first the branch is %s", r.branch())
	}
	turn.Unlock()
	if two := wait(t, results["main"], "the second push"); two.err != nil || !strings.Contains(two.out, "Another push was deployed in between") {
		t.Errorf("second: %v, %s", two.err, two.out)
	}
	wait(t, settled, "the second push to be settled")
	r.stop()
	if r.branch() != second {
		t.Errorf("the branch is %s, want %s", r.branch(), second)
	}
}

// A hundred thousand lines arrive, whole and in order, and the first while the deploy still runs.
func TestProgress(t *testing.T) {
	t.Parallel()
	const lines = 100_000
	r := newRig(t)
	proceed := make(chan struct{})
	r.gate.on(func(_ context.Context, _ gitssh.Push, w io.Writer) error {
		fmt.Fprintln(w, "first line")
		<-proceed
		for i := range lines {
			fmt.Fprintf(w, "line %d of the build\n", i)
		}
		io.WriteString(w, "evil \x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\rnext")
		return nil
	})
	seen := &watcher{text: "remote: first line", ch: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		done <- process.Run(context.Background(), process.Cmd{Path: "/usr/bin/git", Args: []string{"-C", r.work, "push", "bulwark", "main"},
			Env: r.env("id"), Dir: r.dir, Stdout: seen, Stderr: seen})
	}()
	wait(t, seen.ch, "a line of the running deploy")
	close(proceed)
	if err := wait(t, done, "the push"); err != nil {
		t.Fatal(err)
	}
	next := 0
	for line := range strings.Lines(seen.b.String()) {
		var n int
		if _, err := fmt.Sscanf(line, "remote: line %d of the build", &n); err != nil {
			continue
		}
		if n != next {
			t.Fatalf("line %d after line %d", n, next-1)
		}
		next++
	}
	if next != lines {
		t.Errorf("%d lines arrived", next)
	}
	if out := seen.b.String(); !strings.Contains(out, "remote: evil ]0;title[2J\x1b[31mred\x1b[0m") || !strings.Contains(out, "remote: next") {
		t.Errorf("the end: %q", out[len(out)-300:])
	}
}

// watcher closes ch when it has seen text.
type watcher struct {
	mu   sync.Mutex
	b    bytes.Buffer
	text string
	ch   chan struct{}
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	if w.text != "" && bytes.Contains(w.b.Bytes(), []byte(w.text)) {
		close(w.ch)
		w.text = ""
	}
	return len(p), nil
}

// A hook's token is good once, and for nothing when its push is over.
func TestHookToken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tokens := make(chan string, 1)
	r.gate.on(func(context.Context, gitssh.Push, io.Writer) error {
		tokens <- r.hookToken()
		return nil
	})
	r.mustPush("bulwark", "main")
	token := wait(t, tokens, "the token")
	if token == "" {
		t.Fatal("no hook was found")
	}
	r.never()
	for _, tok := range []string{token, "", "nonsense", strings.Repeat("A", 26)} {
		var out bytes.Buffer
		env := map[string]string{hook.EnvSocket: filepath.Join(r.dir, "hook.sock"), hook.EnvToken: tok, "GIT_PUSH_CERT": "x",
			"GIT_QUARANTINE_PATH": r.repo() + "/objects/tmp_objdir-incoming-x"}
		in := strings.NewReader(strings.Repeat("0", 40) + " " + string(r.head()) + " refs/heads/main\n")
		if code := hook.Run(func(k string) string { return env[k] }, in, &out); code != 1 {
			t.Errorf("token %q: %d %s", tok, code, out.String())
		}
	}
	// Without a server, the hook refuses.
	r.stop()
	env := map[string]string{hook.EnvSocket: filepath.Join(r.dir, "hook.sock")}
	var out bytes.Buffer
	if code := hook.Run(func(k string) string { return env[k] }, strings.NewReader(""), &out); code != 1 || !strings.Contains(out.String(), "not accepted") {
		t.Errorf("no server: %d %s", code, out.String())
	}
}

// The hook, and so all of git, runs with what was written for it and within its bounds; the seed is in no argument.
func TestConfinement(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	type proc struct{ env, limits, args string }
	got := make(chan proc, 1)
	r.gate.on(func(context.Context, gitssh.Push, io.Writer) error {
		pid := r.hookProcess()
		var p proc
		for name, to := range map[string]*string{"environ": &p.env, "limits": &p.limits} {
			b, _ := os.ReadFile(filepath.Join(pid, name))
			*to = string(b)
		}
		cmds, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, c := range cmds {
			b, _ := os.ReadFile(c)
			p.args += string(b)
		}
		got <- p
		return nil
	})
	r.mustPush("bulwark", "main")
	p := wait(t, got, "the hook's process")
	for kv := range strings.SplitSeq(strings.TrimRight(p.env, "\x00"), "\x00") {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "GIT_"), name == hook.EnvSocket, name == hook.EnvToken:
		case name == "HOME" && value == "/nonexistent", name == "LC_ALL" && value == "C":
		case name == "PATH" && strings.HasSuffix(value, "/usr/bin:/bin"): // git puts its own directory first
		default:
			t.Errorf("the hook has %s", kv)
		}
	}
	for _, want := range []string{"Max address space         2147483648", "Max core file size        1                    1 ", "Max cpu time              1200"} {
		if !strings.Contains(p.limits, want) {
			t.Errorf("no %q in\n%s", want, p.limits)
		}
	}
	seed := r.gate.last().NonceSeed
	if !strings.Contains(p.env, seed) || strings.Contains(p.args, seed) {
		t.Errorf("the seed is in the environment: %t, in arguments: %t", strings.Contains(p.env, seed), strings.Contains(p.args, seed))
	}
}

// hookToken finds the token in the environment of the hook that is running.
func (r *rig) hookToken() string {
	b, _ := os.ReadFile(filepath.Join(r.hookProcess(), "environ"))
	for kv := range bytes.SplitSeq(b, []byte{0}) {
		if v, ok := bytes.CutPrefix(kv, []byte(hook.EnvToken+"=")); ok {
			return string(v)
		}
	}
	return ""
}

// hookProcess is the directory in /proc of the hook that is running.
func (r *rig) hookProcess() string {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		env, _ := os.ReadFile(filepath.Join(p, "environ"))
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if bytes.Contains(env, []byte(hook.EnvSocket+"="+filepath.Join(r.dir, "hook.sock"))) && bytes.HasPrefix(args, []byte(r.repos+"/hooks/pre-receive")) {
			return p
		}
	}
	return ""
}

// The server stops in mid-deploy. The deploy's context ends; its objects are there after the start, and can be
// delivered and pointed at.
func TestStopInMidDeploy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	entered := make(chan struct{})
	r.gate.on(func(ctx context.Context, _ gitssh.Push, _ io.Writer) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.push("bulwark", "main")
	}()
	wait(t, entered, "the deploy")
	r.stop()
	wait(t, done, "the client")
	if r.branch() != "" {
		t.Errorf("the branch is %s", r.branch())
	}
	_ = os.MkdirAll(filepath.Join(r.repo(), "refs", "heads"), 0o755)
	must(0, os.WriteFile(filepath.Join(r.repo(), "refs", "heads", "main.lock"), nil, 0o600)) // as a killed git leaves it
	r.serve()
	rc := must(r.srv.Pack(context.Background(), r.app, r.head()))
	defer rc.Close()
	r.checkPack(must(io.ReadAll(rc)), 3)
	if err := r.srv.SetRef(context.Background(), r.app, "main", r.head()); err != nil {
		t.Fatal(err)
	}
	if r.branch() != r.head() {
		t.Errorf("the branch is %s", r.branch())
	}
	if err := r.srv.SetRef(context.Background(), r.app, "../x", r.head()); err == nil {
		t.Error("a branch out of the repository was set")
	}
	if e, _ := os.ReadDir(filepath.Join(r.repo(), "bulwark-holds")); len(e) != 0 {
		t.Errorf("holds were left: %v", e)
	}
}

// A client that half-closes and waits, as OpenSSH does when git was killed alone, changes nothing.
func TestHalfClosedClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	entered, proceed := make(chan struct{}), make(chan struct{})
	r.gate.on(func(context.Context, gitssh.Push, io.Writer) error {
		close(entered)
		<-proceed
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- process.Run(ctx, process.Cmd{Path: "/usr/bin/git", Args: []string{"-C", r.work, "push", "bulwark", "main"},
			Env: r.env("id"), Dir: r.dir, Grace: time.Second})
	}()
	wait(t, entered, "the deploy")
	settled := r.log.next("git: settled")
	cancel()
	wait(t, done, "git to die")
	close(proceed)
	wait(t, settled, "the push to be settled")
	if r.branch() != r.head() {
		t.Errorf("the branch is %q", r.branch())
	}
}

// A person has so many pushes at once and no more.
func TestBusy(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gitssh.Config) { c.MaxPerPerson = 1 })
	entered, proceed := make(chan struct{}), make(chan struct{})
	r.gate.on(func(context.Context, gitssh.Push, io.Writer) error {
		close(entered)
		<-proceed
		return nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.mustPush("bulwark", "main")
	}()
	wait(t, entered, "the deploy")
	r.refused([]string{"bulwark", "main"}, " !     Too many pushes and fetches are under way.")
	close(proceed)
	wait(t, done, "the push")
}

// A client that sends half a command and stops, or rubbish, reaches nobody.
func TestRubbish(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.never()
	for _, in := range []string{"", "0000", "zzzz", "ffff", strings.Repeat("0", 1<<20),
		"00a0" + strings.Repeat("0", 40) + " " + strings.Repeat("1", 40) + " refs/heads/main\x00report-status\n0000PACK"} {
		c := must(r.dial())
		s := must(c.NewSession())
		s.Stdin = strings.NewReader(in)
		if err := s.Start("git-receive-pack '/shop.git'"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Wait() }()
		err := wait(t, done, "the answer to rubbish")
		if _, ok := err.(*ssh.ExitError); err != nil && !ok && !strings.Contains(err.Error(), "EOF") {
			t.Errorf("%.20q: %v", in, err)
		}
		c.Close()
	}
	r.gate.on(nil)
	r.mustPush("bulwark", "main")
}

// A client that stays and does not read holds up its deploy for the server's patience and no longer; then the branch
// moves without git, which is killed, and the client is hung up on.
func TestStalledClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gitssh.Config) { gitssh.SetTimes(c, time.Second, 500*time.Millisecond) })
	deployed := make(chan struct{})
	var took time.Duration
	r.gate.on(func(_ context.Context, _ gitssh.Push, w io.Writer) error {
		start := time.Now()
		for range 200_000 { // 20 MB: more than all buffers on the way
			io.WriteString(w, strings.Repeat("x", 99)+"\n")
		}
		took = time.Since(start)
		close(deployed)
		return nil
	})
	settled, gone := r.log.next("git: settled"), r.log.next("connection ended")
	client := r.start("/usr/bin/env", "GIT_SSH_COMMAND="+r.stallingSSH(), "GIT_SSH_VARIANT=ssh", "/usr/bin/git", "-C", r.work, "push", "bulwark", "main")
	defer client()
	wait(t, deployed, "the deploy")
	if took < time.Second {
		t.Errorf("the client read everything in %s", took)
	}
	wait(t, gone, "the server to hang up")
	wait(t, settled, "the push to be settled")
	if r.branch() != r.head() {
		t.Errorf("the branch is %q", r.branch())
	}
}

// stallingSSH returns a program that is ssh, but for its output, of which the first 600 bytes are read.
func (r *rig) stallingSSH() string {
	path := filepath.Join(r.dir, "stalling-ssh")
	script := "#!/bin/sh\n/usr/bin/ssh " + strings.Join(sshArgs(filepath.Join(r.home, ".ssh", "id")), " ") +
		" \"$@\" | { dd bs=1 count=600 2>/dev/null; sleep 600; }\n"
	must(0, os.WriteFile(path, []byte(script), 0o700))
	return path
}
