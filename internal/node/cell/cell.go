// Package cell runs helper programs that read a stranger's bytes: git, bulwark-pack, bulwark-unpack. It promises that such a
// program, also one that a stranger has taken over, has a control group with bounds of memory, processes and computing time, a
// network and message namespace with nothing in them, the files that it was given and no others, few system calls, a
// time and a disk to end within, and that nothing of it is left when Run returns. Whichever bound it meets, the error says
// which.
//
// What is behind the bounds is the kernel: whoever owns a helper can try it from there, as a user who owns nothing but the
// folder that the helper was to write.
package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// Cells makes cells.
type Cells struct {
	Launcher string // path of bulwark-cell
	Cgroup   string // control group below which each cell has its own, "/bulwark-main"
	// Users are ids of the platform's own, for programs that work for no single app; each is one program's at a time.
	Users UserRange

	mu   sync.Mutex // guards used
	used map[uint32]bool
}

// UserRange is a range of user ids.
type UserRange struct{ First, Count uint32 }

// User lends a user that nobody else has until it is given back.
func (c *Cells) User() (uid uint32, giveBack func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid := c.Users.First; uid < c.Users.First+c.Users.Count; uid++ {
		if uid != 0 && !c.used[uid] {
			if c.used == nil {
				c.used = map[uint32]bool{}
			}
			c.used[uid] = true
			return uid, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.used, uid)
			}, nil
		}
	}
	return 0, nil, bulwark.Failf(bulwark.KindBusy, "Too many helper programs run at once; try again in a moment.")
}

// Limits bound what a program may take. All must be set.
type Limits struct {
	Memory int64         // bytes, of the page cache too, which the kernel takes back first; there is no swap
	PIDs   int64         // threads count
	CPU    time.Duration // of one process
	Time   time.Duration // from start to end
	Disk   int64         // bytes below Cmd.Write together, and of one file
	Names  int64         // files and folders below Cmd.Write together
}

// Cmd is a program and what it gets.
type Cmd struct {
	What   string // what it does, the begin of a sentence: "Unpacking the source"
	Hint   string // what to do when it met a bound
	Path   string // absolute
	Args   []string
	Env    []string
	Dir    string
	Stdin  io.Reader
	Stdout io.Writer
	Files  []*os.File // descriptors 3 and up
	Read   []string   // files and folders that it may read, beside libraries
	Write  []string   // folders that it may write
	User   uint32     // who it runs as; not 0
	Limits
}

// libraries is what a program of the distribution is linked with.
var libraries = []string{"/usr/lib", "/lib", "/lib64", "/usr/lib64", "/usr/libexec", "/etc/ld.so.cache"}

// diskEvery is how often the folders of a running program are measured. Its first moments go unmeasured: most programs have
// ended by then.
const diskEvery = time.Second

// Run runs a program to its end. An error that says which bound it met is of KindTooLarge.
func (c *Cells) Run(ctx context.Context, cmd Cmd) error {
	if cmd.User == 0 || cmd.Memory <= 0 || cmd.PIDs <= 0 || cmd.CPU <= 0 || cmd.Time <= 0 || cmd.Disk <= 0 || cmd.Names <= 0 {
		return fmt.Errorf("cell: %s has no user or lacks a bound", cmd.Path)
	}
	bounds, err := json.Marshal(sandbox.Cell{Read: append(append([]string{}, libraries...), cmd.Read...), Write: cmd.Write,
		File: uint64(cmd.Disk), CPU: max(1, uint64(cmd.CPU/time.Second))})
	if err != nil {
		return err
	}
	g, err := makeGroup(c.Cgroup, cmd.Limits)
	if err != nil {
		return bulwark.Fail(bulwark.KindUnavailable, "A control group cannot be made on this machine.", "See the node's log.", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	timer := time.AfterFunc(cmd.Time, func() { stop(cmd.met(fmt.Sprintf("took longer than %s", cmd.Time))) })
	defer timer.Stop()
	watched := make(chan struct{})
	defer func() { stop(nil); <-watched }()
	go func() {
		defer close(watched)
		cmd.watch(ctx, stop)
	}()
	stdin, letGo := detach(cmd.Stdin)
	defer letGo()
	context.AfterFunc(ctx, letGo)
	err = g.run(ctx, process.Cmd{Path: c.Launcher, Args: append([]string{string(bounds), cmd.Path}, cmd.Args...), Env: cmd.Env, Dir: cmd.Dir,
		Stdin: stdin, Stdout: cmd.Stdout, Files: cmd.Files, User: cmd.User, Group: cmd.User,
		Grace: 500 * time.Millisecond, // it has nothing to put in order: whoever started it throws away what it made
		// No process namespace: its first process is deaf to the signals by which a program learns that it met a bound.
		Attr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}})
	if err != nil {
		err = cmd.explain(ctx, err, g.outOfMemory())
	}
	return errors.Join(err, g.remove())
}

// detach returns a reader that can be let go of: who sends a stream and stops in the middle of it does not hold who waits for
// the program. What read from the stream ends with the stream.
func detach(from io.Reader) (io.Reader, func()) {
	if _, file := from.(*os.File); from == nil || file {
		return from, func() {}
	}
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, from)
		w.CloseWithError(err)
	}()
	return r, func() { r.Close() }
}

// explain finds which bound a program met.
func (cmd *Cmd) explain(ctx context.Context, err error, oom bool) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if oom {
		return cmd.met("needs more than " + size(cmd.Memory) + " of memory")
	}
	exit, ok := errors.AsType[*process.ExitError](err)
	if !ok {
		return err
	}
	switch exit.Signal {
	case unix.SIGXCPU, unix.SIGKILL:
		return cmd.met(fmt.Sprintf("takes more than %s of computing", cmd.CPU))
	case unix.SIGXFSZ:
		return cmd.met("makes a file of more than " + size(cmd.Disk))
	}
	return err
}

func (cmd *Cmd) met(what string) error {
	return bulwark.Fail(bulwark.KindTooLarge, cmd.What+" "+what+" and was stopped.", cmd.Hint, nil)
}

// watch stops a program whose folders grow beyond the bound.
func (cmd *Cmd) watch(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var bytes, names int64
		for _, dir := range cmd.Write {
			b, n := measure(dir, cmd.Disk, cmd.Names)
			bytes, names = bytes+b, names+n
		}
		if bytes > cmd.Disk {
			stop(cmd.met("writes more than " + size(cmd.Disk)))
		}
		if names > cmd.Names {
			stop(cmd.met(fmt.Sprintf("makes more than %d files", cmd.Names)))
		}
	}
}

// measure adds up what lies below a folder, until it is more than is asked about.
func measure(dir string, mostBytes, mostFiles int64) (bytes, files int64) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it went away meanwhile
		}
		files++
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			bytes += st.Blocks * 512
		}
		if bytes > mostBytes || files > mostFiles {
			return fs.SkipAll
		}
		return nil
	})
	return bytes, files
}

func size(n int64) string {
	if n >= 1<<30 && n%(1<<30) == 0 {
		return fmt.Sprintf("%d GiB", n>>30)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// Sweep ends and removes what a node that was killed left below the control group.
func (c *Cells) Sweep() error {
	return removeAll(left(c.Cgroup))
}

// aside runs f on a thread that is thrown away afterwards. It must not be the first one, which Go never ends, and by which
// the kernel goes when it asks whose memory the node's is.
func aside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- aside(f) // another one: this one is taken
			runtime.UnlockOSThread()
			return
		}
		done <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}
