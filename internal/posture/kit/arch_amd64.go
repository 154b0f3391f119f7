package kit

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// archTries are about the other ways into the kernel that this processor has: a filter that knows one numbering of the
// system calls says nothing of the others.
func archTries() []try {
	return []try{
		{name: "modify_ldt", run: func(*scene) outcome {
			var b [16]byte
			_, err := call(unix.SYS_MODIFY_LDT, 0, uintptr(unsafe.Pointer(&b)), 16)
			return did(err)
		}},
		// Each in a copy of the process: a filter may end the thread that tries it.
		{name: "make a 32-bit system call", run: func(*scene) outcome { return answered(newProbe().ask(by32, [6]uintptr{}, false)) }},
		{name: "make an x32 system call", run: func(*scene) outcome {
			const x32 = 0x40000000
			return answered(newProbe().ask(x32|unix.SYS_GETPID, [6]uintptr{}, false))
		}},
	}
}

func answered(a answer) outcome {
	switch {
	case a == 0:
		return reached("the kernel did it")
	case a == filtered:
		return refused("killed for it by the system call filter")
	case a < 0:
		return refused("it ended the process, or did not come back")
	}
	return refused("%v", unix.Errno(a))
}

// archNeverMade are calls of this processor that are not made (see neverMade).
func archNeverMade() []uintptr { return []uintptr{unix.SYS_FORK, unix.SYS_VFORK} }

// archModifyLDT is answered with ENOSYS when its operation is unknown.
const archModifyLDT = unix.SYS_MODIFY_LDT

// call32 makes a system call by the 32-bit door, as part of forkCall.
//
//go:nosplit
func call32() unix.Errno {
	const getpid = 20
	if r := int32(int80(getpid)); r < 0 {
		return unix.Errno(-r)
	}
	return 0
}

// int80 makes a system call without arguments.
func int80(nr uint32) (r uint32)
