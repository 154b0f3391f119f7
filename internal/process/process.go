// Package process is the only place where Bulwark starts another program. It promises that a program is named by an
// absolute path, gets its arguments as a list and an environment that was written for it: no shell, no PATH look-up, no
// inherited variable. A lint keeps os/exec out of every other package.
//
// Whoever owns a caller can start what that caller's user may start; there is no more authority here than that.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Cmd says what to start.
type Cmd struct {
	Path   string   // absolute
	Args   []string // without the program's own name
	Env    []string // the whole environment; nothing is inherited
	Dir    string   // working directory; empty means "/"
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer // nil: kept for the error, its last 4 KiB
	// Files become descriptors 3 and up.
	Files []*os.File
	// User and Group, if not 0, are what it runs as; no supplementary groups.
	User, Group uint32
	// Grace is how long it has between SIGTERM and SIGKILL when its context ends; default 5 s.
	Grace time.Duration
	// Attr, if set, is applied on top; User and Group still hold.
	Attr *syscall.SysProcAttr
}

// Run starts c, waits for it and returns nil if it ended with exit code 0. When ctx ends first, it is told to stop and
// ctx's error is returned.
func Run(ctx context.Context, c Cmd) error {
	p, err := Start(ctx, c)
	if err != nil {
		return err
	}
	return p.Wait()
}

// Output is Run that returns what the program wrote to its standard output.
func Output(ctx context.Context, c Cmd) ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := Run(ctx, c)
	return out.Bytes(), err
}

// Process is a program that was started.
type Process struct {
	cmd  *exec.Cmd
	ctx  context.Context
	tail *tail
}

// Start starts c. Wait must be called.
func Start(ctx context.Context, c Cmd) (*Process, error) {
	if !filepath.IsAbs(c.Path) {
		return nil, fmt.Errorf("process: %q is not an absolute path", c.Path)
	}
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = c.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.ExtraFiles = c.Files
	p := &Process{cmd: cmd, ctx: ctx}
	if c.Stderr == nil {
		p.tail = &tail{}
		cmd.Stderr = p.tail
	}
	attr := c.Attr
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	if c.User != 0 || c.Group != 0 {
		attr.Credential = &syscall.Credential{Uid: c.User, Gid: c.Group, Groups: []uint32{}}
	}
	cmd.SysProcAttr = attr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.Grace
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = 5 * time.Second
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("process: cannot start %s: %w", c.Path, err)
	}
	return p, nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends s.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the end. The error is an *ExitError if the program itself failed.
func (p *Process) Wait() error {
	err := p.cmd.Wait()
	if err == nil {
		return nil
	}
	if p.ctx.Err() != nil {
		return fmt.Errorf("process: %s was stopped: %w", filepath.Base(p.cmd.Path), context.Cause(p.ctx))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		e := &ExitError{Program: filepath.Base(p.cmd.Path), Code: exit.ExitCode()}
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			e.Signal = st.Signal()
		}
		if p.tail != nil {
			e.Stderr = strings.TrimSpace(string(p.tail.b))
		}
		return e
	}
	return fmt.Errorf("process: %s: %w", filepath.Base(p.cmd.Path), err)
}

// ExitError is a program's own failure.
type ExitError struct {
	Program string
	Code    int            // -1 if a signal ended it
	Signal  syscall.Signal // 0 if none did
	Stderr  string         // the end of its standard error, if nobody else took it
}

// Error says how the program ended, with the end of its standard error.
func (e *ExitError) Error() string {
	s := fmt.Sprintf("%s ended with exit code %d", e.Program, e.Code)
	if e.Signal != 0 {
		s = fmt.Sprintf("%s was ended by signal %d (%s)", e.Program, e.Signal, e.Signal)
	}
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// Look returns the absolute path of a program that the host's own packages install, or an error that names the package.
func Look(name, pkg string) (string, error) {
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The program %s is not installed.", name),
		fmt.Sprintf("Install Debian's package %s.", pkg), nil)
}

// tail keeps the last 4 KiB that were written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 4096
	t.b = append(t.b, p...)
	if len(t.b) > most {
		t.b = append(t.b[:0], t.b[len(t.b)-most:]...)
	}
	return len(p), nil
}
