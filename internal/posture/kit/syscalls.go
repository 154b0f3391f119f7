package kit

import (
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemCalls is the attempt that makes all of them; its detail lists those that lead to the kernel's code.
const systemCalls = "make every system call"

// systemCalls tells which system calls lead to the kernel's code: which the filter lets through and the kernel has. That
// is the number to compare with that of another profile. A call that the kernel then refuses for want of a capability
// counts: its code ran.
//
// Each is asked in a process of its own. Whether the filter lets it through is found without making it: a second filter,
// put on by the child, answers every call with "ask the tracer". The kernel takes the sterner of two answers, so a call
// that the first filter refuses is refused as it says, and all others fail with ENOSYS, since there is no tracer; nothing
// is carried out (seccomp(2), "Return values of filters"). Then those that may be called with bad arguments are, to see
// whether the kernel has them: an ENOSYS there is the kernel's, or a filter's that answers so.
//
// Where a second filter is refused only the bad calls are left; then those that must not be made count as reachable.
func (s *scene) systemCalls(f map[string]string) *Syscalls {
	out := s.again(systemCalls, nil)
	if !out.Reached {
		f["syscalls"] = "not known: " + out.Detail
		return nil
	}
	how, names, _ := strings.Cut(out.Detail, ": ")
	list := strings.Fields(names)
	return &Syscalls{Reachable: len(list), Names: list, How: how}
}

// maxCall is above the highest number that a kernel has.
const maxCall = 512

// neverMade are calls that would harm the process or the machine also with bad arguments, that wait, or that end the
// process before it can say what they answered. That the kernel has them is known. The numbers that only some
// processors have are in arch_*.go.
func neverMade() []uintptr {
	return append([]uintptr{
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RT_SIGRETURN, // end the process
		unix.SYS_CLONE,                // copies it
		unix.SYS_VHANGUP,              // takes the terminal away
		unix.SYS_SYNC,                 // keeps the disk busy
		unix.SYS_MSGGET,               // -1 makes a queue that stays
		unix.SYS_ACCT,                 // 0 turns the accounting off
		unix.SYS_KEXEC_LOAD,           // 0 takes the prepared kernel away
		unix.SYS_KEXEC_FILE_LOAD,      // so do certain flags
		unix.SYS_KILL, unix.SYS_TKILL, // -1 is everybody
		unix.SYS_REBOOT, unix.SYS_INIT_MODULE, unix.SYS_ADD_KEY,
	}, archNeverMade()...)
}

// argumentSets are what is shown to the filter: one that looks at arguments lets some through.
func argumentSets(nr uintptr) [][6]uintptr {
	all := ^uintptr(0)
	sets := [][6]uintptr{{all, all, all, all, all, all}, {}, {1, 1, 1, 1, 1, 1}}
	switch nr {
	case unix.SYS_PERSONALITY:
		sets = append(sets, [6]uintptr{0xffffffff}) // asks only
	case unix.SYS_EXIT_GROUP:
		sets = [][6]uintptr{{uintptr(unix.ENOSYS)}} // the one that the second filter lets through
	case unix.SYS_PRCTL:
		sets = append(sets, [6]uintptr{unix.PR_SET_NAME})
	}
	return sets
}

// badArguments are for the kernel: with these no call does anything. For most that is -1; the others tell by ENOSYS also
// that they do not know the operation, and get one.
func badArguments(nr uintptr) [6]uintptr {
	all := ^uintptr(0)
	switch nr {
	case unix.SYS_FUTEX:
		return [6]uintptr{0, 1} // wake nobody, at no address
	case archModifyLDT:
		return [6]uintptr{}
	}
	return [6]uintptr{all, all, all, all, all, all}
}

// systemCallsHere makes them. It runs in a process of its own, which does nothing else.
func systemCallsHere(*scene) outcome {
	if callNames == "" {
		return refused("the numbers of this processor's calls are not known here")
	}
	names := strings.Fields(callNames)
	never := neverMade()
	p := newProbe()
	second := p.ask(unix.SYS_GETPID, [6]uintptr{}, true) == answer(unix.ENOSYS)
	how := "let through by the filter, seen by a second filter that carries nothing out, and there in the kernel"
	if !second {
		how = "did not fail with EPERM or ENOSYS when called with bad arguments, since no second filter could be put on; those that must not be called are counted"
	}
	var list []string
	for nr := uintptr(0); nr < maxCall; nr++ {
		mustNot := slices.Contains(never, nr)
		switch {
		case second && !p.letThrough(nr):
			continue
		case !mustNot && (int(nr) < len(names) && names[nr] != "-" || second):
			if a := p.ask(nr, badArguments(nr), false); a == answer(unix.ENOSYS) || a == filtered || !second && a == answer(unix.EPERM) {
				continue
			}
		case !mustNot:
			continue
		}
		name := "number-" + strconv.Itoa(int(nr))
		if int(nr) < len(names) && names[nr] != "-" {
			name = names[nr]
		}
		list = append(list, name)
	}
	if len(list) == 0 {
		return untried("not one answered")
	}
	return reached("%s: %s", how, strings.Join(list, " "))
}

func (p *probe) letThrough(nr uintptr) bool {
	return slices.ContainsFunc(argumentSets(nr), func(a [6]uintptr) bool {
		// uprobe and uretprobe are filtered by no kernel since 6.14, and kill whoever makes them himself.
		got := p.ask(nr, a, true)
		return got == answer(unix.ENOSYS) || got == crashed
	})
}

// answer is what a call was answered with: an error number, or one of these.
type answer int

const (
	filtered answer = -1 // killed by the filter
	crashed  answer = -2 // killed for another reason
	waited   answer = -3 // did not answer
)

// probe makes calls, each in a copy of the process.
type probe struct {
	filter [4]unix.SockFilter
	prog   unix.SockFprog
}

func newProbe() *probe {
	// The one call that is let through is the one by which the copy says what it saw.
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	p := &probe{filter: [4]unix.SockFilter{
		{Code: load, K: 0}, // the number
		{Code: equal, Jf: 1, K: unix.SYS_EXIT_GROUP},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_TRACE},
	}}
	p.prog = unix.SockFprog{Len: uint16(len(p.filter)), Filter: &p.filter[0]}
	return p
}

// callTime is how long a call may take that should not wait.
const callTime = 500 * time.Millisecond

func (p *probe) ask(nr uintptr, a [6]uintptr, filter bool) answer {
	var prog uintptr
	if filter {
		prog = uintptr(unsafe.Pointer(&p.prog))
	}
	pid := forkCall(nr, &a, prog)
	runtime.KeepAlive(p)
	if pid <= 0 {
		return waited
	}
	var ws unix.WaitStatus
	for end := time.Now().Add(callTime); ; {
		got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		if err != nil && err != unix.EINTR {
			return crashed
		}
		if got == pid {
			break
		}
		if time.Now().After(end) {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, &ws, 0, nil)
			return waited
		}
		time.Sleep(50 * time.Microsecond)
	}
	switch {
	case ws.Signaled() && ws.Signal() == unix.SIGSYS:
		return filtered
	case ws.Signaled():
		return crashed
	}
	return answer(ws.ExitStatus())
}

// by32 stands for a call by the 32-bit door.
const by32 = ^uintptr(0)

// forkCall copies the process; the copy makes one call and ends with its error number. Until then it runs on this function
// alone: it has one thread, and must not allocate, grow its stack or be preempted (as syscall.forkAndExecInChild, by
// which os.StartProcess does the same).
//
//go:noinline
//go:norace
//go:nosplit
func forkCall(nr uintptr, a *[6]uintptr, prog uintptr) int {
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 {
		return -int(e)
	}
	if pid != 0 {
		return int(pid)
	}
	// A fault is to end it: while all signals are blocked, Go's handler, which would print, is not asked.
	blocked := ^uint64(0)
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&blocked)), 0, unsafe.Sizeof(blocked), 0, 0)
	_, _, _ = unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0) // it outlives nobody
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSID, 0, 0, 0, 0, 0, 0)
	if prog != 0 {
		_, _, _ = unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
		if _, _, e = unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, prog, 0, 0, 0); e != 0 {
			_, _, _ = unix.RawSyscall6(unix.SYS_EXIT_GROUP, 255, 0, 0, 0, 0, 0)
		}
	}
	if nr == by32 {
		e = call32()
	} else {
		_, _, e = unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	}
	for {
		_, _, _ = unix.RawSyscall6(unix.SYS_EXIT_GROUP, uintptr(e), 0, 0, 0, 0, 0)
	}
}
