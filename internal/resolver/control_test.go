package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
)

// subscribe returns what the node is told, as it is told it; for each the node acts when release lets it.
func (w *world) subscribe(release <-chan struct{}) <-chan Resolved {
	w.t.Helper()
	c, err := Dial(w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	got := make(chan Resolved, 64)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		c.Subscribe(ctx, func(r Resolved) error {
			got <- r
			<-release
			return nil
		})
	}()
	w.t.Cleanup(func() { cancel(); <-done })
	return got
}

func TestTold(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Patience = time.Minute })
	w.upstream(zone(t, `
		db.example.org. 300 IN A 198.51.100.1
		db.example.org. 300 IN A 10.0.0.5

		www.example.net. 300 IN A 198.51.100.2

		www.example.org. 300 IN A 198.51.100.3
	`))
	// Before anybody subscribed: answered at once, and told later.
	w.ask("udp", bankAddr, "db.example.org", dns.TypeA)
	release := make(chan struct{})
	got := w.subscribe(release)
	want := Resolved{App: w.bank, Name: "db.example.org", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}
	check := func(r Resolved, want Resolved) {
		t.Helper()
		if r.App != want.App || r.Name != want.Name || len(r.Addresses) != 1 || r.Addresses[0] != want.Addresses[0] ||
			time.Duration(r.TTL) > 300*time.Second || time.Duration(r.TTL) < 290*time.Second {
			t.Errorf("told %+v, want %+v", r, want)
		}
	}
	check(<-got, want)
	release <- struct{}{}
	// Afterwards: the instance has its answer when the node has acted.
	answered := make(chan string, 1)
	go func() {
		m := new(dns.Msg).SetQuestion("www.example.net.", dns.TypeA)
		r, err := w.try("udp", bankAddr, m)
		if err != nil {
			answered <- err.Error()
			return
		}
		answered <- said(r)
	}()
	want.Name, want.Addresses[0] = "www.example.net", netip.MustParseAddr("198.51.100.2")
	check(<-got, want)
	select {
	case a := <-answered:
		t.Errorf("answered before the node acted: %s", a)
	default:
	}
	release <- struct{}{}
	if a := <-answered; a != "NOERROR 198.51.100.2" {
		t.Errorf("answered %s", a)
	}
	// A name on nobody's list, and one that was told already: no report.
	w.ask("udp", shopAddr, "www.example.org", dns.TypeA)
	w.ask("udp", bankAddr, "www.example.net", dns.TypeA)
	select {
	case r := <-got:
		t.Errorf("told %+v", r)
	default:
	}
}

// A node that does not act holds an answer up for a moment, not for ever.
func TestNodeHangs(t *testing.T) {
	w := newWorld(t, nil)
	w.upstream(zone(t, "www.example.net. 300 IN A 198.51.100.2\n\nwww2.example.net. 300 IN A 198.51.100.2"))
	w.ask("udp", bankAddr, "www2.example.net", dns.TypeA)
	release := make(chan struct{})
	<-w.subscribe(release) // what was known: the node is there, and hangs
	if got := said(w.ask("udp", bankAddr, "www.example.net", dns.TypeA)); got != "NOERROR 198.51.100.2" {
		t.Errorf("%s", got)
	}
	close(release)
}

func TestControl(t *testing.T) {
	w := newWorld(t, nil)
	w.upstream(zone(t, "www.example.net. 300 IN A 198.51.100.2"))
	// Restart of the node: the sockets are handed over again, the old copies go.
	w.client.Close()
	var err error
	if w.client, err = Dial(w.socket); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Listen(t.Context(), "router", w.files...); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := said(w.ask(network, shopAddr, "www.example.net", dns.TypeA)); got != "NOERROR 198.51.100.2" {
			t.Errorf("%s after the node's restart: %s", network, got)
		}
	}
	// Restart of the resolver: a query that came in between waits in the node's socket.
	w.stop()
	if err := w.client.SetTable(t.Context(), w.table); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("the resolver is away: %v", err)
	}
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(shopAddr)}, &net.UDPAddr{IP: net.ParseIP(gateway), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, _ := new(dns.Msg).SetQuestion("www.example.net.", dns.TypeA).Pack()
	conn.Write(b)
	w.start(nil)
	w.send()
	if err := w.client.Listen(t.Context(), "router", w.files...); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 512)); err != nil {
		t.Errorf("what waited was not answered: %v", err)
	}
	// An app that goes loses its answers.
	delete(w.table.Sources, netip.MustParseAddr(shopAddr))
	w.send()
	if got := said(w.ask("udp", shopAddr, "www.example.net", dns.TypeA)); got != "REFUSED" {
		t.Errorf("a source that is gone: %s", got)
	}
	if err := w.client.Unlisten(t.Context(), "router"); err != nil {
		t.Error(err)
	}
}

// Nobody but the node gives orders, and what it hands over must be what it should be.
func TestStrangers(t *testing.T) {
	w := newWorld(t, nil)
	for name, bad := range map[string]Table{
		"an app that is missing": {Sources: map[netip.Addr]bulwark.AppID{netip.MustParseAddr(shopAddr): w.shop}},
		"a name without address": {Apps: map[bulwark.AppID]App{w.shop: {Names: map[bulwark.HostName][]netip.Addr{"a.b": {{}}}}}},
	} {
		if err := w.client.SetTable(t.Context(), bad); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	ln, err := net.Listen("tcp4", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	stream, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	packet, err := net.Dial("udp4", gateway+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	a, errA := stream.(*net.TCPConn).File()
	b, errB := packet.(*net.UDPConn).File()
	c, errC := os.CreateTemp(t.TempDir(), "")
	if err := errors.Join(errA, errB, errC); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*os.File{"a connected stream": a, "a connected packet socket": b, "a file": c} {
		defer f.Close()
		if err := w.client.Listen(t.Context(), "bad", f); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.client.call(t.Context(), request{Verb: verbTable}, c); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Errorf("a table that could change: %v", err)
	}
	if err := w.client.call(t.Context(), request{Verb: "sing"}); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Errorf("an unknown order: %v", err)
	}
	if err := w.client.SetTable(t.Context(), w.table); err != nil {
		t.Errorf("the node itself was turned away: %v", err)
	}
	w.stop()
	w.start(func(c *Config) { c.NodeUID = uint32(os.Getuid()) + 1 })
	if err := w.client.SetTable(t.Context(), w.table); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("a stranger set a table: %v", err)
	}
}
