package node

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
)

// Whose a name is is asked of the operator's name server: no record is an answer, no name server is none.
func TestNames(t *testing.T) {
	server, err := acmetest.StartNames(t.TempDir(), "example.org")
	must(t, err)
	defer server.Stop()
	n := newNames(server.Address)
	words := func() []string {
		t.Helper()
		said, err := n.ask(t.Context(), "www.example.org")
		must(t, err)
		if said.Host != "www.example.org" || !said.Asked {
			t.Fatal(said)
		}
		slices.Sort(said.Words)
		return said.Words
	}
	if w := words(); len(w) != 0 {
		t.Fatal(w)
	}
	must(t, server.Set("example.org", "_bulwark.www.example.org", dns.TypeTXT, "v=spf1 -all", "bulwark=me"))
	if w := words(); !slices.Equal(w, []string{"bulwark=me", "v=spf1 -all"}) {
		t.Fatal(w)
	}
	_, err = n.ask(t.Context(), "www.example.com") // which it is no authority of
	isKind(t, err, bulwark.KindUnavailable)
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	l.Close()
	_, err = newNames(l.LocalAddr().String()).ask(t.Context(), "www.example.org")
	isKind(t, err, bulwark.KindUnavailable)
}

// A domain whose name servers do not answer holds up whoever asks about it, and nobody else: a project has two such questions at a time. What was said is remembered, also
// that nothing was.
func TestNamesOfOneProject(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	n := newNames(silent.LocalAddr().String())
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	one, other := bulwark.NewProjectID(), bulwark.NewProjectID()
	for i := range namesOfOne {
		asking.Go(func() { _ = n.look(ctx, one, bulwark.HostName("h"+strconv.Itoa(i)+".example.org")) })
	}
	for {
		n.mu.Lock()
		all := n.of[one]
		n.mu.Unlock()
		if all == namesOfOne {
			break
		}
		time.Sleep(time.Millisecond)
	}
	isKind(t, n.look(ctx, one, "more.example.org"), bulwark.KindUnavailable)
	asking.Go(func() { _ = n.look(ctx, other, "another.example.org") })
	for {
		n.mu.Lock()
		all := n.of[other]
		n.mu.Unlock()
		if all == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	asking.Wait()
	if len(n.of) != 0 || n.all != 0 {
		t.Fatal(n.of, n.all)
	}
	if s, ok := n.said("h0.example.org"); !ok || bulwark.KindOf(s.err) != bulwark.KindUnavailable {
		t.Fatal(s, ok)
	}
	if _, ok := n.said("more.example.org"); ok {
		t.Fatal("it was not asked about")
	}
}
