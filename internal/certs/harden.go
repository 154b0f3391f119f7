package certs

import (
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// Harden gives up everything but what Run needs: connections of its own, to authorities, to the host's resolvers, and by unix sockets to
// node and edge; no capability, no file but those that say how the host is connected and whom it trusts.
func Harden() error {
	any32 := ^uint32(0)
	unixStream := sandbox.Rule{Call: unix.SYS_SOCKET, Then: sandbox.Allow, When: []sandbox.Test{
		{Arg: 0, Mask: any32, Value: unix.AF_UNIX}, {Arg: 1, Mask: 0xf, Value: unix.SOCK_STREAM}, {Arg: 2, Mask: any32, Value: 0}}}
	return sandbox.EnterConnecting(unixStream)
}
