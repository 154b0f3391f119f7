package dial

import (
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// Harden gives up everything but what Run needs: CAP_SYS_ADMIN (to enter namespaces), no file, and system calls that
// enter network namespaces only and make TCP and unix packet sockets only. Call it after [Home].
func Harden() error {
	any32 := ^uint32(0)
	socket := func(family, kind uint32) sandbox.Rule {
		return sandbox.Rule{Call: unix.SYS_SOCKET, Then: sandbox.Allow, When: []sandbox.Test{
			{Arg: 0, Mask: any32, Value: family}, {Arg: 1, Mask: 0xf, Value: kind}, {Arg: 2, Mask: any32, Value: 0},
		}}
	}
	rules := []sandbox.Rule{
		{Call: unix.SYS_SETNS, Then: sandbox.Allow, When: []sandbox.Test{{Arg: 1, Mask: any32, Value: unix.CLONE_NEWNET}}},
		{Call: unix.SYS_SETNS, Then: sandbox.Kill},
		socket(unix.AF_INET, unix.SOCK_STREAM),
		socket(unix.AF_INET6, unix.SOCK_STREAM),
		socket(unix.AF_UNIX, unix.SOCK_SEQPACKET),
		{Call: unix.SYS_CONNECT, Then: sandbox.Allow},
		{Call: unix.SYS_FSTATFS, Then: sandbox.Allow},
	}
	return sandbox.Enter(sandbox.Policy{
		Capabilities: []int{unix.CAP_SYS_ADMIN},
		Network:      sandbox.Network{Connect: true},
		Rules:        append(rules, sandbox.Serving()...),
	})
}
