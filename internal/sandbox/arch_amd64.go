package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch    = unix.AUDIT_ARCH_X86_64
	foreignCalls = 0x40000000 // x32 calls carry this bit
	lowWord      = 0
)

// perArch lists the calls that only this architecture has.
func perArch() []Rule {
	return Allowed(unix.SYS_EPOLL_WAIT, unix.SYS_POLL)
}
