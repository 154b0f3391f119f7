package kit

import "golang.org/x/sys/unix"

// archTries are about other ways into the kernel. Of this processor's none is tried: its 32-bit numbering takes a program
// of that kind, and many of the machines lack it.
func archTries() []try { return nil }

func archNeverMade() []uintptr { return nil }

const archModifyLDT = maxCall // has none

func call32() unix.Errno { return unix.ENOSYS }
