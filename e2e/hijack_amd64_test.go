package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hijacked is a running process whose main thread we command. Whoever takes a process over by a hole in it can have it make any system
// call with any arguments, and that is what this does: with the process's own user, capabilities, namespaces, Landlock domain, filter of
// system calls and descriptors, not with a copy of them.
//
// ptrace(2) is a matter between threads, so all methods are called on the thread that [hijack] locked.
type hijacked struct {
	pid  int
	was  unix.PtraceRegsAmd64
	at   uint64 // where it has a syscall instruction
	page uint64 // memory that we had it get
	used uint64
	mem  *os.File
	dead bool
}

// errEnded says that the process did not survive a call.
var errEnded = errors.New("the kernel ended the process")

const scratch = 1 << 16

// hijack runs f with a process's main thread in hand, and lets it go on afterwards as if nothing had been.
func hijack(pid int, f func(*hijacked) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	h := &hijacked{pid: pid}
	if err := h.seize(); err != nil {
		return fmt.Errorf("process %d cannot be taken over: %w", pid, err)
	}
	defer h.mem.Close()
	return errors.Join(f(h), h.release())
}

func (h *hijacked) seize() (err error) {
	if h.mem, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", h.pid), os.O_RDWR, 0); err != nil {
		return err
	}
	if h.at, err = h.syscallInstruction(); err != nil {
		return err
	}
	if err := unix.PtraceSeize(h.pid); err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(h.pid); err != nil {
		return err
	}
	if _, err := h.wait(); err != nil {
		return err
	}
	if err := unix.PtraceGetRegsAmd64(h.pid, &h.was); err != nil {
		return err
	}
	page, err := h.call(unix.SYS_MMAP, 0, scratch, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	h.page = uint64(page)
	return err
}

// release puts everything back. A call in which the thread was interrupted begins anew by what the registers say.
func (h *hijacked) release() error {
	if h.dead {
		return nil
	}
	_, err := h.call(unix.SYS_MUNMAP, uintptr(h.page), scratch)
	return errors.Join(err, unix.PtraceSetRegsAmd64(h.pid, &h.was), unix.PtraceDetach(h.pid))
}

// syscallInstruction finds one in the program's text.
func (h *hijacked) syscallInstruction() (uint64, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", h.pid))
	if err != nil {
		return 0, err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[1] != "r-xp" || !strings.HasPrefix(f[5], "/") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		begin, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			return 0, err
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			return 0, err
		}
		text := make([]byte, end-begin)
		if _, err := h.mem.ReadAt(text, int64(begin)); err != nil {
			return 0, err
		}
		if i := bytes.Index(text, []byte{0x0f, 0x05}); i >= 0 {
			return begin + uint64(i), nil
		}
	}
	return 0, errors.New("its text has no syscall instruction")
}

func (h *hijacked) wait() (unix.WaitStatus, error) {
	for {
		var ws unix.WaitStatus
		switch _, err := unix.Wait4(h.pid, &ws, unix.WALL, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return ws, err
		case ws.Exited() || ws.Signaled():
			h.dead = true
			return ws, errEnded
		case ws.Stopped():
			return ws, nil
		}
	}
}

// call has the process make a system call. An error is errEnded, the kernel's answer as an errno, or one of our own.
func (h *hijacked) call(nr uintptr, args ...uintptr) (uintptr, error) {
	if h.dead {
		return 0, errEnded
	}
	r := h.was
	// Orig_rax: no call that was interrupted begins anew before this one is made.
	r.Rip, r.Rax, r.Orig_rax = h.at, uint64(nr), ^uint64(0)
	for i, to := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
		*to = 0
		if i < len(args) {
			*to = uint64(args[i])
		}
	}
	if err := unix.PtraceSetRegsAmd64(h.pid, &r); err != nil {
		return 0, err
	}
	for r.Rip != h.at+2 { // signals that come in between are the process's own, and are not delivered
		if err := unix.PtraceSingleStep(h.pid); err != nil {
			return 0, err
		}
		if _, err := h.wait(); err != nil {
			return 0, err
		}
		if err := unix.PtraceGetRegsAmd64(h.pid, &r); err != nil {
			return 0, err
		}
	}
	if v := int64(r.Rax); v < 0 && v > -4096 {
		return 0, unix.Errno(-v)
	}
	return uintptr(r.Rax), nil
}

// put lays bytes into the process's memory, where they stay until [hijacked.clear].
func (h *hijacked) put(b []byte) uintptr {
	at := h.page + h.used
	if h.used += uint64(len(b)+15) &^ 15; h.used > scratch || h.dead {
		return 0
	}
	if _, err := h.mem.WriteAt(b, int64(at)); err != nil {
		return 0 // then the call itself fails, by EFAULT, which no attempt takes for a refusal
	}
	return uintptr(at)
}

func (h *hijacked) str(s string) uintptr { return h.put(append([]byte(s), 0)) }

func (h *hijacked) clear() { h.used = 0 }
