package resolver

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestCache(t *testing.T) {
	w := newWorld(t, nil)
	w.upstream(zone(t, `
		www.example.net. 300 IN A 198.51.100.1

		brief.example.net. 0 IN A 198.51.100.2

		long.example.net. 604800 IN A 198.51.100.3
	`))
	count := func(from, name string) int64 {
		before := w.queries.Load()
		w.ask("udp", from, name, dns.TypeA)
		return w.queries.Load() - before
	}
	for i, want := range []int64{1, 0, 0} {
		if n := count(shopAddr, "www.example.net"); n != want {
			t.Errorf("time %d: %d queries to upstream, want %d", i, n, want)
		}
	}
	if n := count(bankAddr, "www.example.net"); n != 1 {
		t.Errorf("another app was answered from the first one's cache")
	}
	for i, want := range []int64{1, 0} {
		if n := count(shopAddr, "none.example.net"); n != want {
			t.Errorf("an absent name, time %d: %d queries to upstream", i, n)
		}
	}
	if ttl := w.ask("udp", shopAddr, "long.example.net", dns.TypeA).Answer[0].Header().Ttl; ttl > 3600 {
		t.Errorf("a TTL of %d", ttl)
	}
	if ttl := w.ask("udp", shopAddr, "brief.example.net", dns.TypeA).Answer[0].Header().Ttl; ttl != 1 {
		t.Errorf("a TTL of %d", ttl)
	}
}

func TestOneFlight(t *testing.T) {
	w := newWorld(t, nil)
	arrived, release := make(chan struct{}, 20), make(chan struct{})
	w.upstream(func(rw dns.ResponseWriter, m *dns.Msg) {
		arrived <- struct{}{}
		<-release
		zone(t, "www.example.org. 60 IN A 198.51.100.1")(rw, m)
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			m := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
			if r, err := w.try("udp", shopAddr, m); err != nil || len(r.Answer) != 1 {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
	<-arrived // the test holds whether or not the others wait by now: they find the answer in the cache
	close(release)
	all.Wait()
	if n := w.queries.Load(); n != 1 {
		t.Errorf("%d questions to upstream", n)
	}
}

func TestTruncation(t *testing.T) {
	w := newWorld(t, nil)
	var tcp atomic.Int64
	w.upstream(func(rw dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		for i := range 100 {
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 60},
				A: net.IP{198, 51, 100, byte(i)}})
		}
		if _, ok := rw.RemoteAddr().(*net.TCPAddr); ok {
			tcp.Add(1)
		} else {
			if opt := m.IsEdns0(); opt == nil || opt.UDPSize() != 1232 || opt.Do() {
				t.Errorf("upstream was asked with %v", opt)
			}
			r.Truncate(512)
		}
		rw.WriteMsg(r)
	})
	if r := w.ask("tcp", shopAddr, "big.example.org", dns.TypeA); len(r.Answer) != 100 || r.Truncated {
		t.Errorf("over TCP: %d records, truncated %v", len(r.Answer), r.Truncated)
	}
	if tcp.Load() != 1 {
		t.Errorf("upstream was asked over TCP %d times", tcp.Load())
	}
	plain := new(dns.Msg).SetQuestion("big.example.org.", dns.TypeA)
	for size, m := range map[int]*dns.Msg{512: plain, 1232: plain.Copy().SetEdns0(65000, false)} {
		r := w.put("udp", shopAddr, m)
		r.Compress = true
		if !r.Truncated || len(r.Answer) == 0 || r.Len() > size || r.Len() < size*9/10 {
			t.Errorf("over UDP for %d: %d records, truncated %v", size, len(r.Answer), r.Truncated)
		}
	}
}

func TestForgery(t *testing.T) {
	w := newWorld(t, nil)
	pc, err := net.ListenPacket("udp", upstreamAddr+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	stranger, err := net.ListenPacket("udp", "203.0.113.66:53")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	ids, ports := map[uint16]bool{}, map[int]bool{}
	forge := func(q *dns.Msg, addr string, change func(*dns.Msg)) []byte {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 60}, A: net.ParseIP(addr)}}
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		return b
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if err := q.Unpack(buf[:n]); err != nil {
				t.Error(err)
				return
			}
			ids[q.Id] = true
			ports[from.(*net.UDPAddr).Port] = true
			stranger.WriteTo(forge(q, "198.51.100.66", func(*dns.Msg) {}), from)
			for _, change := range []func(*dns.Msg){
				func(m *dns.Msg) { m.Id++ },
				func(m *dns.Msg) { m.Question[0].Name = "other.example.org." },
				func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
				func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
				func(m *dns.Msg) { m.Question = nil },
				func(m *dns.Msg) { m.Response = false },
				func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus },
				// The right question, answered about something else.
				func(m *dns.Msg) { m.Id ^= 0x8000 },
			} {
				pc.WriteTo(forge(q, "198.51.100.66", change), from)
			}
			pc.WriteTo([]byte{1}, from)
			pc.WriteTo(forge(q, "198.51.100.1", func(m *dns.Msg) {
				evil := dns.Copy(m.Answer[0]).(*dns.A)
				evil.Hdr.Name, evil.A = "bank.example.org.", net.ParseIP("198.51.100.66")
				m.Answer = append(m.Answer, evil)
				m.Extra = append(m.Extra, evil)
				m.Ns = append(m.Ns, &dns.NS{Hdr: dns.RR_Header{Name: "example.org.", Rrtype: dns.TypeNS, Class: 1, Ttl: 60}, Ns: "evil.example."})
			}), from)
		}
	}()
	const rounds = 20
	for i := range rounds {
		if got := said(w.ask("udp", shopAddr, fmt.Sprintf("n%d.example.org", i), dns.TypeA)); got != "NOERROR 198.51.100.1" {
			t.Errorf("believed %s", got)
		}
	}
	pc.Close()
	<-served
	if len(ids) < rounds-1 || len(ports) < rounds-2 {
		t.Errorf("%d questions had %d ids and %d ports", rounds, len(ids), len(ports))
	}
}

func TestForgeryFlood(t *testing.T) {
	w := newWorld(t, nil)
	w.upstream(func(rw dns.ResponseWriter, m *dns.Msg) {
		if _, ok := rw.RemoteAddr().(*net.TCPAddr); ok {
			zone(t, "flood.example.org. 60 IN A 198.51.100.7")(rw, m)
			return
		}
		for i := range maxForgeries + 1 {
			r := new(dns.Msg).SetReply(m)
			r.Id += uint16(i) + 1
			rw.WriteMsg(r)
		}
	})
	if got := said(w.ask("udp", shopAddr, "flood.example.org", dns.TypeA)); got != "NOERROR 198.51.100.7" {
		t.Errorf("under a flood: %s", got)
	}
}

func TestUpstreams(t *testing.T) {
	w := newWorld(t, nil)
	w.upstream(func(rw dns.ResponseWriter, m *dns.Msg) {
		if strings.HasPrefix(m.Question[0].Name, "broken") {
			rw.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure))
			return
		}
		zone(t, "www.example.org. 60 IN A 198.51.100.1")(rw, m)
	})
	u := &upstreams{read: func() ([]byte, error) { return []byte(w.resolv.Load().(string)), nil }}
	w.resolv.Store("nameserver 203.0.113.99\nnameserver " + upstreamAddr + "\n") // nobody is at .99
	now := time.Now()
	if list, err := u.list(now); err != nil || !slices.Equal(list, []string{"203.0.113.99:53", upstreamAddr + ":53"}) {
		t.Fatalf("%v, %v", list, err)
	}
	o, err := u.ask(t.Context(), question{"www.example.org", dns.TypeA})
	if err != nil || len(o.records) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := u.ask(t.Context(), question{"broken.example.org", dns.TypeA}); err == nil {
		t.Error("a failure became an answer")
	}
	w.resolv.Store("nameserver " + upstreamAddr + "\nnameserver not-an-address\n")
	if list, _ := u.list(now.Add(rereadAfter)); len(list) != 1 {
		t.Errorf("after a change: %v", list)
	}
	w.resolv.Store("# being written\n")
	if list, err := u.list(now.Add(2 * rereadAfter)); len(list) != 1 || err != nil {
		t.Errorf("an empty file: %v, %v", list, err)
	}
	if got := said(w.ask("udp", shopAddr, "broken.example.org", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("broken: %s", got)
	}
}

func TestRateLimit(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Rate, c.Burst = 1, 10 })
	w.upstream(zone(t, "www.example.net. 300 IN A 198.51.100.1"))
	codes := map[int]int{}
	for range 12 {
		codes[w.ask("udp", shopAddr, "www.example.net", dns.TypeA).Rcode]++
	}
	if codes[dns.RcodeSuccess] < 10 || codes[dns.RcodeRefused] < 1 {
		t.Errorf("%v", codes)
	}
	if got := said(w.ask("udp", bankAddr, "www.example.net", dns.TypeA)); got != "NOERROR 198.51.100.1" {
		t.Errorf("the other app: %s", got)
	}
	now := time.Now()
	b := bucket{}
	got := map[verdict]int{}
	for range 100 {
		got[b.take(now, 1, 10)]++
	}
	if got[serve] != 10 || got[refuse] != 10 || got[drop] != 80 {
		t.Errorf("%v", got)
	}
	if b.take(now.Add(30*time.Second), 1, 10) != serve {
		t.Error("it does not recover")
	}
}

func TestSlowUpstream(t *testing.T) {
	w := newWorld(t, nil)
	release := make(chan struct{})
	w.upstream(func(rw dns.ResponseWriter, m *dns.Msg) {
		if strings.HasPrefix(m.Question[0].Name, "slow") {
			<-release
			return
		}
		zone(t, "www.example.net. 300 IN A 198.51.100.1")(rw, m)
	})
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(shopAddr)}, &net.UDPAddr{IP: net.ParseIP(gateway), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 3 * maxPerSource {
		b, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("slow%d.example.org.", i), dns.TypeA).Pack()
		conn.Write(b)
	}
	if got := said(w.ask("udp", bankAddr, "www.example.net", dns.TypeA)); got != "NOERROR 198.51.100.1" {
		t.Errorf("the other app: %s", got)
	}
	close(release)
}
