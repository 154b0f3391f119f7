package containerd

import (
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowed are the system calls of an instance: what servers in Go, Node.js, Python, Ruby, PHP, Java and .NET make on glibc
// and musl, and no more. Those in rules of their own, further down, are let through by their arguments. Numbers that a processor has
// not are left out by runc.
//
// Whoever adds one makes its code in the kernel an app's to attack: first see whether the program has another way when the call is
// answered as in missing.
var allowed = [][]string{
	// Files by descriptor.
	{"read", "write", "readv", "writev", "pread64", "pwrite64", "open", "openat", "close", "lseek", "sendfile",
		"fsync", "fdatasync", "ftruncate", "flock", "fcntl", "dup", "dup2", "dup3", "pipe", "pipe2", "ioctl"},
	// Files by name: musl and the programs of old make the short ones, Go those that end in at.
	{"stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat", "readlink", "readlinkat", "getdents64",
		"getcwd", "chdir", "fchdir", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "link", "linkat", "symlink",
		"symlinkat", "chmod", "fchmod", "fchmodat", "umask", "utimensat"},
	// Waiting.
	{"poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2",
		"timerfd_create", "timerfd_settime", "signalfd4", "inotify_init1", "inotify_add_watch", "inotify_rm_watch"},
	// Memory.
	{"mmap", "munmap", "mprotect", "madvise", "brk", "msync",
		"memfd_create"}, // libffi, .NET
	// Processes and threads.
	{"fork", "vfork", "execve", "exit", "exit_group", "wait4", "waitid", "kill", "tkill", "tgkill", "getpid", "getppid", "gettid",
		"set_tid_address", "set_robust_list", "futex", "arch_prctl", "getuid", "geteuid", "getgid", "getegid",
		"getgroups", "setpgid", "getpgid", "getpgrp", "setsid", "getpriority", "sched_yield", "sched_getaffinity", "prlimit64", "getrusage",
		"getresuid", "getresgid"}, // Ruby, before each program that it starts
	// Signals and time.
	{"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "sigaltstack", "restart_syscall",
		"nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "setitimer", "alarm", "pause",
		"timer_create", "timer_settime", "timer_delete"}, // PHP with threads ends without them, Ruby warns
	// Sockets; which families is said below.
	{"bind", "listen", "accept", "accept4", "connect", "getsockname", "getpeername", "sendto", "recvfrom", "sendmsg",
		"recvmsg", "sendmmsg", "setsockopt", "getsockopt", "shutdown"},
	{"sysinfo", "uname", "getrandom"},
}

// missing are answered as by a kernel that does not have them (ENOSYS), since libraries know what to do then: they are newer or
// older ways to what is allowed, or help where nothing depends on it. All others are answered with EPERM.
var missing = []string{
	"clone3", // its flags lie in memory, where no filter sees them
	"rseq", "times", "mremap", "clock_getres", "close_range", "openat2", "faccessat2", "fchmodat2", "renameat2", "preadv", "pwritev", "preadv2", "pwritev2", "copy_file_range", "sync_file_range",
	"fadvise64", "readahead", "truncate", "creat", "utime", "utimes", "futimesat", "getdents", "syncfs",
	"epoll_pwait2", "eventfd", "signalfd", "inotify_init", "timerfd_gettime", "mincore", "membarrier", "mlock2", "pkey_alloc", "pkey_free",
	"pkey_mprotect", "map_shadow_stack", "cachestat", "get_mempolicy", "getcpu", "time", "getrlimit", "setrlimit", "getitimer",
	"timer_gettime", "timer_getoverrun", "rt_sigpending", "rt_sigqueueinfo",
	"rt_tgsigqueueinfo", "recvmmsg", "execveat", "get_robust_list", "pidfd_open", "pidfd_send_signal", "futex_waitv", "futex_wake", "futex_wait",
	"futex_requeue", "getsid", "sched_getparam", "sched_getscheduler", "sched_get_priority_max",
	"sched_get_priority_min", "sched_rr_get_interval", "sched_getattr", "capget", "seccomp", "landlock_create_ruleset", "landlock_add_rule",
	"landlock_restrict_self", "io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_uring_setup",
	"io_uring_enter", "io_uring_register", "process_mrelease", "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop",
	"msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
	"statmount", "listmount", "mseal", "rseq_slice_yield", "listns",
}

// unsupported are answered as by a file system that cannot do them (EOPNOTSUPP): glibc then does it otherwise, and cp, tar and
// Python's shutil go on without.
var unsupported = []string{
	"fallocate", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "setxattr", "lsetxattr", "fsetxattr",
	"removexattr", "lremovexattr", "fremovexattr", "getxattrat", "listxattrat", "setxattrat", "removexattrat",
}

// unfit are answered as for descriptors of a kind with which they do not go (EINVAL): Go's net and HAProxy then copy.
var unfit = []string{"splice", "tee", "vmsplice"}

// filter is the program that the kernel asks about each system call of an instance.
func filter() *specs.LinuxSeccomp {
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
	}
	masked := func(index uint, mask, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Value: mask, ValueTwo: value, Op: specs.OpMaskedEqual}
	}
	is := func(index uint, value uint32) specs.LinuxSeccompArg { return masked(index, 0xffffffff, uint64(value)) }
	answered := func(errno unix.Errno, names []string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: ptr(uint(errno))}
	}
	rules := []specs.LinuxSyscall{
		{Names: slices.Concat(allowed...), Action: specs.ActAllow},
		answered(unix.ENOSYS, missing), answered(unix.EOPNOTSUPP, unsupported), answered(unix.EINVAL, unfit),
		allow("clone", masked(0, newNamespaces, 0)),
		allow("prctl"),
		allow("mknod", masked(1, unix.S_IFMT, unix.S_IFIFO)), allow("mknodat", masked(2, unix.S_IFMT, unix.S_IFIFO)),
		allow("socketpair", is(0, unix.AF_UNIX)),
		allow("socket", is(0, unix.AF_UNIX)), allow("socket", is(0, unix.AF_INET)), allow("socket", is(0, unix.AF_INET6)),
		// Go's net.InterfaceAddrs and Node's os.networkInterfaces read the addresses through it.
		allow("socket", is(0, unix.AF_NETLINK), is(2, unix.NETLINK_ROUTE)),
		// Gunicorn and s6 see to it that they, and their files, are whose they are.
		allow("setuid", is(0, User)), allow("setgid", is(0, User)),
	}
	const same = ^uint32(0) // leaves an owner as it is
	for _, owner := range [][2]uint32{{User, User}, {User, same}, {same, User}} {
		for _, name := range []string{"chown", "fchown", "lchown"} {
			rules = append(rules, allow(name, is(1, owner[0]), is(2, owner[1])))
		}
		rules = append(rules, allow("fchownat", is(2, owner[0]), is(3, owner[1])))
	}
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(unix.EPERM)), Syscalls: rules,
		// One architecture: the numbers of the others lead around what is written here for this one.
		Architectures: []specs.Arch{specs.ArchX86_64}}
	if runtime.GOARCH == "arm64" {
		p.Architectures = []specs.Arch{specs.ArchAARCH64}
	}
	return p
}

// newNamespaces are the flags of clone that make a namespace.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
