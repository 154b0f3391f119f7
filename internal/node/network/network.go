// Package network keeps the router namespace of an installation: the network namespace where the links of all its
// instances end. It promises that the host's own rules and links stay as they are, and that there is no way into an
// instance, between instances or out of one but those that this package opens.
//
// It runs in the node. Whoever owns the node owns the router; an instance owns nothing but its own end of its link.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// Pool is where instances get their addresses: the benchmarking range (RFC 2544), which is routed nowhere and which nobody
// has at home, so an instance's own address never hides a destination that it may want.
var Pool = netip.MustParsePrefix("198.18.0.0/15")

// Gateway is the router's address on every link.
var Gateway = netip.MustParseAddr("198.19.255.254")

// Router is the router namespace.
type Router struct {
	path string
	mu   sync.Mutex // guards used
	used map[netip.Addr]bool
	next netip.Addr
}

// Open makes the router namespace at path (a file below /run/netns, so that "ip netns" shows it) or takes the one that is
// there. used are the addresses of the instances that already run.
func Open(path string, used []netip.Addr) (*Router, error) {
	r := &Router{path: path, used: map[netip.Addr]bool{Gateway: true}, next: Pool.Addr().Next()}
	for _, a := range used {
		r.used[a] = true
	}
	if ns, err := netns.GetFromPath(path); err == nil {
		ns.Close()
		return r, r.configure()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("network: cannot make the router namespace: %w", err)
	}
	return r, r.configure()
}

// create makes a network namespace and keeps it by a mount at path.
func create(path string) error {
	if err := shareFolder(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
}

// shareFolder makes the folder of namespaces a shared mount, as "ip netns add" does: else the first of these on the host
// would bind the folder over our mount in it, which could then not be taken away.
func shareFolder(dir string) error {
	err := unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // it is no mount yet
		if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
		err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	return err
}

// onThread runs f on a thread of its own that is thrown away: f may move it into another namespace.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// in runs f with a netlink handle of the router namespace.
func (r *Router) in(f func(h *netlink.Handle, ns netns.NsHandle) error) error {
	ns, err := netns.GetFromPath(r.path)
	if err != nil {
		return fmt.Errorf("network: the router namespace is away: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer h.Close()
	return f(h, ns)
}

func (r *Router) configure() error {
	// Nothing is forwarded, whatever the host's own setting was when the namespace was made.
	if err := r.onThreadIn(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0\n"), 0o644)
	}); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return r.in(func(h *netlink.Handle, _ netns.NsHandle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("network: %w", err)
		}
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("network: %w", err)
		}
		if err := ignoreExists(h.AddrReplace(lo, &netlink.Addr{IPNet: host(Gateway)})); err != nil {
			return err
		}
		return redirect(h, lo)
	})
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func ignoreExists(err error) error {
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return fmt.Errorf("network: %w", err)
}

// Address takes a free address for an instance.
func (r *Router) Address() (netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range 1 << 17 {
		a := r.next
		if r.next = a.Next(); !Pool.Contains(r.next) {
			r.next = Pool.Addr().Next()
		}
		if !r.used[a] {
			r.used[a] = true
			return a, nil
		}
	}
	return netip.Addr{}, bulwark.Failf(bulwark.KindBusy, "There is no free address for another instance.")
}

// Release gives an address back.
func (r *Router) Release(a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.used, a)
}

// linkName is the name of an instance's link in the router: 15 characters are all that Linux takes.
func linkName(id bulwark.InstanceID) string { return "i" + string(id[len(id)-13:]) }

// Connect gives the network namespace of process pid its one link: eth0 with the address, a route to everything through
// the router, and the loopback.
func (r *Router) Connect(id bulwark.InstanceID, pid int, a netip.Addr) error {
	inside, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer inside.Close()
	return r.in(func(h *netlink.Handle, _ netns.NsHandle) error {
		name := linkName(id)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(inside)}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("network: cannot make the link of %s: %w", id, err)
		}
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("network: %w", err)
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("network: %w", err)
		}
		if err := ignoreExists(h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: host(a), Scope: netlink.SCOPE_LINK})); err != nil {
			return err
		}
		return configureInside(inside, a)
	})
}

func configureInside(ns netns.NsHandle, a netip.Addr) error {
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer h.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("network: %w", err)
		}
		if name == "eth0" {
			if err := h.AddrReplace(link, &netlink.Addr{IPNet: host(a)}); err != nil {
				return fmt.Errorf("network: %w", err)
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("network: %w", err)
		}
		if name == "lo" {
			continue
		}
		for _, route := range []*netlink.Route{
			{LinkIndex: link.Attrs().Index, Dst: host(Gateway), Scope: netlink.SCOPE_LINK},
			{LinkIndex: link.Attrs().Index, Gw: Gateway.AsSlice(), Src: a.AsSlice()},
		} {
			if err := h.RouteReplace(route); err != nil {
				return fmt.Errorf("network: %w", err)
			}
		}
	}
	return nil
}

// Loopback brings the loopback of a process's namespace up and nothing else: a builder has no link at all.
func Loopback(pid int) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}

// Listen opens a listening TCP socket inside the network namespace of process pid.
func Listen(pid int, address string) (*os.File, error) {
	var out *os.File
	err := onThread(func() error {
		ns, err := netns.GetFromPid(pid)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		defer l.Close()
		out, err = l.(*net.TCPListener).File()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network: cannot listen inside: %w", err)
	}
	return out, nil
}

// Namespace opens the router's own.
func (r *Router) Namespace() (*os.File, error) { return os.Open(r.path) }

// Namespace opens the network namespace of a process, for dial.
func Namespace(pid int) (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
}

// Dial connects to an address from inside the network namespace that ns is.
func Dial(ns *os.File, to netip.AddrPort, timeout time.Duration) (c net.Conn, err error) {
	err = onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		// A literal address needs no look-up, so the socket is made on this very thread.
		c, err = net.DialTimeout("tcp", to.String(), timeout)
		return err
	})
	return c, err
}
