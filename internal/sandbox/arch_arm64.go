package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch    = unix.AUDIT_ARCH_AARCH64
	foreignCalls = 0x40000000 // no call of arm64 has a number this high
	lowWord      = 0
)

// perArch lists the calls that only this architecture has.
func perArch() []Rule { return Allowed(unix.SYS_PPOLL) }
