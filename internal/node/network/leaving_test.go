package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// alone runs the test's body on a thread in an empty network namespace with a loopback, which plays the host's own.
func alone(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("this test makes a network namespace, so it runs as root (make test): %w", err)
			return
		}
		h, err := netlink.NewHandle()
		if err == nil {
			defer h.Close()
			var lo netlink.Link
			if lo, err = h.LinkByName("lo"); err == nil {
				err = h.LinkSetUp(lo)
			}
			for _, a := range []string{"10.0.0.5/32", "10.0.1.5/32", "203.0.113.7/32", "10.255.255.53/32", "2001:db8::7/128"} {
				addr, perr := netlink.ParseAddr(a)
				addr.Flags = unix.IFA_F_NODAD
				err = errors.Join(err, perr, h.AddrAdd(lo, addr))
			}
		}
		if err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// The rules hold for the two users that they are about, whatever they try, and for nobody else. They are taken as a whole with ranges
// and ports that have things in common.
func TestLeaving(t *testing.T) {
	const egress, names, other = 3_000_001, 3_000_002, 3_000_003
	l := Leaving{Table: "bulwark-test", Egress: egress, Names: names, Resolvers: []netip.Addr{netip.MustParseAddr("10.255.255.53")},
		Connected: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}
	open := l
	open.Open = []Opened{{netip.MustParsePrefix("10.0.0.5/32"), 5432}, {netip.MustParsePrefix("10.0.0.0/24"), 5432}, {netip.MustParsePrefix("10.0.0.5/32"), 5433},
		{netip.MustParsePrefix("10.0.1.0/24"), 0}, {netip.MustParsePrefix("10.0.1.5/32"), 0}, {netip.MustParsePrefix("127.0.0.1/32"), 6000}}
	open.Ports = []uint16{5000, 5001, 443}
	open.Platform = []uint16{443, 5001} // a registry that was opened by name on the port of the edge opens the registry, not the edge
	type try struct {
		user uint32
		to   string
		rule *Leaving
		want bool
	}
	var tries []try
	for _, to := range []string{"127.0.0.1:5432", "10.0.0.5:5432", "10.0.0.5:22", "10.0.1.5:22", "203.0.113.7:5000", "203.0.113.7:5001", "10.0.0.5:443", "203.0.113.7:22", "10.255.255.53:53", "[::1]:22",
		"[2001:db8::7]:22", "127.0.0.1:6000", "127.0.0.1:5000"} {
		dns := to == "10.255.255.53:53"
		opened := dns || to == "10.0.0.5:5432" || to == "10.0.1.5:22" || to == "203.0.113.7:5000" || to == "127.0.0.1:6000"
		tries = append(tries, try{other, to, &l, true}, try{egress, to, &l, dns}, try{names, to, &l, dns}, try{egress, to, &open, opened}, try{names, to, &open, dns})
	}
	alone(t, func() {
		var listeners []net.Listener
		for _, c := range tries {
			if c.rule == &l && c.user == other {
				ln, err := net.Listen("tcp", c.to)
				if err != nil {
					t.Error(err)
					return
				}
				listeners = append(listeners, ln)
			}
		}
		defer func() {
			for _, ln := range listeners {
				ln.Close()
			}
		}()
		var h Host
		for _, rule := range []*Leaving{&l, &open} {
			if _, err := h.Enforce(t.Context(), *rule); err != nil {
				t.Errorf("%v\n%s", err, rule.Rules())
				return
			}
			for _, c := range tries {
				if c.rule != rule {
					continue
				}
				err := connectAs(c.user, c.to)
				if (err == nil) != c.want || err != nil && !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("user %d to %s: %v, want that it goes: %t", c.user, c.to, err, c.want)
				}
			}
		}
		// A datagram is for the resolvers alone.
		for to, want := range map[string]bool{"10.255.255.53:53": true, "10.255.255.53:54": false, "127.0.0.1:53": false} {
			for _, user := range []uint32{egress, names} {
				if err := sendAs(user, to); (err == nil) != want {
					t.Errorf("user %d, a datagram to %s: %v", user, to, err)
				}
			}
		}
	})
}

// Somebody else's rules are left alone and their changes are nothing to us; a change of ours is seen and undone.
func TestLeavingPutBack(t *testing.T) {
	l := Leaving{Table: "bulwark-test", Egress: 3_000_001, Names: 3_000_002, Resolvers: []netip.Addr{netip.MustParseAddr("10.255.255.53")}}
	alone(t, func() {
		var h Host
		step := func(rules string, want bool) {
			t.Helper()
			if rules != "" {
				if err := nft(t.Context(), rules, nil, "-f", "-"); err != nil {
					t.Fatal(err)
				}
			}
			changed, err := h.Enforce(t.Context(), l)
			if err != nil || changed != want {
				t.Errorf("after %q: changed %t, %v", rules, changed, err)
			}
		}
		step("", false)
		step("", false)
		step("table inet theirs {\nchain c { type filter hook output priority 0; policy accept; }\n}\n", false)
		step("delete table inet bulwark-test", true)
		step("insert rule inet bulwark-test leave accept", true)
		step("add element inet bulwark-test whole4 { 10.0.0.0/8 }", true)
		step("flush chain inet bulwark-test leave", true)
		step("", false)
		if b, err := list(t.Context(), "theirs"); err != nil || !strings.Contains(string(b), "chain c") {
			t.Errorf("%s, %v", b, err)
		}
		if b, err := list(t.Context(), "bulwark-test"); err != nil || strings.Contains(string(b), "accept\n\t\tmeta skuid") {
			t.Errorf("%s, %v", b, err)
		}
	})
}

// An address that is opened with any port and with one, which nobody forbids, must not keep the rules of all others from the kernel.
func TestRulesOverlap(t *testing.T) {
	from := netip.MustParseAddr("198.18.0.1")
	rules := Rules(nil, []Exception{{from, netip.MustParseAddrPort("10.0.0.5:0")}, {from, netip.MustParseAddrPort("10.0.0.5:5432")},
		{from, netip.MustParseAddrPort("10.0.0.5:5432")}}, nil)
	alone(t, func() {
		if err := nft(t.Context(), rules, nil, "-f", "-"); err != nil {
			t.Errorf("%v\n%s", err, rules)
		}
	})
}

func connectAs(user uint32, to string) error {
	return asUser(user, func() error {
		c, err := net.Dial("tcp", to)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func sendAs(user uint32, to string) error {
	return asUser(user, func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("?"))
		return err
	})
}

// asUser runs f on another thread in this thread's network namespace as a user.
func asUser(user uint32, f func() error) error {
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	return onThread(func() error {
		if err := netns.Set(here); err != nil {
			return err
		}
		if _, _, errno := unix.RawSyscall(syscall.SYS_SETRESUID, uintptr(user), uintptr(user), uintptr(user)); errno != 0 {
			return errno
		}
		return f()
	})
}
