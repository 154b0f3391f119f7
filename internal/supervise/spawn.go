package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/sandbox"
	"golang.org/x/sys/unix"
)

// child is one running process of a unit.
type child struct {
	pid     int
	started uint64 // field 22 of /proc/PID/stat: with pid and boot it names a process for ever
	since   time.Time
	signal  func(syscall.Signal) error
	adopted bool

	ready     chan struct{} // closed by READY=1
	readyOnce sync.Once
	done      chan struct{} // closed when it has ended
	reason    string        // how; valid after done
	leaving   chan struct{} // closed by STOPPING=1
	leaveOnce sync.Once

	retiring bool // under the unit's mu: it was told to stop, and may not store any more
}

func (c *child) markReady() { c.readyOnce.Do(func() { close(c.ready) }) }

func (c *child) markLeaving() { c.leaveOnce.Do(func() { close(c.leaving) }) }

func (c *child) isReady() bool { return closed(c.ready) }

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// spawn starts a process of u with its sockets first and its stored descriptors after them. The caller holds u.mu, so
// that a message of the new process is not looked at before its pid is known.
func (u *unit) spawn() (*child, error) {
	logFile, err := openLog(u.logPath())
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	files, names, err := u.handOver()
	defer closeFiles(files)
	if err != nil {
		return nil, err
	}
	path := u.spec.Path
	if path == "" {
		path = u.s.cfg.Binary
	}
	c := process.Cmd{
		Path: path, Args: u.spec.Args, Env: u.env(names), Dir: "/", Stdout: logFile, Stderr: logFile, Files: files,
		User: u.spec.User, Group: u.spec.User, Grace: time.Hour,
		// A session of its own: Ctrl-C in the operator's terminal is for the supervisor alone. No Pdeathsig: a child
		// outlives the supervisor.
		Attr: &syscall.SysProcAttr{
			Setsid: true, AmbientCaps: u.spec.Caps,
			Credential: &syscall.Credential{Uid: u.spec.User, Gid: u.spec.User, Groups: []uint32{}},
		},
	}
	if u.spec.Apart {
		c.Attr.Cloneflags = syscall.CLONE_NEWNET
	}
	p, err := startConfined(u.spec, c)
	if err != nil {
		return nil, err
	}
	child := watch(p)
	if err := boundThreads(p.PID(), u.spec.Threads); err != nil {
		u.s.log.Warn("the number of threads is not bounded: the supervisor lacks CAP_SYS_RESOURCE", "process", u.spec.Name, "error", err)
	}
	return child, nil
}

// env is the whole environment. LISTEN_PID is left out: it tells a process that the variables are not inherited from
// its parent's parent, and here nothing is ever inherited.
func (u *unit) env(names []string) []string {
	inst := u.s.cfg.Installation
	env := []string{
		"BULWARK_ROOT=" + inst.Root,
		"NOTIFY_SOCKET=" + inst.NotifySocket(u.spec.Name),
		"TZ=UTC",
	}
	if len(names) > 0 {
		env = append(env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return append(env, u.spec.Env...)
}

// handOver returns copies of the unit's descriptors for a new process, in the order of LISTEN_FDNAMES.
func (u *unit) handOver() (files []*os.File, names []string, err error) {
	var all []descriptor
	for _, l := range u.listeners {
		all = append(all, l.descriptor)
	}
	all = append(all, u.store.list()...)
	for _, d := range all {
		// A copy per start: os.File watches a descriptor that does not block, and the supervisor would be woken by each
		// connection. NewFile and Fd leave the mode of the socket, which running processes share, as it is.
		fd, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return files, nil, fmt.Errorf("supervise: cannot copy the descriptor %s: %w", d.name, err)
		}
		files = append(files, os.NewFile(uintptr(fd), d.name))
		names = append(names, d.name)
	}
	return files, names, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// startConfined starts c from a thread that has given up what the child must not have. The thread's attributes pass to
// the child; the thread itself is never used again: it dies with the goroutine, which stays locked to it.
func startConfined(spec Spec, c process.Cmd) (*process.Process, error) {
	var p *process.Process
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = confineThread(spec); err == nil {
			p, err = process.Start(context.Background(), c)
		}
	}()
	<-done
	return p, err
}

// promptSlice is a turn of a process that people wait for; others have some milliseconds.
const promptSlice = 200 * time.Microsecond

func confineThread(spec Spec) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a umask of the thread's own
		return fmt.Errorf("supervise: unshare: %w", err)
	}
	unix.Umask(0o077)
	if spec.Prompt {
		// How long a turn on a processor is; whose turns are short gets the next one soon (EEVDF, Linux 6.12; before that it is nothing).
		// A kernel that does not know it is no reason not to start.
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Runtime: uint64(promptSlice)}, 0)
	}
	if spec.Privileged {
		return nil
	}
	for c := uintptr(0); c < 64; c++ {
		if slices.Contains(spec.Caps, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break // past the last capability that the kernel knows
		} else if err != nil {
			return fmt.Errorf("supervise: cannot drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("supervise: no_new_privs: %w", err)
	}
	return nil
}

// watch follows a process that we started.
func watch(p *process.Process) *child {
	c := &child{pid: p.PID(), since: time.Now(), ready: make(chan struct{}), done: make(chan struct{}), leaving: make(chan struct{})}
	c.signal = func(sig syscall.Signal) error { return p.Signal(sig) }
	// It is not reaped before Wait below, so the number is still its own.
	c.started, _ = startTime(c.pid)
	go func() {
		c.reason = "exit code 0"
		if err := p.Wait(); err != nil {
			c.reason = err.Error()
			if exit, ok := errors.AsType[*process.ExitError](err); ok {
				c.reason = "exit code " + strconv.Itoa(exit.Code)
				if exit.Signal != 0 {
					c.reason = "signal " + exit.Signal.String()
				}
			}
		}
		close(c.done)
	}()
	return c
}

// boundThreads limits the threads and processes of the process's user. It comes after the start, because a limit set
// before would count against the supervisor. It bounds what the process may become later, not the first moment of our
// own code. For another user's process it takes CAP_SYS_RESOURCE.
func boundThreads(pid int, n uint64) error {
	if n == 0 {
		return nil
	}
	err := unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: n, Max: n}, nil)
	if err == unix.ESRCH {
		return nil // it has ended already
	}
	return err
}

// stop asks a process to end, and makes it.
func (c *child) stop(grace time.Duration) {
	_ = c.signal(syscall.SIGTERM) // an error means that it has ended
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		_ = c.signal(syscall.SIGKILL)
		<-c.done
	}
}

// startTime returns when a process began, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name in field 2 may hold spaces and ")": count from the last one, behind which field 3 begins.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("supervise: /proc/%d/stat is too short", pid)
	}
	if f[0][0] == 'Z' || f[0][0] == 'X' {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(string(f[19]), 10, 64)
}

// raiseLimits lets the supervisor and its children open as many files as the machine permits, and forbids core files:
// keys are in memory.
func raiseLimits() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	most := lim.Max
	if b, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			most = max(most, n)
		}
	}
	// Raising the hard limit takes CAP_SYS_RESOURCE, which a container's root may lack. syscall, not unix: it is how
	// the run-time learns that children shall have the limit too, and not the one that it found.
	err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: most})
	if err != nil {
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: lim.Max, Max: lim.Max})
	}
	if err != nil {
		return fmt.Errorf("supervise: cannot raise the limit of open files: %w", err)
	}
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: sandbox.CoreLimit, Max: sandbox.CoreLimit})
}
