package resolver

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestAnswers(t *testing.T) {
	w := newWorld(t, nil)
	w.upstream(zone(t, `
		www.example.org. 300 IN CNAME edge.example.net.
		edge.example.net. 200 IN CNAME edge2.example.net.
		edge2.example.net. 100 IN A 198.51.100.1
		edge2.example.net. 100 IN A 198.51.100.2
		evil.example.org. 100 IN A 198.51.100.66
		edge2.example.net. 100 IN AAAA 2001:db8::1

		v6.example.org. 60 IN AAAA 2001:db8::6

		mail.example.org. 60 IN MX 10 mx.example.org.

		text.example.org. 60 IN TXT "v=spf1 -all"

		_pgsql._tcp.example.org. 60 IN SRV 0 0 5432 db.example.org.

		loop.example.org. 60 IN CNAME loop2.example.org.
		loop2.example.org. 60 IN CNAME loop.example.org.

		other.example.org. 60 IN CNAME www.example.com.

		www.example.com. 60 IN A 198.51.100.9
	`))
	for _, c := range []struct {
		from, name string
		qtype      uint16
		want       string
	}{
		{shopAddr, "www.example.org", dns.TypeA, "NOERROR edge.example.net. edge2.example.net. 198.51.100.1 198.51.100.2"},
		{shopAddr, "WWW.Example.org", dns.TypeA, "NOERROR edge.example.net. edge2.example.net. 198.51.100.1 198.51.100.2"},
		{shopAddr, "www.example.org", dns.TypeCNAME, "NOERROR edge.example.net."},
		{shopAddr, "v6.example.org", dns.TypeAAAA, "NOERROR 2001:db8::6"},
		{shopAddr, "v6.example.org", dns.TypeA, "NOERROR"},
		{shopAddr, "mail.example.org", dns.TypeMX, "NOERROR 10 mx.example.org."},
		{shopAddr, "text.example.org", dns.TypeTXT, `NOERROR "v=spf1 -all"`},
		{shopAddr, "_pgsql._tcp.example.org", dns.TypeSRV, "NOERROR 0 0 5432 db.example.org."},
		{shopAddr, "none.example.org", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "www.example.com", dns.TypeHTTPS, "NOERROR"},
		// Not asked for outside.
		{shopAddr, "db.shop.internal", dns.TypeA, "NOERROR 10.77.5.5"},
		{shopAddr, "DB.shop.internal", dns.TypeAAAA, "NOERROR fd00::5"},
		{shopAddr, "db.shop.internal", dns.TypeMX, "NOERROR"},
		{bankAddr, "db.shop.internal", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "metadata.google.internal", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "internal", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "apps.example.com", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "shop.apps.example.com", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "localhost", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "printer.local", dns.TypeA, "NXDOMAIN"},
		{shopAddr, "db", dns.TypeA, "NXDOMAIN"},
		// Not answered.
		{strangerAddr, "www.example.org", dns.TypeA, "REFUSED"},
		{shopAddr, "www.example.org", dns.TypeANY, "REFUSED"},
		{shopAddr, "example.org", dns.TypeNS, "REFUSED"},
		{shopAddr, "1.0.0.127.in-addr.arpa", dns.TypePTR, "REFUSED"},
		{shopAddr, "a b.example.org", dns.TypeA, "REFUSED"},
		{shopAddr, ".", dns.TypeA, "REFUSED"},
		{bankAddr, "www.example.org", dns.TypeA, "REFUSED"},
		{bankAddr, "secret-data.attacker.example", dns.TypeTXT, "REFUSED"},
		{bankAddr, "none.example.net", dns.TypeA, "NXDOMAIN"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := w.ask(network, c.from, c.name, c.qtype)
			if got := said(r); got != c.want {
				t.Errorf("%s: %s asks for %s %s: %s, want %s", network, c.from, c.name, dns.TypeToString[c.qtype], got, c.want)
			}
			if !r.RecursionAvailable || r.Authoritative || len(r.Ns) > 0 || len(r.Question) != 1 {
				t.Errorf("%s: the answer to %s is %v", network, c.name, r)
			}
		}
	}
	if got := said(w.ask("udp", shopAddr, "loop.example.org", dns.TypeA)); !strings.HasPrefix(got, "NOERROR loop2") {
		t.Errorf("a loop of names: %s", got)
	}
	for _, rr := range w.ask("udp", shopAddr, "www.example.org", dns.TypeA).Answer {
		if ttl := rr.Header().Ttl; ttl > 100 || ttl < 90 {
			t.Errorf("a TTL of %d, want the least of the chain", ttl)
		}
	}
}

func TestBadQueries(t *testing.T) {
	w := newWorld(t, nil)
	w.upstream(func(dns.ResponseWriter, *dns.Msg) { t.Error("upstream was asked") })
	base := func() *dns.Msg { return new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA) }
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"chaos":         {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"transfer":      {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"update":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"notify":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"with answers": {func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "www.example.org.", Rrtype: dns.TypeA, Class: 1}, A: net.IP{8, 8, 8, 8}}}
		}, dns.RcodeFormatError},
		"new EDNS": {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		m := base()
		c.change(m)
		if r := w.put("tcp", shopAddr, m); r.Rcode != c.want {
			t.Errorf("%s: %s", name, dns.RcodeToString[r.Rcode])
		}
	}
	// Answers and rubbish get no answer, and the next query does.
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(shopAddr)}, &net.UDPAddr{IP: net.ParseIP(gateway), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	response := base()
	response.Response = true
	b, _ := response.Pack()
	for _, rubbish := range [][]byte{b, {}, {1, 2, 3}, make([]byte, 11)} {
		conn.Write(rubbish)
	}
	m := base()
	m.Question[0].Qtype = dns.TypeANY
	m.Id = 4242
	b, _ = m.Pack()
	conn.Write(b)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if r := new(dns.Msg); err != nil || r.Unpack(buf[:n]) != nil || r.Id != 4242 {
		t.Errorf("the first answer is not the one to the last query: %v", err)
	}
}

func TestRebinding(t *testing.T) {
	w := newWorld(t, nil)
	var records []string
	for i, a := range []string{"10.0.0.5", "127.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "203.0.113.200", "0.0.0.0"} {
		records = append(records, fmt.Sprintf("r%d.evil.example. 60 IN A %s", i, a))
	}
	for i, a := range []string{"::1", "fd00::1", "fe80::1", "::ffff:10.0.0.5", "64:ff9b::7f00:1", "2002:a00:5::1"} {
		records = append(records, fmt.Sprintf("r%d.evil6.example. 60 IN AAAA %s", i, a))
	}
	records = append(records, "mixed.evil.example. 60 IN A 10.0.0.5\nmixed.evil.example. 60 IN A 198.51.100.1",
		"alias.evil.example. 60 IN CNAME r0.evil.example.\nr0.evil.example. 60 IN A 10.0.0.5",
		"db.corp.example. 60 IN A 10.0.0.5\ndb.corp.example. 60 IN A 127.0.0.1")
	w.upstream(zone(t, strings.Join(records, "\n\n")))
	app := w.table.Apps[w.shop]
	app.Allow = w.rules("r0.evil.example", "*.evil6.example", "10.0.0.0/8")
	w.table.Apps[w.shop] = app
	w.send()
	for i := range 7 {
		r := w.ask("udp", shopAddr, fmt.Sprintf("r%d.evil.example", i), dns.TypeA)
		if got := said(r); got != "NOERROR" {
			t.Errorf("r%d: %s", i, got)
		}
		if opt := r.IsEdns0(); opt == nil || len(opt.Option) != 1 {
			t.Errorf("r%d: no word on why: %v", i, opt)
		}
	}
	for i := range 6 {
		if got := said(w.ask("udp", shopAddr, fmt.Sprintf("r%d.evil6.example", i), dns.TypeAAAA)); got != "NOERROR" {
			t.Errorf("r%d: %s", i, got)
		}
	}
	if got := said(w.ask("udp", shopAddr, "mixed.evil.example", dns.TypeA)); got != "NOERROR 198.51.100.1" {
		t.Errorf("mixed: %s", got)
	}
	if got := said(w.ask("udp", shopAddr, "alias.evil.example", dns.TypeA)); got != "NOERROR r0.evil.example." {
		t.Errorf("alias: %s", got)
	}
	// The operator's word, for this app: the inner address, still not the machine's own. It holds for what is cached too.
	if got := said(w.ask("udp", shopAddr, "db.corp.example", dns.TypeA)); got != "NOERROR" {
		t.Errorf("before: %s", got)
	}
	app.Allow = w.rules("db.corp.example:5432")
	app.Allow[0].Private = true
	w.table.Apps[w.shop] = app
	w.send()
	if got := said(w.ask("udp", shopAddr, "db.corp.example", dns.TypeA)); got != "NOERROR 10.0.0.5" {
		t.Errorf("after: %s", got)
	}
}
