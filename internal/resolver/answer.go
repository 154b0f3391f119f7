package resolver

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// localTTL is how long an instance may keep a local answer: short, as the address goes with the service.
const localTTL = 5

// answer makes the answer to req from src. It never returns nil.
func (r *resolver) answer(ctx context.Context, src netip.Addr, req *dns.Msg) *dns.Msg {
	table, tenant := r.who(src)
	if table == nil {
		return reply(req, dns.RcodeRefused)
	}
	app := table.Apps[tenant.id]
	q, rcode := readQuestion(req)
	if rcode != dns.RcodeSuccess {
		return reply(req, rcode)
	}
	host := hostOf(q.name)
	if addrs, ok := app.Names[bulwark.HostName(q.name)]; ok {
		return localReply(req, q, addrs)
	}
	named, private := app.rules(host)
	switch {
	case table.local(q.name) && !private:
		return reply(req, dns.RcodeNameError)
	case app.Restricted && !named:
		r.note(tenant.id, q, "not on the allow-list")
		return explain(reply(req, dns.RcodeRefused), dns.ExtendedErrorCodeProhibited)
	case q.qtype == dns.TypeHTTPS || q.qtype == dns.TypeSVCB:
		return reply(req, dns.RcodeSuccess) // they carry addresses as hints; without them, clients ask for A and AAAA
	}
	o, err := r.resolve(ctx, tenant, q)
	if err != nil {
		return reply(req, dns.RcodeServerFailure)
	}
	connected, err := r.connected()
	if err != nil {
		// Without knowing the host's neighbours, nothing can be told from them.
		r.log.Error("resolver: cannot read the host's own networks", "error", err)
		return reply(req, dns.RcodeServerFailure)
	}
	kept, addrs, stripped := filter(&app, host, o, connected)
	if named && len(addrs) > 0 && !o.told.Load() {
		r.tell(ctx, Resolved{App: tenant.id, Name: host, Addresses: addrs, TTL: bulwark.Duration(o.ttl(time.Now()))}, o)
	}
	m := reply(req, o.rcode)
	ttl := uint32(o.ttl(time.Now()) / time.Second)
	for _, rr := range kept {
		c := dns.Copy(rr)
		c.Header().Ttl = ttl
		m.Answer = append(m.Answer, c)
	}
	if stripped {
		r.note(tenant.id, q, "leads to an inner address")
		explain(m, dns.ExtendedErrorCodeFiltered)
	}
	return m
}

// filter drops the addresses that host may not lead to.
func filter(app *App, host bulwark.HostName, o *outcome, connected []netip.Prefix) (kept []dns.RR, addrs []netip.Addr, stripped bool) {
	for _, rr := range o.records {
		a, isAddr := addrOf(rr)
		if isAddr && !app.leads(host, a, connected) {
			stripped = true
			continue
		}
		if isAddr {
			addrs = append(addrs, a)
		}
		kept = append(kept, rr)
	}
	return kept, addrs, stripped
}

// addrOf returns the address of an A or AAAA record. One that holds none is judged as the invalid address, which leads
// nowhere.
func addrOf(rr dns.RR) (netip.Addr, bool) {
	switch rr := rr.(type) {
	case *dns.A:
		a, _ := netip.AddrFromSlice(rr.A)
		return a.Unmap(), true
	case *dns.AAAA:
		a, _ := netip.AddrFromSlice(rr.AAAA.To16())
		return a.Unmap(), true // a mapped address is reached as IPv4
	}
	return netip.Addr{}, false
}

// readQuestion returns the one question of a message, or the code by which it is turned down.
func readQuestion(req *dns.Msg) (question, int) {
	if req.Opcode != dns.OpcodeQuery {
		return question{}, dns.RcodeNotImplemented
	}
	if len(req.Question) != 1 || len(req.Answer) > 0 || len(req.Ns) > 0 {
		return question{}, dns.RcodeFormatError
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		return question{}, dns.RcodeBadVers
	}
	q := req.Question[0]
	if q.Qclass != dns.ClassINET {
		return question{}, dns.RcodeRefused
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypeHTTPS, dns.TypeSVCB:
	default: // ANY and zone transfers among them
		return question{}, dns.RcodeRefused
	}
	name := strings.TrimSuffix(strings.ToLower(q.Name), ".")
	if name == "" || !plainName(name) {
		return question{}, dns.RcodeRefused
	}
	return question{name, q.Qtype}, dns.RcodeSuccess
}

// plainName reports whether a name is made of what host and service names are made of. Others have no use here and trip
// over other people's parsers.
func plainName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

// hostOf returns the host that a name is about: a service name (_pgsql._tcp.db.example.org) is about the host below its
// underscored labels. Empty if it is no host, which matches no rule.
func hostOf(name string) bulwark.HostName {
	for strings.HasPrefix(name, "_") {
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return ""
		}
		name = rest
	}
	host, err := netpolicy.ParseHost(name)
	if err != nil {
		return ""
	}
	return host
}

func reply(req *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(req, rcode)
	m.RecursionAvailable = true
	m.CheckingDisabled = false
	m.Compress = true
	if len(req.Question) > 1 {
		m.Question = req.Question[:1]
	}
	if req.IsEdns0() != nil {
		m.SetEdns0(ednsSize, false)
	}
	return m
}

// explain adds an extended error (RFC 8914) for clients that can read one.
func explain(m *dns.Msg, code uint16) *dns.Msg {
	if opt := m.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code})
	}
	return m
}

func localReply(req *dns.Msg, q question, addrs []netip.Addr) *dns.Msg {
	m := reply(req, dns.RcodeSuccess)
	h := dns.RR_Header{Name: req.Question[0].Name, Rrtype: q.qtype, Class: dns.ClassINET, Ttl: localTTL}
	for _, a := range addrs {
		a = a.Unmap()
		switch {
		case a.Is4() && q.qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && q.qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return m
}
