package buildertest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/build/buildspec"
	"golang.org/x/sys/unix"
)

// App is the host's side of one app: what its builds share.
type App struct {
	Host   *Host
	State  string
	Output string
}

// NewApp makes an app's directories below dir.
func (h *Host) NewApp(dir string) (*App, error) {
	a := &App{Host: h, State: filepath.Join(dir, "state"), Output: filepath.Join(dir, "out")}
	for _, d := range []string{a.State, a.Output} {
		if err := errors.Join(os.MkdirAll(d, 0o700), os.Chown(d, UIDBase, UIDBase)); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Build is one build.
type Build struct {
	Source  string // must be readable by all
	Import  string
	Secrets map[string]string
	Edit    func(*bulwark.BuildSetup) // optional
	Allow   []string                  // hosts that the proxy lets through; nil for the registries of this host
	OnEvent func(bulwark.BuildEvent)
	Args    []string // another program, to look at the container
}

// Outcome is what came of a build.
type Outcome struct {
	Events []bulwark.BuildEvent
	Times  []time.Duration // of the events, since the start of the container's creation
	Result *bulwark.BuildResult
	Error  *bulwark.Error
	Code   int
	Stdout string // raw
	Stderr string
	Denied []string // hosts that the proxy refused
	Total  time.Duration
}

// Log returns the log lines.
func (o *Outcome) Log() string {
	var b strings.Builder
	for _, e := range o.Events {
		if e.Log != "" {
			b.WriteString(e.Log + "\n")
		}
	}
	return b.String()
}

// Run runs one build to its end. When ctx ends, the builder gets SIGTERM.
func (a *App) Run(ctx context.Context, b Build) (*Outcome, error) {
	// The container's process becomes our child when "runc create" ends, so that its exit code is ours to read.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	begin := time.Now()
	dir, err := os.MkdirTemp(a.Host.Dir, "ctr-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := &container{runc: a.Host.Runc, dir: dir, id: "buildertest-" + filepath.Base(dir)}
	defer c.runcDo("delete", "--force", c.id)
	out := &Outcome{}
	in, err := bring(dir, b)
	if err != nil {
		return nil, err
	}
	pid, stdin, stdout, err := c.create(a.spec(b, in, c.id))
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	proxy, err := newProxy(pid, a.allow(b))
	if err != nil {
		return nil, err
	}
	defer proxy.close()
	if err := c.runcDo("start", c.id); err != nil {
		return nil, err
	}
	if err := a.send(stdin, b); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			unix.Kill(pid, unix.SIGTERM)
		case <-done:
		}
	}()
	var raw bytes.Buffer
	lines := bufio.NewReader(io.TeeReader(stdout, &raw))
	for {
		line, err := lines.ReadBytes('\n')
		var ev bulwark.BuildEvent
		if len(line) > 0 && json.Unmarshal(line, &ev) == nil {
			out.Events, out.Times = append(out.Events, ev), append(out.Times, time.Since(begin))
			if b.OnEvent != nil {
				b.OnEvent(ev)
			}
			if ev.Result != nil {
				out.Result = ev.Result
			}
			if ev.Error != nil {
				out.Error = ev.Error
			}
		}
		if err != nil {
			break
		}
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	state, err := p.Wait()
	close(done)
	if err != nil {
		return nil, err
	}
	out.Code, out.Stdout, out.Stderr, out.Total = state.ExitCode(), raw.String(), c.stderr.String(), time.Since(begin)
	out.Denied = proxy.refused()
	return out, nil
}

func (a *App) spec(b Build, in, id string) buildspec.Options {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return buildspec.Options{
		Rootfs: a.Host.Rootfs, UIDBase: UIDBase, Args: b.Args, Programs: a.Host.Programs, In: in, State: a.State, Output: a.Output,
		Bases: a.Host.Bases, CA: caFile(), CgroupPath: "/bulwark-buildertest/" + id, CgroupV1: err != nil,
	}
}

// allow returns the hosts that this machine's own tools use, unless the build names others.
func (a *App) allow(b Build) []string {
	if b.Allow != nil {
		return b.Allow
	}
	var hosts []string
	urls := append(strings.FieldsFunc(a.Host.Go.Proxy, func(r rune) bool { return r == ',' || r == '|' }), a.Host.NPM)
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil && u.Hostname() != "" {
			hosts = append(hosts, u.Hostname())
		}
	}
	name, _, _ := strings.Cut(a.Host.Go.SumDB, "+")
	return append(hosts, name)
}

func (a *App) send(stdin io.WriteCloser, b Build) error {
	defer stdin.Close()
	setup := bulwark.BuildSetup{State: buildspec.StateDir, Output: buildspec.OutputDir,
		Bases: buildspec.BasesDir, Proxy: "http://" + buildspec.ProxyAddr, NPM: a.Host.NPM, Go: a.Host.Go}
	if caFile() != "" {
		setup.CA = buildspec.CAFile
	}
	job := bulwark.BuildJob{Build: bulwark.NewBuildID(), App: "test"}
	if b.Import != "" {
		job.Import = path.Join(buildspec.InDir, buildspec.Import)
	} else {
		job.Source = path.Join(buildspec.InDir, buildspec.Src)
	}
	for name := range b.Secrets {
		job.Secrets = append(job.Secrets, bulwark.ConfigName(name))
	}
	if b.Edit != nil {
		b.Edit(&setup)
	}
	secrets := b.Secrets
	if secrets == nil {
		secrets = map[string]string{}
	}
	enc := json.NewEncoder(stdin)
	for _, v := range []any{setup, job, secrets} {
		// A builder that ends before it has read everything, because of what it has read, says so itself.
		if err := enc.Encode(v); err != nil && !errors.Is(err, syscall.EPIPE) {
			return err
		}
	}
	return nil
}

// bring lays the source where the builder finds it.
func bring(dir string, b Build) (string, error) {
	in := filepath.Join(dir, "in")
	if err := os.Mkdir(in, 0o755); err != nil {
		return "", err
	}
	from, to := b.Source, filepath.Join(in, buildspec.Src)
	if b.Import != "" {
		from, to = b.Import, filepath.Join(in, buildspec.Import)
	}
	if from == "" {
		return in, nil
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cp: %w: %s", err, out)
	}
	return in, errors.Join(os.Chmod(dir, 0o755), os.Chmod(in, 0o755))
}

// caFile is the bundle that this host's way out needs.
func caFile() string {
	for _, f := range []string{os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt"} {
		if _, err := os.Stat(f); err == nil && f != "" {
			return f
		}
	}
	return ""
}

// container is one container of runc's.
type container struct {
	runc, dir, id string
	stderr        syncBuffer
}

// create has runc create the container: its namespaces exist, its program does not run yet.
func (c *container) create(o buildspec.Options) (pid int, stdin io.WriteCloser, stdout io.ReadCloser, err error) {
	spec, err := json.Marshal(buildspec.Spec(o))
	if err != nil {
		return 0, nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), spec, 0o600); err != nil {
		return 0, nil, nil, err
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return 0, nil, nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return 0, nil, nil, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return 0, nil, nil, err
	}
	go io.Copy(&c.stderr, errR)
	pidFile := filepath.Join(c.dir, "pid")
	cmd := exec.Command(c.runc, "--root", filepath.Join(c.dir, "runc"), "create", "--bundle", c.dir, "--pid-file", pidFile, c.id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, errW
	err = cmd.Run()
	inR.Close()
	outW.Close()
	errW.Close()
	if err != nil {
		return 0, nil, nil, fmt.Errorf("runc create: %w: %s", err, c.stderr.String())
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, nil, nil, err
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return pid, inW, outR, err
}

func (c *container) runcDo(args ...string) error {
	out, err := exec.Command(c.runc, append([]string{"--root", filepath.Join(c.dir, "runc")}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("runc %s: %w: %s", args[0], err, out)
	}
	return nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements [io.Writer].
func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String returns what was written.
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
