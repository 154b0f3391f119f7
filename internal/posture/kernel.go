package posture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/process"
)

func selfPID() int { return os.Getpid() }

// uidOf tells whether a process is gone.
func uidOf(pid int) (uint32, bool) {
	st, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return 0, true
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	return s.Uid, !ok
}

// runKit runs the attack kit from here.
func (w *World) runKit(ctx context.Context, args ...string) ([]byte, error) {
	out := &bounded{left: maxOutput}
	err := process.Run(ctx, process.Cmd{Path: w.Kit, Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Dir: w.Scratch, Stdout: out})
	return out.b.Bytes(), err
}

// stopTime is how long a process may take to stop.
const stopTime = 10 * time.Second

// maxFilters bounds how many filters a process may have on top of each other.
const maxFilters = 32

// seccompFilter returns the program that filters a process's system calls, as the kernel has it (ptrace(2),
// PTRACE_SECCOMP_GET_FILTER): what counts is what is in force, not what was asked for. The process is stopped for some
// microseconds; it is an instance's first process, which is our own init and not the app.
func seccompFilter(pid int) (program []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // a tracer is a thread; it ends with this function, which detaches it from whatever is left
		program, err = filterOf(pid)
	}()
	<-done
	return program, err
}

func filterOf(pid int) ([]byte, error) {
	if err := unix.PtraceSeize(pid); err != nil {
		return nil, fmt.Errorf("seize: %w", err)
	}
	defer unix.PtraceDetach(pid) //nolint:errcheck // it may have ended
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, fmt.Errorf("interrupt: %w", err)
	}
	var st unix.WaitStatus
	// A process can be where it cannot be stopped; the probes must not wait for it for ever.
	for end := time.Now().Add(stopTime); ; time.Sleep(time.Millisecond) {
		got, err := unix.Wait4(pid, &st, unix.WALL|unix.WNOHANG, nil)
		if err != nil && err != unix.EINTR {
			return nil, fmt.Errorf("wait: %w", err)
		}
		if got == pid {
			break
		}
		if time.Now().After(end) {
			return nil, errors.New("it does not stop")
		}
	}
	if !st.Stopped() {
		return nil, errors.New("it ended")
	}
	var all []byte
	for i := range maxFilters {
		const getFilter = 0x420c // PTRACE_SECCOMP_GET_FILTER
		n, _, errno := unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), uintptr(i), 0, 0, 0)
		if errno == unix.ENOENT {
			break
		}
		if errno != 0 {
			return nil, fmt.Errorf("filter %d: %w", i, errno)
		}
		b := make([]byte, int(n)*8) // struct sock_filter has 8 bytes
		if len(b) == 0 {
			continue
		}
		if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), uintptr(i), uintptr(unsafe.Pointer(&b[0])), 0, 0); errno != 0 { //nolint:gosec // the kernel fills what it said that it needs
			return nil, fmt.Errorf("filter %d: %w", i, errno)
		}
		all = binary.LittleEndian.AppendUint32(all, uint32(n))
		all = append(all, b...)
	}
	if len(all) == 0 {
		return nil, errors.New("there is none")
	}
	return all, nil
}
