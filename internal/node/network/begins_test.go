package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Who begins too many connections waits for himself: other clients get theirs, who comes from the machine itself is not counted, and what
// the kernel notes of clients is no change of the rules.
func TestBeginsAreMetered(t *testing.T) {
	alone(t, func() {
		ends := make(chan int)
		sent := make(chan error)
		// The world outside is another namespace, at the other end of a cable.
		go func() {
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				sent <- err
				return
			}
			ends <- unix.Gettid()
			<-ends
			sent <- outside(t)
		}()
		if err := cable(<-ends); err != nil {
			t.Error(err)
			return
		}
		ln, err := net.Listen("tcp", ":8443")
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		l := Leaving{Table: "bulwark-test", Egress: 3_000_001, Names: 3_000_002, Certs: 3_000_003, Platform: []uint16{8443}}
		var h Host
		if _, err := h.Enforce(t.Context(), l); err != nil {
			t.Errorf("%v\n%s", err, l.Rules())
			return
		}
		ends <- 0
		if err := <-sent; err != nil {
			t.Error(err)
		}
		for range beginsBurst + 500 {
			c, err := net.DialTimeout("tcp", "127.0.0.1:8443", time.Second)
			if err != nil {
				t.Errorf("from the machine itself: %v", err)
				break
			}
			c.Close()
		}
		if err := nft(t.Context(), "table inet theirs {\n}\n", nil, "-f", "-"); err != nil {
			t.Error(err)
		}
		if changed, err := h.Enforce(t.Context(), l); err != nil || changed {
			t.Errorf("what the kernel notes is taken for a change: %t %v", changed, err)
		}
	})
}

// Who owned the edge has a socket for datagrams on the host's own network: it can answer by it, and begin nothing.
func TestDatagramsAreAnswers(t *testing.T) {
	alone(t, func() {
		l := Leaving{Table: "bulwark-test", Egress: 3_000_001, Names: 3_000_002, Certs: 3_000_003, Platform: []uint16{8443}, Datagrams: []uint16{8443}}
		var h Host
		if _, err := h.Enforce(t.Context(), l); err != nil {
			t.Errorf("%v\n%s", err, l.Rules())
			return
		}
		for _, host := range []string{"127.0.0.1", "::1"} {
			edge, err := net.ListenPacket("udp", net.JoinHostPort(host, "8443"))
			if err != nil {
				t.Error(err)
				return
			}
			asks, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Error(err)
				return
			}
			other, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Error(err)
				return
			}
			heard := func(c net.PacketConn) bool {
				_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				_, _, err := c.ReadFrom(make([]byte, 10))
				return err == nil
			}
			say := func(to net.Addr) {
				if _, err := edge.WriteTo([]byte("x"), to); err != nil && !errors.Is(err, unix.EPERM) {
					t.Error(err)
				}
			}
			say(asks.LocalAddr())
			if heard(asks) {
				t.Errorf("%s: somebody who did not ask is sent something", host)
			}
			if _, err := asks.WriteTo([]byte("?"), edge.LocalAddr()); err != nil || !heard(edge) {
				t.Errorf("%s: nobody can ask: %v", host, err)
			}
			say(asks.LocalAddr())
			if !heard(asks) {
				t.Errorf("%s: who asked is not answered", host)
			}
			say(other.LocalAddr())
			if heard(other) {
				t.Errorf("%s: another program there is sent something", host)
			}
			// Who asks from very many ports is answered at some of them, and goes on to be where they were before.
			var many []net.PacketConn
			for range 3 * asksBurst {
				c, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
				if err != nil {
					t.Error(err)
					return
				}
				many = append(many, c)
				if _, err := c.WriteTo([]byte("?"), edge.LocalAddr()); err != nil {
					t.Error(err)
				}
			}
			answered := 0
			for _, c := range many {
				say(c.LocalAddr())
				_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, _, err := c.ReadFrom(make([]byte, 10)); err == nil {
					answered++
				}
				c.Close()
			}
			if answered < asksBurst/2 || answered > 2*asksBurst {
				t.Errorf("%s: of %d ports that asked at once %d are answered", host, len(many), answered)
			}
			say(asks.LocalAddr())
			if !heard(asks) {
				t.Errorf("%s: who asked before them is not answered any more", host)
			}
			for _, c := range []net.PacketConn{edge, asks, other} {
				c.Close()
			}
		}
		if changed, err := h.Enforce(t.Context(), l); err != nil || changed {
			t.Errorf("what the kernel notes is taken for a change: %t %v", changed, err)
		}
	})
}

// cable connects this namespace with that of a thread: 192.0.2.1 here, and 192.0.2.2 and 192.0.2.3 and two networks of IPv6 there.
func cable(thread int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "here"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "there"}); err != nil {
		return err
	}
	there, err := netlink.LinkByName("there")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetNsPid(there, thread); err != nil {
		return err
	}
	return addresses("here", "192.0.2.1/24", "2001:db8:1::1/32")
}

func addresses(name string, all ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range all {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// outside floods from one address of each kind, and asks from others.
func outside(t *testing.T) error {
	if err := addresses("there", "192.0.2.2/24", "192.0.2.3/24", "2001:db8:2::2/32", "2001:db8:2::3/32", "2001:db8:3::3/32"); err != nil {
		return err
	}
	for _, k := range []struct{ flood, same, other, to string }{
		{"192.0.2.2", "192.0.2.2", "192.0.2.3", "192.0.2.1:8443"},
		{"2001:db8:2::2", "2001:db8:2::3", "2001:db8:3::3", "[2001:db8:1::1]:8443"},
	} {
		for end := time.Now().Add(5 * time.Second); ; { // the cable takes a moment to be there
			if connectFrom(k.other, k.to, time.Second) == nil {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("nothing gets through to %s", k.to)
			}
		}
		refused := 0
		for range 3 * beginsBurst {
			if connectFrom(k.flood, k.to, time.Millisecond) != nil {
				if refused++; refused > 50 {
					break
				}
			}
		}
		if refused <= 50 {
			return fmt.Errorf("a flood from %s goes on", k.flood)
		}
		lost := 0
		for range 20 {
			if connectFrom(k.same, k.to, time.Millisecond) != nil {
				lost++
			}
		}
		if lost == 0 {
			t.Errorf("%s is not counted with %s", k.same, k.flood)
		}
		for range 20 {
			if err := connectFrom(k.other, k.to, time.Second); err != nil {
				return fmt.Errorf("from %s, beside a flood from %s: %w", k.other, k.flood, err)
			}
		}
	}
	return nil
}

func connectFrom(from, to string, within time.Duration) error {
	d := net.Dialer{Timeout: within, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return err
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // no port stays taken
	}
	return errors.Join(c.Close())
}

// What the kernel keeps in the sets that it fills itself is no sign that somebody changed the rules.
func TestMetered(t *testing.T) {
	for _, name := range []string{"begins4", "begins6", "asked4", "asked6", "asks4", "asks6"} {
		listed := "table inet x {\n\tset " + name + " {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.1 expires 1m }\n\t}\n\n\tset open4 {\n\t\ttype ipv4_addr\n\t}\n}\n"
		if got := string(metered.ReplaceAll([]byte(listed), nil)); strings.Contains(got, "192.0.2.1") || !strings.Contains(got, "set open4") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
