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
		{name: "make a 32-bit system call", run: func(*scene) outcome {
			const getpid = 20
			n := int32(int80(getpid))
			if n < 0 && n > -4096 {
				return did(unix.Errno(-n))
			}
			return reached("int 0x80 answers %d", n)
		}},
		{name: "make an x32 system call", run: func(*scene) outcome {
			const x32 = 0x40000000
			_, _, e := unix.RawSyscall(x32|unix.SYS_GETPID, 0, 0, 0)
			return did(errno(e))
		}},
	}
}

// archNeverMade are calls of this processor that are not made (see neverMade).
func archNeverMade() []uintptr { return []uintptr{unix.SYS_FORK, unix.SYS_VFORK} }

// archModifyLDT is answered with ENOSYS when its operation is unknown.
const archModifyLDT = unix.SYS_MODIFY_LDT

// int80 makes a system call without arguments by the 32-bit door.
func int80(nr uint32) (r uint32)
