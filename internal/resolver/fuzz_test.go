package resolver

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

func FuzzHandle(f *testing.F) {
	src := netip.MustParseAddr(shopAddr)
	r := newResolver(f.Context(), Config{ResolvConf: func() ([]byte, error) { return nil, nil },
		Connected: func() ([]netip.Prefix, error) { return nil, nil }})
	id := bulwark.NewAppID()
	if err := r.setTable(Table{Sources: map[netip.Addr]bulwark.AppID{src: id}, Apps: map[bulwark.AppID]App{id: {
		Names: map[bulwark.HostName][]netip.Addr{"a.internal": {netip.MustParseAddr("10.0.0.1")}}}}}); err != nil {
		f.Fatal(err)
	}
	m := new(dns.Msg).SetQuestion("a.internal.", dns.TypeA)
	b, _ := m.Pack()
	f.Add(b, true)
	b, _ = m.SetEdns0(9000, true).Pack()
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, b []byte, udp bool) {
		out := r.handle(t.Context(), src, b, serve, udp)
		if out == nil {
			return
		}
		if len(b) < 12 || b[2]&0x80 != 0 {
			t.Error("it answered what is no query")
		}
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil || !m.Response || udp && len(out) > ednsSize {
			t.Errorf("an answer of %d bytes: %v, %v", len(out), m, err)
		}
		if out[0] != b[0] || out[1] != b[1] {
			t.Error("the id is another")
		}
	})
}

func FuzzSettle(f *testing.F) {
	q := question{"www.example.org", dns.TypeA}
	query := newQuery(q)
	query.Id = 0
	m := new(dns.Msg).SetReply(query)
	for _, s := range []string{"www.example.org. 60 IN CNAME a.example.org.", "a.example.org. 60 IN A 198.51.100.1", "b.example.org. 60 IN A 10.0.0.1"} {
		rr, err := dns.NewRR(s)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	b, _ := m.Pack()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, err := match(query, b)
		if err != nil {
			return
		}
		now := time.Now()
		o := settle(reply, q, now)
		if ttl := o.ttl(now); ttl < minTTL || ttl > maxTTL || len(o.records) > maxRecords+maxChain {
			t.Errorf("%d records for %s", len(o.records), o.ttl(now))
		}
		name := "www.example.org."
		for _, rr := range o.records {
			if !strings.EqualFold(rr.Header().Name, name) {
				t.Errorf("kept %s, which does not follow from %s", rr, name)
			}
			if c, ok := rr.(*dns.CNAME); ok {
				name = c.Target
			} else if rr.Header().Rrtype != q.qtype {
				t.Errorf("kept %s", rr)
			}
		}
		app := App{}
		kept, addrs, _ := filter(&app, "www.example.org", o, nil)
		for _, a := range addrs {
			if netpolicy.Closed(a, nil) {
				t.Errorf("%s passed", a)
			}
		}
		for _, rr := range kept {
			dns.Copy(rr)
		}
	})
}

func FuzzParseServers(f *testing.F) {
	f.Add([]byte("nameserver 127.0.0.53\nsearch a b\noptions ndots:5"))
	f.Fuzz(func(t *testing.T, b []byte) {
		servers, err := parseServers(b)
		if err != nil {
			return
		}
		for _, s := range servers {
			if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port != "53" {
				t.Errorf("%q", s)
			}
		}
	})
}
