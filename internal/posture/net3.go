package posture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark/internal/install"
)

func net3() Control {
	return Control{ID: "NET-3", Version: 1, Every: hourly,
		Promise: "Firewalls in layers: an instance reaches neither the host, nor private networks, nor the metadata service, and the outside reaches declared ports only.",
		Tries: "From an instance: the metadata address, the router's and the host's own ports, private ranges, IPv6, raw and spoofed packets. From the host: " +
			"every port on which one of the platform's processes listens.",
		Probe: probeNET3}
}

func probeNET3(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	args := []string{"network", "--timeout", reachInside, "--try", "dns=tcp:" + gateway + ":53"}
	names := map[string]string{}
	try := func(name, what string, to netip.AddrPort) {
		names[name] = what
		args = append(args, "--try", name+"=tcp:"+to.String())
	}
	// Listeners that are there for sure: one in the router's namespace, one on each of the host's own addresses.
	router, stop, err := hold(w.Installation.RouterNamespacePath(), netip.MustParseAddr(gateway))
	if err != nil {
		return fmt.Errorf("a listener in the router's namespace: %w", err)
	}
	stops := []func(){stop}
	done := func() {
		for _, s := range stops {
			s()
		}
		stops = nil
	}
	defer func() { done() }()
	err = answers(w.Installation.RouterNamespacePath(), router)
	r.Proven("a listener in the router's namespace is alive", err == nil, fmt.Sprint(err))
	try("router", "a port of the router's", router)
	own, err := hostAddresses()
	if err != nil {
		return err
	}
	for i, a := range own {
		at, stop, err := hold("/proc/thread-self/ns/net", a)
		if err != nil {
			continue // the address is going away
		}
		stops = append(stops, stop)
		err = answers("/proc/thread-self/ns/net", at)
		r.Proven("a listener on the host's address "+a.String()+" is alive", err == nil, fmt.Sprint(err))
		try(fmt.Sprintf("host%d", i), "the host at "+a.String(), at)
		for p, port := range w.Installation.Declared() {
			try(fmt.Sprintf("host%d-%s", i, p), "the platform's "+p+" port at "+a.String(), netip.AddrPortFrom(a, port))
		}
	}
	for name, at := range map[string]string{"metadata": "169.254.169.254:80", "ten": "10.0.0.1:80", "home": "192.168.0.1:80", "office": "172.16.0.1:443",
		"carrier": "100.64.0.1:80", "broadcast": "255.255.255.255:80", "multicast": "224.0.0.1:80", "this": "0.0.0.0:80", "router-transit": gateway + ":15001"} {
		try(name, "the closed address "+at, netip.MustParseAddrPort(at))
	}
	try("ipv6", "an address of IPv6", netip.MustParseAddrPort("[2001:db8::1]:80"))
	args = append(args, "--spoof", "198.18.255.1")
	got, err := report(w.Person.InModel(ctx, app, args...))
	if err != nil {
		return err
	}
	for _, a := range got.Attempts {
		name := lastWord(a.Name)
		if name == "dns" {
			r.Proven("the attacker's instance reaches what it may", a.Reached, a.Detail)
			continue
		}
		what := names[name]
		if what == "" {
			what = a.Name
		}
		if !a.Untried {
			r.Refused("reach "+what, !a.Reached, a.Detail)
		}
	}
	done() // they are ports of the platform's too
	return w.declaredOnly(r)
}

// declaredOnly looks at what the installation's processes listen to on the host, and connects to each.
func (w *World) declaredOnly(r *Record) error {
	declared := map[uint16]string{}
	for name, p := range w.Installation.Declared() {
		declared[p] = name
	}
	pids, err := w.platform()
	if err != nil {
		return err
	}
	owned := inodes(pids)
	found := map[uint16]bool{}
	undeclared := 0
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		for _, s := range sockets("/proc/thread-self/net/" + table) {
			if !owned[s.inode] || strings.HasPrefix(table, "tcp") && s.state != stateListen {
				continue
			}
			if strings.HasPrefix(table, "udp") && s.remote.Port() != 0 {
				continue // a question to a resolver, not a listener
			}
			if declared[s.local.Port()] == "https" && strings.HasPrefix(table, "udp") {
				continue // HTTP/3, at the same port
			}
			if name, ok := declared[s.local.Port()]; ok && strings.HasPrefix(table, "tcp") {
				found[s.local.Port()] = true
				c, err := dialOnce(netip.AddrPortFrom(loopback, s.local.Port()))
				if err == nil {
					c.Close()
				}
				r.Proven("the "+name+" port answers", err == nil || !s.local.Addr().IsLoopback() && !s.local.Addr().IsUnspecified(), s.local.String())
				continue
			}
			undeclared++
			r.Refused("listen on a port that is not declared", false, fmt.Sprintf("%s %s", table, s.local))
		}
	}
	r.Refused("have a port open that is not declared", undeclared == 0, fmt.Sprintf("%d processes, %d ports", len(pids), len(found)))
	r.Proven("the platform's ports are seen", len(found) == len(declared), fmt.Sprintf("%d of %d", len(found), len(declared)))
	return nil
}

var loopback = netip.MustParseAddr("127.0.0.1")

// hold listens on an address in a network namespace, at a port of the kernel's choice, until stop is called.
func hold(ns string, a netip.Addr) (at netip.AddrPort, stop func(), err error) {
	var l net.Listener
	err = within(ns, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
		return err
	})
	if err != nil {
		return at, nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{'.'}) // who came may be gone
			c.Close()
		}
	}()
	at, err = netip.ParseAddrPort(l.Addr().String())
	return at, func() { l.Close() }, err
}

// answers connects to a held port from within a namespace, and has its byte.
func answers(ns string, at netip.AddrPort) error {
	return within(ns, func() error {
		c, err := dialOnce(at)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(reachTime)); err != nil {
			return err
		}
		var b [1]byte
		_, err = io.ReadFull(c, b[:])
		return err
	})
}

// hostAddresses are the host's own IPv4 addresses but for the loopback, which an instance has one of its own of.
func hostAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			out = append(out, p.Addr())
		}
	}
	return out[:min(len(out), 8)], nil
}

// platform are the installation's own processes: what its supervisor started, by the program that they run.
func (w *World) platform() ([]int, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	root := []byte("--root\x00" + w.Installation.Root + "\x00")
	for _, d := range dirs {
		pid := 0
		if _, err := fmt.Sscanf(d.Name(), "%d", &pid); err != nil || pid == 0 {
			continue
		}
		b, err := os.ReadFile("/proc/" + d.Name() + "/cmdline")
		if err == nil && strings.Contains(string(b)+"\x00", string(root)) {
			out = append(out, pid)
		}
	}
	if len(out) < len(install.Processes()) {
		return nil, errors.New("not all of the platform's processes run")
	}
	return out, nil
}

// named are the installation's own processes by the name that each has in it.
func (w *World) named() (map[string]int, error) {
	pids, err := w.platform()
	if err != nil {
		return nil, err
	}
	names := map[string]int{}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it ended
		}
		f := strings.Split(string(b), "\x00")
		for i, a := range f[:len(f)-1] {
			if a == "process" {
				names[f[i+1]] = pid
			}
		}
	}
	return names, nil
}

// inodes are the sockets that processes have open.
func inodes(pids []int) map[uint64]bool {
	out := map[uint64]bool{}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			target, err := os.Readlink(dir + "/" + fd.Name())
			var n uint64
			if err == nil {
				if _, err := fmt.Sscanf(target, "socket:[%d]", &n); err == nil {
					out[n] = true
				}
			}
		}
	}
	return out
}
