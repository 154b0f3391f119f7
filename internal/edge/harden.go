package edge

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// Harden gives up everything but what Run needs: no capability, no file, no socket of its own making, no connection of
// its own. Call it when the listeners are there and the connection to the supervisor is made (fdpass.NewNotifier).
func Harden() error {
	if waf.Files {
		return bulwark.Fail(bulwark.KindInternal, "This program was built without the tag no_fs_access, so its firewall would open files.", "Build it by make.", nil)
	}
	// A call that makes, names or connects a socket is refused and not deadly: net/http's libraries may try one on a
	// path that can do without it.
	// Datagrams come many at a time (HTTP/3).
	return sandbox.Enter(sandbox.Policy{Rules: append(sandbox.Serving(), sandbox.Allowed(unix.SYS_RECVMMSG)...)})
}

// prepare sets on a public TCP listener what accepted connections inherit: one whose client takes nothing for a
// minute is ended by the kernel, at no cost per request.
func prepare(l net.Listener) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(clientStallTime.Milliseconds()))
	})
}
