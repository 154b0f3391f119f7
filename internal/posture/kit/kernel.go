package kit

import (
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelTries are calls that change the machine or are a wide door into the kernel's code. Where success would change
// something, an argument is wrong on purpose: the kernel looks at the right first (the order is that of Linux 6.x, and the
// unconfined run in the tests shows that it is so).
func kernelTries() []try {
	const name = "bulwark-kit"
	return append([]try{
		// Keyrings are not separated by namespaces: whoever has them reads what other users' processes left there.
		{name: "add_key", run: func(*scene) outcome {
			_, err := unix.AddKey("user", name, []byte("kit"), unix.KEY_SPEC_PROCESS_KEYRING) // ends with this process
			return did(err)
		}},
		{name: "request_key", run: func(*scene) outcome {
			_, err := call(unix.SYS_REQUEST_KEY, text("user\x00"), text(name+"-none\x00"), 0, 0) // without a callout no helper is started
			return past(err, unix.ENOKEY)
		}},
		{name: "keyctl", run: func(*scene) outcome {
			_, err := unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_PROCESS_KEYRING, 1, 0, 0)
			return did(err)
		}},
		{name: "bpf", run: func(*scene) outcome {
			// A map of one number. It ends with its descriptor.
			attr := struct{ kind, key, value, entries uint32 }{2, 4, 4, 1}
			fd, err := call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
			return closed(int(fd), err)
		}},
		{name: "perf_event_open", run: func(*scene) outcome { return perf(0, -1) }},
		// The whole machine's, other instances' work too.
		{name: "perf_event_open for the whole machine", run: func(*scene) outcome { return perf(-1, 0) }},
		// Holds the kernel still in the middle of a copy: what most exploits of races are made of.
		{name: "userfaultfd", run: func(*scene) outcome {
			fd, err := call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC)
			return closed(int(fd), err)
		}},
		// Does what the filter of system calls cannot see.
		{name: "io_uring_setup", run: func(*scene) outcome {
			var params [120]byte
			fd, err := call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
			return closed(int(fd), err)
		}},
		{name: "fanotify_init", run: func(*scene) outcome {
			fd, err := unix.FanotifyInit(unix.FAN_CLOEXEC|unix.FAN_CLASS_CONTENT, unix.O_RDONLY)
			return closed(fd, err)
		}},
		// Another kernel, or code in this one. 17 segments are one more than there may be; no module is 0 bytes long; -1 is no
		// file; nothing has that name.
		{name: "kexec_load", run: func(*scene) outcome {
			_, err := call(unix.SYS_KEXEC_LOAD, 0, 17, 0, 0)
			return past(err, unix.EINVAL)
		}},
		{name: "init_module", run: func(*scene) outcome {
			_, err := call(unix.SYS_INIT_MODULE, 0, 0, text("\x00"))
			return past(err, unix.ENOEXEC)
		}},
		{name: "finit_module", run: func(*scene) outcome {
			_, err := call(unix.SYS_FINIT_MODULE, ^uintptr(0), text("\x00"), 0)
			return past(err, unix.EBADF)
		}},
		{name: "delete_module", run: func(*scene) outcome {
			_, err := call(unix.SYS_DELETE_MODULE, text(name+"\x00"), unix.O_NONBLOCK)
			return past(err, unix.ENOENT)
		}},
		// No magic number: the right is looked at before it.
		{name: "reboot", run: func(*scene) outcome {
			_, err := call(unix.SYS_REBOOT, 0, 0, 0, 0)
			return past(err, unix.EINVAL)
		}},
		{name: "swapon", run: func(*scene) outcome {
			_, err := call(unix.SYS_SWAPON, text("/"+name+"\x00"), 0)
			return past(err, unix.ENOENT)
		}},
		{name: "swapoff", run: func(*scene) outcome {
			_, err := call(unix.SYS_SWAPOFF, text("/"+name+"\x00"))
			return past(err, unix.ENOENT)
		}},
		{name: "quotactl", run: func(*scene) outcome {
			const getFormat = 0x800004 << 8
			_, err := call(unix.SYS_QUOTACTL, getFormat, text("/"+name+"\x00"), 0, 0)
			return past(err, unix.ENOENT, unix.ENODEV)
		}},
		{name: "acct", run: func(*scene) outcome {
			return past(unix.Acct("/"+name), unix.ENOENT)
		}},
		// A tick of 0 and a zone of 9999 minutes are none; the clock stays as it is. (clock_settime looks at the time before it
		// looks at the right, so that only a good one would tell; it takes the same right as these.)
		{name: "adjtimex", run: func(*scene) outcome {
			_, err := call(unix.SYS_ADJTIMEX, uintptr(unsafe.Pointer(&unix.Timex{Modes: noTick})))
			return past(err, unix.EINVAL)
		}},
		{name: "clock_adjtime", run: func(*scene) outcome {
			_, err := call(unix.SYS_CLOCK_ADJTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&unix.Timex{Modes: noTick})))
			return past(err, unix.EINVAL)
		}},
		{name: "settimeofday", run: func(*scene) outcome {
			zone := [2]int32{9999, 0}
			_, err := call(unix.SYS_SETTIMEOFDAY, 0, uintptr(unsafe.Pointer(&zone)))
			return past(err, unix.EINVAL)
		}},
		// No name is of negative length.
		{name: "sethostname", run: func(*scene) outcome {
			_, err := call(unix.SYS_SETHOSTNAME, text(name+"\x00"), ^uintptr(0))
			return past(err, unix.EINVAL)
		}},
		{name: "setdomainname", run: func(*scene) outcome {
			_, err := call(unix.SYS_SETDOMAINNAME, text(name+"\x00"), ^uintptr(0))
			return past(err, unix.EINVAL)
		}},
		{name: "memfd_secret", run: func(*scene) outcome {
			fd, err := call(unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC)
			return closed(int(fd), err)
		}},
		{name: "name_to_handle_at", run: func(*scene) outcome {
			_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
			return past(err, unix.EOPNOTSUPP)
		}},
		// Files by number, past every directory in between: the way out of early Docker (shocker, 2014). Number 2 is a root
		// directory's.
		{name: "open_by_handle_at", run: func(*scene) outcome {
			fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return untried("%v", err)
			}
			defer unix.Close(fd)
			got, err := unix.OpenByHandleAt(fd, unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0}), unix.O_RDONLY)
			if err == nil {
				unix.Close(got)
			}
			return past(err, unix.ESTALE)
		}},
		{name: "read the kernel's log", run: func(*scene) outcome {
			const readAll = 3
			var b [64]byte
			_, err := unix.Klogctl(readAll, b[:])
			return did(err)
		}},
		{name: "push input into a terminal", run: pushInput},
	}, archTries()...)
}

// text is a constant that ends with a zero byte, for a raw call. It lies in the program and never moves.
func text(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s))) }

func perf(pid, cpu int) outcome {
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER1, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
	fd, err := unix.PerfEventOpen(attr, pid, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	return closed(fd, err)
}

// noTick is ADJ_TICK: a clock that is to be set to the tick that comes with it, which is 0.
const noTick = 0x4000

// pushInput types into a terminal of its own: where that works, a program can type into the terminal that it was given,
// and what is on the other side may read it after the program is gone.
func pushInput(*scene) outcome {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return refused("no terminal: %v", err)
	}
	signal.Ignore(unix.SIGHUP) // which comes when the terminal goes
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return refused("no terminal: %v", err)
	}
	slave, err := call(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if err != nil {
		return refused("no terminal: %v", err)
	}
	defer unix.Close(int(slave))
	if _, err := unix.Setsid(); err != nil {
		return untried("no session of its own: %v", err)
	}
	if err := unix.IoctlSetInt(int(slave), unix.TIOCSCTTY, 0); err != nil {
		return untried("no terminal of its own: %v", err)
	}
	c := byte('x')
	_, err = call(unix.SYS_IOCTL, slave, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
	return did(err)
}
