package egress

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// What an instance may reach, and what a rule of its owner opens and does not.
func TestTransitLeads(t *testing.T) {
	rules := func(targets ...string) []netpolicy.Rule {
		rs, err := netpolicy.Rules(targets...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rs {
			rs[i].Private = true
		}
		return rs
	}
	connected := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/25")}
	named := []netip.AddrPort{netip.MustParseAddrPort("10.1.2.3:5432"), netip.MustParseAddrPort("127.0.0.1:0")}
	for _, c := range []struct {
		name string
		app  TransitApp
		to   string
		want bool
	}{
		{"the internet", TransitApp{}, "198.51.100.7:443", true},
		{"a private range", TransitApp{}, "10.0.0.1:5432", false},
		{"cloud metadata", TransitApp{}, "169.254.169.254:80", false},
		{"the machine itself", TransitApp{}, "127.0.0.1:22", false},
		{"the host's neighbours", TransitApp{}, "203.0.113.5:80", false},
		{"beside the host's neighbours", TransitApp{}, "203.0.113.200:80", true},
		{"a range that a rule opens", TransitApp{Allow: rules("10.1.0.0/16:5432")}, "10.1.2.3:5432", true},
		{"the same range on another port", TransitApp{Allow: rules("10.1.0.0/16:5432")}, "10.1.2.3:22", false},
		{"a named host's address", TransitApp{Named: named}, "10.1.2.3:5432", true},
		{"a named host's address on another port", TransitApp{Named: named}, "10.1.2.3:22", false},
		{"a name that leads to the machine itself", TransitApp{Named: named}, "127.0.0.1:6379", false},
	} {
		if got := c.app.Leads(netip.MustParseAddrPort(c.to), connected); got != c.want {
			t.Errorf("%s (%s): %v, want %v", c.name, c.to, got, c.want)
		}
	}
}

// What an owner closes again is cut at once, also where it was open for long; what a name led to goes on when the name leads elsewhere, which
// the pool of a program that asks for names once a day depends on.
func TestTransitEnds(t *testing.T) {
	inner := netip.MustParseAddrPort("10.99.0.7:5432")
	far, err := net.Listen("tcp", inner.String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() {
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	rule := func(s string) TransitApp {
		r, err := netpolicy.Rules(s)
		if err != nil {
			t.Fatal(err)
		}
		r[0].Private = true
		return TransitApp{Allow: r}
	}
	named := rule("db.inner.example:5432")
	resolved := named
	resolved.Named = []netip.AddrPort{inner}
	public := rule("db.inner.example:5432")
	public.Allow[0].Private = false
	for name, c := range map[string]struct {
		before, after TransitApp
		lives         bool
	}{
		"the range stays":           {rule("10.99.0.0/16:5432"), rule("10.99.0.0/16:5432"), true},
		"the range was closed":      {rule("10.99.0.0/16:5432"), TransitApp{}, false},
		"another port of the range": {rule("10.99.0.0/16:5432"), rule("10.99.0.0/16:22"), false},
		"the name leads elsewhere":  {resolved, named, true},
		"the name was closed":       {resolved, TransitApp{}, false},
		"the name is not private":   {resolved, public, false},
	} {
		t.Run(name, func(t *testing.T) {
			from := netip.MustParseAddrPort("198.18.0.1:40000")
			table := func(a TransitApp) Transit {
				return Transit{Sources: map[netip.Addr]bulwark.AppID{from.Addr(): "app_x"}, Apps: map[bulwark.AppID]TransitApp{"app_x": a}}
			}
			tr := newTransit(&settings{connected: func() ([]netip.Prefix, error) { return nil, nil }, log: slog.New(slog.DiscardHandler)})
			tr.table = table(c.before)
			near, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			go func() {
				if conn, err := near.Accept(); err == nil {
					tr.carry(conn.(*net.TCPConn), from, inner)
				}
			}()
			conn, err := net.Dial("tcp", near.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			echo := func() error {
				if _, err := conn.Write([]byte("x")); err != nil {
					return err
				}
				_, err := io.ReadFull(conn, make([]byte, 1))
				return err
			}
			if err := echo(); err != nil {
				t.Fatal(err)
			}
			tr.mu.Lock()
			tr.table = table(c.after)
			tr.revoke()
			tr.mu.Unlock()
			if err := echo(); (err == nil) != c.lives {
				t.Errorf("%v, want that it lives: %t", err, c.lives)
			}
		})
	}
}
