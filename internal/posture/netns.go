package posture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// errUntried is why an attack was not made; it says nothing about who would have refused it.
var errUntried = errors.New("it could not be tried")

// within runs f on a thread of its own in a network namespace, and throws the thread away.
func within(path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err != nil {
			done <- fmt.Errorf("%w in %s: %w", errUntried, path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func netnsOf(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// dialIn connects to an address from within a network namespace.
func dialIn(ns string, to netip.AddrPort) error {
	return within(ns, func() error { return reach(to) })
}

// addressesIn are the addresses of a process's network namespace, but for the loopback.
func addressesIn(pid int) ([]netip.Addr, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	list, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.Unmap().IsLoopback() && !addr.IsLinkLocalUnicast() {
			out = append(out, addr.Unmap())
		}
	}
	return out, nil
}

// listening are the TCP ports on which something listens in a process's network namespace.
func listening(pid int) []uint16 {
	seen := map[uint16]bool{}
	var out []uint16
	for _, table := range []string{"tcp", "tcp6"} {
		for _, s := range sockets(fmt.Sprintf("/proc/%d/net/%s", pid, table)) {
			if s.state == stateListen && !s.local.Addr().Unmap().IsLoopback() && !seen[s.local.Port()] {
				seen[s.local.Port()] = true
				out = append(out, s.local.Port())
			}
		}
	}
	return out
}

// socket is a line of /proc/net/tcp and its like (proc_pid_net(5)).
type socket struct {
	local, remote netip.AddrPort
	state         int
	uid           uint32
	inode         uint64
}

// States of a TCP socket (include/net/tcp_states.h).
const (
	stateEstablished = 1
	stateSynSent     = 2
	stateListen      = 10
)

func sockets(path string) []socket {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []socket
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[0] == "sl" {
			continue
		}
		local, lerr := parseProcAddr(f[1])
		remote, rerr := parseProcAddr(f[2])
		state, serr := strconv.ParseUint(f[3], 16, 8)
		uid, uerr := strconv.ParseUint(f[7], 10, 32)
		inode, ierr := strconv.ParseUint(f[9], 10, 64)
		if lerr != nil || rerr != nil || serr != nil || uerr != nil || ierr != nil {
			continue
		}
		out = append(out, socket{local, remote, int(state), uint32(uid), inode})
	}
	return out
}

// parseProcAddr reads "0100007F:1F90": words of the machine's byte order, each in hexadecimal.
func parseProcAddr(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(host) != 8 && len(host) != 32 {
		return netip.AddrPort{}, fmt.Errorf("posture: %q is no address", s)
	}
	b := make([]byte, len(host)/2)
	for i := range b {
		v, err := strconv.ParseUint(host[2*i:2*i+2], 16, 8)
		if err != nil {
			return netip.AddrPort{}, err
		}
		b[i/4*4+3-i%4] = byte(v) // little-endian words
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// reachTime is what a connection has that is to be made, also on a machine that stands still for a second now and then; one that is refused
// is so at once. reachInside is the same for those that an attacker tries inside, where some are dropped: the probe waits for them.
const (
	reachTime   = 5 * time.Second
	reachInside = "3s"
)

// dialOnce connects to where there should be an answer.
func dialOnce(to netip.AddrPort) (net.Conn, error) {
	return net.DialTimeout("tcp", to.String(), reachTime)
}
