package kit

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketTries are about sockets beside the ordinary.
func socketTries() []try {
	socket := func(family, kind, protocol int) func(*scene) outcome {
		return func(*scene) outcome { return did(makeSocket(family, kind, protocol)) }
	}
	return []try{
		// Packets of one's own making, with any sender.
		{name: "raw IPv4 socket", run: socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)},
		{name: "raw ICMP socket", run: socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{name: "raw IPv6 socket", run: socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)},
		// Everything on the link, also what is for others.
		{name: "packet socket", run: socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		// Each has had holes that gave away the kernel, and no app needs them.
		{name: "netlink socket for the packet filter", run: unlessLoading("nfnetlink", socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER))},
		{name: "netlink socket for events of devices", run: socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)},
		{name: "netlink socket for auditing", run: socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT)},
		{name: "change the links of the network", run: func(*scene) outcome { return past(deleteNoLink(), unix.ENODEV) }},
		{name: "change an address of the network", run: func(*scene) outcome {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return refused("%v", err)
			}
			defer unix.Close(fd)
			ifr, err := unix.NewIfreq("kit-none0")
			if err != nil {
				return untried("%v", err)
			}
			_, err = call(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(ifr)))
			return past(err, unix.ENODEV, unix.EINVAL)
		}},
		// An abstract socket belongs to a network namespace and has no file's mode: one that is seen here and was not made
		// here is another's.
		{name: "see another's abstract socket", run: func(*scene) outcome {
			if names := abstractSockets(); len(names) > 0 {
				return reached("%d, such as %q", len(names), names[0])
			}
			return refused("there is none")
		}},
	}
}

func makeSocket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// deleteNoLink asks for a link to be deleted that there is not: the right is looked at first.
func deleteNoLink() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var m struct {
		h unix.NlMsghdr
		i unix.IfInfomsg
	}
	m.h = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(m)), Type: unix.RTM_DELLINK, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK}
	m.i.Index = 1<<31 - 1
	b := unsafe.Slice((*byte)(unsafe.Pointer(&m)), unsafe.Sizeof(m))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	var answer [256]byte
	n, _, err := unix.Recvfrom(fd, answer[:], 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || *(*uint16)(unsafe.Pointer(&answer[4])) != unix.NLMSG_ERROR {
		return fmt.Errorf("an answer of %d bytes that is none", n)
	}
	return errno(unix.Errno(-*(*int32)(unsafe.Pointer(&answer[unix.SizeofNlMsghdr]))))
}

// abstractSockets are the names of this network namespace's.
func abstractSockets() []string {
	b, _ := os.ReadFile("/proc/net/unix")
	var out []string
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") && !slices.Contains(out, f[7]) {
			out = append(out, f[7])
		}
	}
	return out
}

// packetFilter speaks to the packet filter in a network namespace of its own, by which root of a user namespace reaches
// the kernel's nf_tables: the shape of CVE-2024-1086 and of a dozen before it.
func packetFilter() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// families tries a socket of each family of the kernel's, of each type that some family knows.
func families(f map[string]string) []string {
	names := strings.Fields(familyNames)
	// Root on a host with modules would have the kernel load one for each; what is always there is tried all the same.
	always := []int{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_PACKET}
	whole := !mayLoadModules()
	if !whole {
		f["families"] = "only those for which no module would be loaded"
	}
	var out []string
	for n := 1; n < len(names); n++ {
		if n == unix.AF_NETLINK || !whole && !slices.Contains(always, n) {
			continue
		}
		if slices.ContainsFunc([]int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET}, func(kind int) bool {
			// CAN, ISDN and the like want a protocol; 1 is one of most families'.
			return makeSocket(n, kind, 0) == nil || makeSocket(n, kind, 1) == nil
		}) {
			out = append(out, names[n])
		}
	}
	for n, name := range strings.Fields(netlinkNames) {
		builtIn := n == unix.NETLINK_ROUTE || n == unix.NETLINK_KOBJECT_UEVENT || n == unix.NETLINK_GENERIC
		if (whole || builtIn) && makeSocket(unix.AF_NETLINK, unix.SOCK_RAW, n) == nil {
			out = append(out, "NETLINK_"+name)
		}
	}
	return out
}

// familyNames are those of include/linux/socket.h by number, of which the last is 45; two more for those to come.
const familyNames = `UNSPEC UNIX INET AX25 IPX APPLETALK NETROM BRIDGE ATMPVC X25 INET6 ROSE DECNET NETBEUI SECURITY KEY NETLINK
	PACKET ASH ECONET ATMSVC RDS SNA IRDA PPPOX WANPIPE LLC IB MPLS CAN TIPC BLUETOOTH IUCV RXRPC ISDN PHONET IEEE802154 CAIF ALG
	NFC VSOCK KCM QIPCRTR SMC XDP MCTP 46 47`

// netlinkNames are those of include/uapi/linux/netlink.h by number.
const netlinkNames = `ROUTE 1 USERSOCK FIREWALL SOCK_DIAG NFLOG XFRM SELINUX ISCSI AUDIT FIB_LOOKUP CONNECTOR NETFILTER IP6_FW DNRTMSG
	KOBJECT_UEVENT GENERIC DM SCSITRANSPORT ECRYPTFS RDMA CRYPTO SMC`
