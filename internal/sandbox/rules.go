package sandbox

import (
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Allowed makes one rule a call that lets it pass whatever its arguments.
func Allowed(calls ...uintptr) []Rule { return all(Allow, calls) }

// Serving is what a process needs that accepts and uses sockets which others made.
func Serving() []Rule {
	return Allowed(unix.SYS_ACCEPT4, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SENDTO, unix.SYS_RECVFROM,
		unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SHUTDOWN)
}

// Connecting is what a process needs that opens connections of its own, over TCP and UDP, asks the kernel for the host's
// addresses, and reads the files that its policy names.
func Connecting() []Rule {
	any32 := ^uint32(0)
	rules := Allowed(unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_OPENAT, unix.SYS_NEWFSTATAT, unix.SYS_READLINKAT)
	for _, s := range [][2]uint32{{unix.AF_INET, unix.SOCK_STREAM}, {unix.AF_INET, unix.SOCK_DGRAM}, {unix.AF_INET6, unix.SOCK_STREAM},
		{unix.AF_INET6, unix.SOCK_DGRAM}, {unix.AF_NETLINK, unix.SOCK_RAW}} {
		rules = append(rules, Rule{Call: unix.SYS_SOCKET, Then: Allow, When: []Test{
			{Arg: 0, Mask: any32, Value: s[0]}, {Arg: 1, Mask: 0xf, Value: s[1]}, {Arg: 2, Mask: any32, Value: 0}}})
	}
	return rules
}

// hostNetwork names the files from which Go's resolver and ours read how the host is connected.
func hostNetwork() []string {
	files := []string{"/proc/self/net"}
	for _, name := range []string{"resolv.conf", "hosts", "nsswitch.conf"} {
		// A new file of the same name replaces it at any time, often by a link to elsewhere: so its directory.
		files = append(files, "/etc")
		if target, err := filepath.EvalSymlinks("/etc/" + name); err == nil {
			files = append(files, filepath.Dir(target))
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// Runtime is what Go itself needs while it runs: memory that is not executable, threads of its own, timers, signals to
// itself, the poller, and the descriptors that are open already.
func Runtime() []Rule {
	self := uint32(os.Getpid())
	noExec := []Test{{Arg: 2, Mask: unix.PROT_EXEC, Value: 0}}
	spaces := uint32(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET)
	rules := Allowed(unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT,
		unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP,
		unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_PREAD64,
		unix.SYS_PWRITE64, unix.SYS_CLOSE, unix.SYS_FCNTL, unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_BRK, unix.SYS_MUNMAP,
		unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_MREMAP, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK,
		unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL, unix.SYS_GETPID, unix.SYS_GETTID,
		unix.SYS_GETRANDOM, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME,
		unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER, unix.SYS_RSEQ, unix.SYS_SET_ROBUST_LIST, unix.SYS_MEMBARRIER,
		unix.SYS_MEMFD_CREATE, unix.SYS_FTRUNCATE, unix.SYS_SPLICE, unix.SYS_PIPE2, unix.SYS_GETUID, unix.SYS_GETEUID,
		unix.SYS_GETGID, unix.SYS_GETEGID)
	return append(append(rules, perArch()...),
		Rule{Call: unix.SYS_MMAP, When: noExec, Then: Allow},
		Rule{Call: unix.SYS_MPROTECT, When: noExec, Then: Allow},
		Rule{Call: unix.SYS_CLONE, Then: Allow, When: []Test{{Arg: 0, Mask: unix.CLONE_THREAD | spaces, Value: unix.CLONE_THREAD}}},
		Rule{Call: unix.SYS_CLONE3, Then: Absent}, // its flags lie behind a pointer; everyone falls back to clone
		Rule{Call: unix.SYS_TGKILL, Then: Allow, When: []Test{{Arg: 0, Mask: ^uint32(0), Value: self}}},
		Rule{Call: unix.SYS_PRCTL, Then: Allow, When: []Test{{Arg: 0, Mask: ^uint32(0), Value: unix.PR_SET_VMA}}},
		Rule{Call: unix.SYS_PRCTL, Then: Allow, When: []Test{{Arg: 0, Mask: ^uint32(0), Value: unix.PR_SET_NAME}}},
	)
}

// Hostile is what no process of ours does after its start and every intruder tries: it ends the process. Opening a
// file for reading is not here, it is only refused, since a library may look for a file that it can do without.
func Hostile() []Rule {
	rules := all(Kill, []uintptr{unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV,
		unix.SYS_PROCESS_VM_WRITEV, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT,
		unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_MOUNT_SETATTR, unix.SYS_BPF, unix.SYS_INIT_MODULE,
		unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
		unix.SYS_UNSHARE, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_USERFAULTFD,
		unix.SYS_PERF_EVENT_OPEN, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_PIDFD_GETFD, unix.SYS_QUOTACTL, unix.SYS_ACCT})
	for _, bits := range []Test{
		{Arg: 2, Mask: unix.O_ACCMODE, Value: unix.O_WRONLY},
		{Arg: 2, Mask: unix.O_ACCMODE, Value: unix.O_RDWR},
		{Arg: 2, Mask: unix.O_CREAT, Value: unix.O_CREAT},
	} {
		rules = append(rules, Rule{Call: unix.SYS_OPENAT, When: []Test{bits}, Then: Kill})
	}
	return rules
}

func all(then Action, calls []uintptr) []Rule {
	rules := make([]Rule, 0, len(calls))
	for _, c := range calls {
		rules = append(rules, Rule{Call: c, Then: then})
	}
	return rules
}
