package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// Action is what the kernel does with a system call.
type Action uint32

// The actions. What no rule names is Refuse.
const (
	Allow  Action = unix.SECCOMP_RET_ALLOW
	Refuse Action = unix.SECCOMP_RET_ERRNO | Action(unix.EPERM)
	Absent Action = unix.SECCOMP_RET_ERRNO | Action(unix.ENOSYS) // for calls whose caller knows a fall-back
	Kill   Action = unix.SECCOMP_RET_KILL_PROCESS                // for calls that only an intruder makes
)

// Rule says what happens to one system call. The first rule that matches decides.
type Rule struct {
	Call uintptr // its number, unix.SYS_…
	When []Test  // all must hold; none means always
	Then Action
}

// Test looks at the low 32 bits of an argument: those under Mask must equal Value. It is meant for arguments that the
// kernel itself takes as int or as a flag word; pointers cannot be looked behind.
type Test struct {
	Arg         int
	Mask, Value uint32
}

// Load puts the filter in force for every thread, now and later (TSYNC). No new privileges must be set already.
func Load(rules []Rule) error {
	prog, err := Compile(rules)
	if err != nil {
		return err
	}
	return load(prog)
}

func load(prog []unix.SockFilter) error {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	if errno != 0 {
		return refused("load the system call filter", errno)
	}
	if r != 0 {
		return refused("load the system call filter", fmt.Errorf("thread %d has a filter of its own", r))
	}
	return nil
}

// Offsets into struct seccomp_data.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// Compile turns rules into the BPF program that Load hands to the kernel: a foreign calling convention is killed first,
// since its numbers mean other calls.
func Compile(rules []Rule) ([]unix.SockFilter, error) { return compile(rules, Refuse) }

// compile is Compile with what becomes of calls that no rule names.
func compile(rules []Rule, otherwise Action) ([]unix.SockFilter, error) {
	ld := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	ret := func(a Action) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(a)} }
	jump := func(op uint16, k uint32, jt, jf uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | op, K: k, Jt: jt, Jf: jf}
	}
	prog := []unix.SockFilter{
		ld(offsetArch), jump(unix.BPF_JEQ, auditArch, 1, 0), ret(Kill),
		ld(offsetCall), jump(unix.BPF_JGE, foreignCalls, 0, 1), ret(Kill),
	}
	for _, r := range rules {
		if len(r.When) > 6 {
			return nil, bulwark.Failf(bulwark.KindInternal, "A rule of the system call filter has more tests than a call has arguments.")
		}
		// The accumulator holds the call's number here; a failed test must load it again before the next rule.
		body := 1 + 3*len(r.When)
		prog = append(prog, jump(unix.BPF_JEQ, uint32(r.Call), 0, uint8(body)))
		for i, t := range r.When {
			rest := 3*(len(r.When)-i-1) + 1 // what is left of this rule after this test's jump
			prog = append(prog, ld(offsetArgs+8*uint32(t.Arg)+lowWord),
				unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: t.Mask},
				jump(unix.BPF_JEQ, t.Value, 0, uint8(rest)))
		}
		prog = append(prog, ret(r.Then))
		if len(r.When) > 0 {
			prog = append(prog, ld(offsetCall))
		}
	}
	prog = append(prog, ret(otherwise))
	if len(prog) > unix.BPF_MAXINSNS {
		return nil, bulwark.Fail(bulwark.KindInternal, "The system call filter is too long.", "", errors.New("BPF_MAXINSNS"))
	}
	return prog, nil
}
