//go:build machine

package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// request is what the agent shall do: write a file, or run a program.
type request struct {
	ID      int           `json:"id"`
	User    string        `json:"user,omitempty"` // root if empty
	Dir     string        `json:"dir,omitempty"`
	Args    []string      `json:"args,omitempty"`
	Input   string        `json:"input,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Write   string        `json:"write,omitempty"` // path, of Input
}

// reply is what came of it.
type reply struct {
	ID     int    `json:"id"`
	Out    string `json:"out"`
	Err    string `json:"err"` // what it wrote to its standard error
	Code   int    `json:"code"`
	Failed string `json:"failed,omitempty"` // it could not be run
}

// portName is the virtio port on which test and agent speak.
const portName = "bulwark.agent"

// agent runs on the machine, as root, started by systemd: it does what the test asks for, several things at a time.
func agent() error {
	port, err := os.OpenFile("/dev/virtio-ports/"+portName, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(port).Encode(r) // nobody listens: the test's own time-out tells
	}
	say(reply{}) // here I am
	for in := json.NewDecoder(port); ; {
		var q request
		if err := in.Decode(&q); err != nil {
			if errors.Is(err, io.EOF) { // the test is not connected at the moment
				time.Sleep(100 * time.Millisecond)
				in = json.NewDecoder(port)
				continue
			}
			return err
		}
		go func() {
			r := reply{ID: q.ID}
			if err := do(q, &r); err != nil {
				r.Failed = err.Error()
			}
			say(r)
		}()
	}
}

func do(q request, r *reply) error {
	who := &syscall.Credential{}
	home := "/root"
	if q.User != "" {
		u, err := user.Lookup(q.User)
		if err != nil {
			return err
		}
		id, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return err
		}
		who, home = &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}, u.HomeDir
	}
	if q.Write != "" {
		return errors.Join(makeParents(filepath.Dir(q.Write), int(who.Uid)), os.WriteFile(q.Write, []byte(q.Input), 0o644), os.Chown(q.Write, int(who.Uid), int(who.Gid)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), q.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, q.Args[0], q.Args[1:]...)
	cmd.Dir = home
	if q.Dir != "" {
		cmd.Dir = q.Dir
	}
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "GIT_AUTHOR_NAME=ada",
		"GIT_AUTHOR_EMAIL=ada@localhost", "GIT_COMMITTER_NAME=ada", "GIT_COMMITTER_EMAIL=ada@localhost", "USER=" + q.User}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader([]byte(q.Input)), &out, &errs
	err := cmd.Run()
	r.Out, r.Err = out.String(), errs.String()
	if ctx.Err() != nil {
		return errors.New("it took longer than " + q.Timeout.String())
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.Code = exit.ExitCode()
		return nil
	}
	return err
}

func makeParents(dir string, uid int) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	return errors.Join(makeParents(filepath.Dir(dir), uid), os.Mkdir(dir, 0o755), os.Chown(dir, uid, uid))
}
