package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"golang.org/x/sys/unix"
)

// listener is a socket that is open.
type listener struct {
	descriptor
	spec  Listener
	bound string // the address that it really has
}

// backlog is how many connections wait while a process restarts; the kernel caps it at net.core.somaxconn.
const backlog = 4096

// bind makes the socket that l describes. It is left in blocking mode, and the processes set what they like.
func bind(l Listener) (listener, error) {
	var fd int
	var err error
	switch l.Network {
	case "tcp":
		fd, err = bindPort(l, unix.SOCK_STREAM)
	case "udp":
		fd, err = bindPort(l, unix.SOCK_DGRAM)
	case "unix":
		fd, err = bindUnix(l.Address, unix.SOCK_STREAM, l.Owner, l.Mode, listenOn)
	case "unixpacket":
		fd, err = bindUnix(l.Address, unix.SOCK_SEQPACKET, l.Owner, l.Mode, listenOn)
	default:
		err = fmt.Errorf("supervise: no such network: %q", l.Network)
	}
	if err != nil {
		return listener{}, err
	}
	return describe(l, fd)
}

// listenOn does nothing before the bind: its presence has bindUnix listen after it.
func listenOn(int) error { return nil }

func describe(l Listener, fd int) (listener, error) {
	id, err := inodeOf(fd)
	if err == nil {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(fd); err == nil {
			return listener{descriptor: descriptor{name: l.Name, fd: fd, id: id}, spec: l, bound: addressOf(sa)}, nil
		}
	}
	unix.Close(fd)
	return listener{}, fmt.Errorf("supervise: %w", err)
}

func addressOf(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrUnix:
		return a.Name
	}
	return ""
}

func bracket(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

func bindPort(l Listener, kind int) (int, error) {
	ap, err := netip.ParseAddrPort(l.Address)
	if err != nil {
		return -1, bulwark.Invalid(fmt.Sprintf("%q is not an address to listen on.", l.Address), "Give an IP address and a port.")
	}
	fd, err := bindAddr(ap, kind)
	if ap.Addr() == netip.IPv6Unspecified() && (err == unix.EAFNOSUPPORT || err == unix.EADDRNOTAVAIL) {
		// A machine without IPv6: "all addresses" are the IPv4 ones.
		fd, err = bindAddr(netip.AddrPortFrom(netip.IPv4Unspecified(), ap.Port()), kind)
	}
	if err == nil {
		return fd, nil
	}
	hint := "Give another address or port."
	if l.Flag != "" {
		hint = fmt.Sprintf("Choose another port with %s.", l.Flag)
	}
	switch err {
	case unix.EADDRINUSE:
		return -1, bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("Port %d (%s) is taken by %s.", ap.Port(), l.Name, describeProcess(portHolder(l.Network, ap.Port()))),
			"Stop that program, or: "+hint, err)
	case unix.EACCES:
		return -1, bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("Listening on port %d is not permitted.", ap.Port()), "Start bulwark as root. "+hint, err)
	case unix.EADDRNOTAVAIL:
		return -1, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("This machine does not have the address %s.", ap.Addr()),
			"Choose one that `ip address` shows.", err)
	}
	return -1, fmt.Errorf("supervise: cannot listen on %s: %w", l.Address, err)
}

// datagrams is the room for datagrams that wait, in bytes: while a process is replaced nobody reads them.
const datagrams = 4 << 20

func bindAddr(ap netip.AddrPort, kind int) (int, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()})
	if ap.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// The old connections of an earlier run may linger; a socket that listens is refused all the same.
	if kind == unix.SOCK_STREAM {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	} else {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, datagrams), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, datagrams))
	}
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindUnix makes a socket at path for one owner. prepare runs before the bind.
func bindUnix(path string, kind int, owner uint32, mode fs.FileMode, prepare func(fd int) error) (fd int, err error) {
	fail := func(err error) (int, error) {
		return -1, fmt.Errorf("supervise: cannot make the socket %s: %w", path, err)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&fs.ModeSocket == 0 {
			return fail(errors.New("something else is there"))
		}
		if err := os.Remove(path); err != nil { // left by an earlier supervisor; the lock says that it is gone
			return fail(err)
		}
	}
	if fd, err = unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return fail(err)
	}
	err = prepare(fd)
	if err == nil {
		// The mode of the socket before the bind is the mode that the path gets: there is no moment at which others
		// could connect.
		err = unix.Fchmod(fd, 0o600)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = os.Lchown(path, int(owner), int(owner))
	}
	if err == nil {
		err = os.Chmod(path, mode.Perm()) // the directory is root's: nobody can have put a link there
	}
	if err == nil && kind != unix.SOCK_DGRAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return fd, nil
}

// portHolder returns the process that listens on a TCP port, 0 if it cannot be told.
func portHolder(network string, port uint16) int {
	state := map[string]string{"tcp": "0A", "udp": "07"}[network]
	for _, file := range []string{"/proc/self/net/" + network, "/proc/self/net/" + network + "6"} {
		b, _ := os.ReadFile(file)
		for line := range bytes.Lines(b) {
			f := strings.Fields(string(line))
			// local address, remote address, state (0A is LISTEN, 07 an open UDP socket), …, the inode tenth (proc_net_tcp.rst)
			if len(f) > 9 && f[3] == state && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				if pid := socketHolder(f[9]); pid != 0 {
					return pid
				}
			}
		}
	}
	return 0
}

func socketHolder(ino string) int {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && target == "socket:["+ino+"]" {
			if pid, err := strconv.Atoi(strings.Split(l, "/")[2]); err == nil {
				return pid
			}
		}
	}
	return 0
}

func describeProcess(pid int) string {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return "another program"
	}
	return fmt.Sprintf("%s (process %d)", strconv.QuoteToASCII(strings.TrimSpace(string(name))), pid)
}
