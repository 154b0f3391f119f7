package node

import (
	"net"
	"slices"
	"testing"

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
