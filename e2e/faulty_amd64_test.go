package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// faulty has one write of a running process fail, the nth that it makes to what it keeps on disk. Each thread of the process is stopped at each
// of its system calls meanwhile (ptrace(2)); the one that is to fail is not made, and the kernel's answer to it is ours. Or the process is
// killed in its place.
type faulty struct {
	pid   int
	under string // files below it count
	but   []string
	nth   int
	errno unix.Errno // 0: SIGKILL

	seen int
	hit  string // what was made to fail
	stop chan struct{}
	done chan error

	failing map[int]bool // threads in the call that is not made
}

// fail begins; [faulty.end] ends it.
func fail(pid int, under string, but []string, nth int, errno unix.Errno) (*faulty, error) {
	f := &faulty{pid: pid, under: under, but: but, nth: nth, errno: errno, stop: make(chan struct{}), done: make(chan error, 1), failing: map[int]bool{}}
	ready := make(chan error, 1)
	childless(func() {
		err := f.seize()
		ready <- err
		if err == nil {
			err = f.trace()
		}
		f.done <- err
	})
	return f, <-ready
}

// patience is how long a process is held at most: what waits for it would wait for ever.
const patience = 90 * time.Second

// errGone says that the process ended.
var errGone = errors.New("the process ended")

// end lets go of the process and tells what failed, "" for nothing, and how many writes there were in all.
func (f *faulty) end() (hit string, writes int, err error) {
	close(f.stop)
	err = <-f.done
	return f.hit, f.seen, err
}

func (f *faulty) threads() []int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", f.pid))
	var out []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, tid)
		}
	}
	return out
}

const traceOptions = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE

func (f *faulty) seize() error {
	have := map[int]bool{}
	for again := true; again; { // a thread that is not ours yet may make another one
		again = false
		for _, tid := range f.threads() {
			if have[tid] {
				continue
			}
			if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, traceOptions, 0, 0); errno == unix.ESRCH || errno == unix.EPERM {
				continue // it ended, or is ours by its maker
			} else if errno != 0 {
				return errno
			}
			if err := unix.PtraceInterrupt(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			have[tid], again = true, true
		}
	}
	return nil
}

// trace lets the threads run from one system call to the next until it is told to end.
func (f *faulty) trace() error {
	late := time.Now().Add(patience)
	for {
		select {
		case <-f.stop:
			return f.leave()
		default:
		}
		if time.Now().After(late) {
			return errors.Join(fmt.Errorf("nothing ended in %s after %q failed", patience, f.hit), f.leave())
		}
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOHANG|wnothread, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return errGone
		case err != nil:
			return err
		case tid == 0:
			time.Sleep(50 * time.Microsecond)
			continue
		case !ws.Stopped():
			continue // a thread ended
		}
		switch err := f.stopped(tid, ws); {
		case errors.Is(err, unix.ESRCH): // it was killed meanwhile; or else it must not be left standing
			_ = unix.PtraceSyscall(tid, 0)
		case err != nil:
			return errors.Join(fmt.Errorf("thread %d, stopped as %#x: %w", tid, ws, err), f.leave())
		}
	}
}

// wnothread is __WNOTHREAD (wait(2)): this thread's tracees alone, and no child of another thread.
const wnothread = 0x20000000

// stopped deals with a thread's stop and lets it go on.
func (f *faulty) stopped(tid int, ws unix.WaitStatus) error {
	sig := ws.StopSignal()
	event := int(ws) >> 16
	switch {
	case sig == unix.SIGTRAP|0x80:
		if err := f.call(tid); err != nil {
			return err
		}
		return unix.PtraceSyscall(tid, 0)
	case event == unix.PTRACE_EVENT_STOP && (sig == unix.SIGSTOP || sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU):
		_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_LISTEN, uintptr(tid), 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	case event != 0:
		return unix.PtraceSyscall(tid, 0)
	default:
		return unix.PtraceSyscall(tid, int(sig)) // a signal of its own
	}
}

// Kinds of a stop at a system call (PTRACE_GET_SYSCALL_INFO).
const (
	stopEntry = 1
	stopExit  = 2
)

func (f *faulty) call(tid int) error {
	var info [96]byte
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		return errno
	}
	var r unix.PtraceRegsAmd64
	switch {
	case info[0] == stopEntry:
		if err := unix.PtraceGetRegsAmd64(tid, &r); err != nil {
			return err
		}
		what := f.writes(&r)
		if what == "" {
			return nil
		}
		if f.seen++; f.seen != f.nth {
			return nil
		}
		f.hit = what
		if f.errno == 0 {
			return unix.Kill(f.pid, unix.SIGKILL)
		}
		f.failing[tid] = true
		r.Orig_rax = unix.SYS_GETPID // in its place; the filter of calls, which comes after this, does not know what is none at all
		return unix.PtraceSetRegsAmd64(tid, &r)
	case info[0] == stopExit && f.failing[tid]:
		delete(f.failing, tid)
		if err := unix.PtraceGetRegsAmd64(tid, &r); err != nil {
			return err
		}
		r.Rax = uint64(-int64(f.errno))
		return unix.PtraceSetRegsAmd64(tid, &r)
	}
	return nil
}

// writes tells what a call would change on disk, "" if it is none of those.
func (f *faulty) writes(r *unix.PtraceRegsAmd64) string {
	var name, path string
	switch r.Orig_rax {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE:
		name = map[uint64]string{unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate"}[r.Orig_rax]
		if name == "" {
			name = "write"
		}
		path, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", f.pid, r.Rdi))
	case unix.SYS_OPENAT:
		if r.Rdx&unix.O_CREAT == 0 {
			return ""
		}
		name, path = "create", f.text(r.Rsi)
	case unix.SYS_MKDIRAT:
		name, path = "mkdir", f.text(r.Rsi)
	case unix.SYS_UNLINKAT:
		name, path = "unlink", f.text(r.Rsi)
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		name, path = "rename", f.text(r.R10)
	default:
		return ""
	}
	rel, ok := strings.CutPrefix(path, f.under+"/")
	if !ok || slices.ContainsFunc(f.but, func(b string) bool { return rel == b || strings.HasPrefix(rel, b+"/") }) {
		return ""
	}
	return name + " " + filepath.Clean(rel)
}

// text reads a string of the process's.
func (f *faulty) text(at uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", f.pid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	b := make([]byte, 512)
	n, _ := mem.ReadAt(b, int64(at))
	s, _, _ := bytes.Cut(b[:n], []byte{0})
	return string(s)
}

// leave lets go of all threads. It waits for none of them alone: of a process that is just ending the first thread is not told of before the
// others have been asked for.
func (f *faulty) leave() error {
	for _, tid := range f.threads() {
		_ = unix.PtraceInterrupt(tid) // one that ended is told of below
	}
	for late := time.Now().Add(10 * time.Second); time.Now().Before(late); time.Sleep(50 * time.Microsecond) {
		held := 0
		for _, tid := range f.threads() {
			var ws unix.WaitStatus
			got, err := unix.Wait4(tid, &ws, unix.WALL|unix.WNOHANG|wnothread, nil)
			switch {
			case errors.Is(err, unix.EINTR), err == nil && got == 0:
				held++
				continue
			case err != nil, !ws.Stopped():
				continue // it was let go of, or has ended
			}
			if f.failing[tid] { // it is to hear its answer before it goes on
				held++
				if f.stopped(tid, ws) != nil {
					_ = unix.PtraceSyscall(tid, 0)
				}
				_ = unix.PtraceInterrupt(tid)
				continue
			}
			sig := 0
			if s := ws.StopSignal(); int(ws)>>16 == 0 && s != unix.SIGTRAP|0x80 && s != unix.SIGTRAP {
				sig = int(s)
			}
			if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, uintptr(sig), 0, 0); errno != 0 && errno != unix.ESRCH {
				return errno
			}
		}
		if held == 0 {
			return nil
		}
	}
	return errors.New("some threads are still held")
}

// childless calls f on a thread of the system's that has started no process, and returns: whoever waits for whatever comes there takes no end
// of a program from who started it.
func childless(f func()) {
	go func() {
		runtime.LockOSThread() // what is traced is this thread's
		defer runtime.UnlockOSThread()
		if b, err := os.ReadFile("/proc/thread-self/children"); err == nil && len(b) == 0 {
			f()
			return
		}
		done := make(chan struct{})
		childless(func() { f(); close(done) })
		<-done // this one is not taken for it again
	}()
}
