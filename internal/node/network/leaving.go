package network

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// Leaving is what the processes that connect on their own account, or for others, may reach from the host's own network. They check each
// connection themselves, or have no reason to make others; this holds when one of them is owned.
type Leaving struct {
	Table     string         // the rules' name on the host, which is the installation's own
	Egress    uint32         // user id of the egress process
	Names     uint32         // user id of the resolver
	Certs     uint32         // user id of the certs process
	Resolvers []netip.Addr   // the host's own resolvers
	Connected []netip.Prefix // what the host itself is part of
	Upstreams []netip.Prefix // proxies in front of the platform's ports, which connect for many
	Platform  []uint16       // the platform's own ports, to which no name leads, whatever it is for
	Datagrams []uint16       // those of them on which the edge answers datagrams
	Open      []Opened       // closed addresses that somebody opened as addresses
	// Authorities are where the operator's certificate authorities are, as far as that is not the internet.
	Authorities []netip.AddrPort
	// NameServers are those that the operator named for the certs process, to ask and to set records.
	NameServers []netip.AddrPort
	Ports       []uint16 // ports on which a name that somebody opened may lead to an inner address; 0 means any
}

// Opened is a range with a port, 0 for any.
type Opened struct {
	To   netip.Prefix
	Port uint16
}

// within tells whether the other is a larger range with the same port.
func (o Opened) within(other Opened) bool {
	return other.Port == o.Port && other.To.Bits() < o.To.Bits() && other.To.Masked().Contains(o.To.Addr())
}

// How many connections one client may begin to the platform's ports: a handshake takes the edge as long as some ten requests.
const (
	beginsRate  = 100 // a second
	beginsBurst = 1000
)

// From how many ports one client may ask by datagrams: it is one for each connection of HTTP/3.
const (
	asksRate  = 20 // a second
	asksBurst = 100
)

// Rules returns the whole of it, a pure function. It is about the packets of three users, and of who begins connections to the platform's own ports; it
// says nothing of anybody else's, so what else the host has in rules stays as it is and counts as before.
func (l Leaving) Rules() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %[1]s\ntable inet %[1]s {\n", l.Table)
	closed := slices.Concat(netpolicy.Closed4(), netpolicy.Closed6(), l.Connected)
	inner := slices.Concat(netpolicy.Inner(), l.Connected)
	for _, f := range []struct {
		kind string
		four bool
	}{{"4", true}, {"6", false}} {
		of := func(ps []netip.Prefix) []netip.Prefix {
			return slices.DeleteFunc(slices.Clone(ps), func(p netip.Prefix) bool { return p.Addr().Is4() != f.four })
		}
		addr := "ipv" + f.kind + "_addr"
		writeSet(&b, "closed"+f.kind, addr+"; flags interval; auto-merge", prefixes(of(closed)))
		writeSet(&b, "inner"+f.kind, addr+"; flags interval; auto-merge", prefixes(of(inner)))
		var resolvers, ported []string
		var whole []netip.Prefix
		for _, r := range l.Resolvers {
			if r = r.Unmap().WithZone(""); r.Is4() == f.four {
				resolvers = append(resolvers, r.String())
			}
		}
		for _, o := range l.Open {
			// In one set no two ranges may have anything in common.
			switch {
			case o.Port == 0:
				whole = append(whole, o.To)
			case o.To.Addr().Is4() == f.four && !slices.ContainsFunc(l.Open, o.within):
				ported = append(ported, fmt.Sprintf("%s . %d", o.To.Masked(), o.Port))
			}
		}
		places := func(all []netip.AddrPort) (out []string) {
			for _, a := range all {
				if to := a.Addr().Unmap().WithZone(""); to.Is4() == f.four {
					out = append(out, fmt.Sprintf("%s . %d", to, a.Port()))
				}
			}
			return out
		}
		writeSet(&b, "authorities"+f.kind, addr+" . inet_service", places(l.Authorities))
		writeSet(&b, "nameservers"+f.kind, addr+" . inet_service", places(l.NameServers))
		writeSet(&b, "resolvers"+f.kind, addr, resolvers)
		writeSet(&b, "open"+f.kind, addr+" . inet_service; flags interval", ported)
		writeSet(&b, "whole"+f.kind, addr+"; flags interval; auto-merge", prefixes(of(whole)))
	}
	var named []string
	for _, p := range l.Ports {
		named = append(named, fmt.Sprint(p))
	}
	if slices.Contains(l.Ports, 0) {
		named = []string{"0-65535"}
	}
	writeSet(&b, "ports", "inet_service; flags interval", named)
	var platform []string
	for _, p := range l.Platform {
		platform = append(platform, fmt.Sprint(p))
	}
	writeSet(&b, "platform", "inet_service", platform)
	var datagrams []string
	for _, p := range l.Datagrams {
		datagrams = append(datagrams, fmt.Sprint(p))
	}
	writeSet(&b, "datagrams", "inet_service", datagrams)
	for _, f := range []struct {
		kind string
		four bool
	}{{"4", true}, {"6", false}} {
		of := slices.DeleteFunc(slices.Clone(l.Upstreams), func(p netip.Prefix) bool { return p.Addr().Is4() != f.four })
		writeSet(&b, "upstreams"+f.kind, "ipv"+f.kind+"_addr; flags interval; auto-merge", prefixes(of))
	}
	for _, kind := range []string{"4", "6"} {
		// What is in it is the kernel's: who began connections of late. It holds so many, and forgets them after a minute.
		// And who sent datagrams, so that only they are answered. No connections are tracked for that: whoever floods could fill the table of these.
		writeSet(&b, "asked"+kind, "ipv"+kind+"_addr . inet_service; flags dynamic,timeout; timeout 3m; size 262144", nil)
		writeSet(&b, "asks"+kind, "ipv"+kind+"_addr; flags dynamic,timeout; timeout 1m; size 65535", nil)
		writeSet(&b, "begins"+kind, "ipv"+kind+"_addr; flags dynamic,timeout; timeout 1m; size 65535", nil)
	}
	lines := []string{
		"chain arrive {",
		"\ttype filter hook input priority filter; policy accept;",
		"\tudp dport @datagrams jump ask",
		"\tiif lo accept",
		"\tip saddr @upstreams4 accept",
		"\tip6 saddr @upstreams6 accept",
		"\ttcp dport @platform tcp flags & (fin | syn | rst | ack) == syn jump begin",
		"}",
		"chain begin {",
		fmt.Sprintf("\tmeta nfproto ipv4 update @begins4 { ip saddr limit rate over %d/second burst %d packets } drop", beginsRate, beginsBurst),
		// All addresses of one network of IPv6 are one client: whoever has one has all of them.
		fmt.Sprintf("\tmeta nfproto ipv6 update @begins6 { ip6 saddr and ffff:ffff:ffff:ffff:: limit rate over %d/second burst %d packets } drop", beginsRate, beginsBurst),
		"}",
		"chain ask {",
		"\tip saddr . udp sport @asked4 update @asked4 { ip saddr . udp sport } return",
		"\tip6 saddr . udp sport @asked6 update @asked6 { ip6 saddr . udp sport } return",
		// Else one address would fill the list by asking from all of its ports, and nobody new be answered.
		fmt.Sprintf("\tmeta nfproto ipv4 update @asks4 { ip saddr limit rate over %d/second burst %d packets } return", asksRate, asksBurst),
		fmt.Sprintf("\tmeta nfproto ipv6 update @asks6 { ip6 saddr and ffff:ffff:ffff:ffff:: limit rate over %d/second burst %d packets } return", asksRate, asksBurst),
		"\tupdate @asked4 { ip saddr . udp sport }",
		"\tupdate @asked6 { ip6 saddr . udp sport }",
		"}",
		"chain leave {",
		"\ttype filter hook output priority filter; policy accept;",
		// The edge answers datagrams; who owned it could otherwise send them anywhere.
		"\tudp sport @datagrams jump answer",
		fmt.Sprintf("\tmeta skuid %d goto egress", l.Egress),
		fmt.Sprintf("\tmeta skuid %d goto names", l.Names),
		fmt.Sprintf("\tmeta skuid %d goto certs", l.Certs),
		"}",
		"chain answer {",
		"\tip daddr . udp dport @asked4 accept",
		"\tip6 daddr . udp dport @asked6 accept",
		"\tdrop",
		"}",
		"chain refuse {",
		"\tmeta l4proto tcp reject with tcp reset",
		"\treject with icmpx admin-prohibited",
		"}",
	}
	for _, from := range []netpolicy.Zone{netpolicy.Egress, netpolicy.Names, netpolicy.Certs} {
		lines = append(lines, "chain "+string(from)+" {")
		for _, r := range fromHost(from) {
			lines = append(lines, "\t"+r)
		}
		lines = append(lines, "\tgoto refuse", "}")
	}
	for _, line := range lines {
		b.WriteString("\t" + line + "\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// opened are the rules by which one of them reaches what is closed to the others.
func opened(from netpolicy.Zone) []string {
	if from == netpolicy.Certs {
		return []string{"ip daddr . tcp dport @authorities4 accept", "ip6 daddr . tcp dport @authorities6 accept"}
	}
	return []string{
		"ip daddr . tcp dport @open4 accept",
		"ip6 daddr . tcp dport @open6 accept",
		"ip daddr @whole4 accept",
		"ip6 daddr @whole6 accept",
		"fib daddr type local tcp dport @platform goto refuse",
		"ip daddr @inner4 tcp dport @ports accept",
		"ip6 daddr @inner6 tcp dport @ports accept",
	}
}

// fromHost are the rules of one of them, made from the matrix of zones. A row of another kind cannot be put into force here, which is
// a mistake of ours.
func fromHost(from netpolicy.Zone) []string {
	var dns, rest []string
	for _, f := range netpolicy.Flows() {
		switch {
		case f.From != from:
		case f.To == netpolicy.Internet && f.Port == 53 && f.Proto != netpolicy.Handed:
			for _, v := range []string{"ip daddr @resolvers4", "ip6 daddr @resolvers6"} {
				dns = append(dns, fmt.Sprintf("%s %s dport 53 accept", v, f.Proto))
			}
			if from == netpolicy.Certs {
				dns = append(dns, fmt.Sprintf("ip daddr . %s dport @nameservers4 accept", f.Proto), fmt.Sprintf("ip6 daddr . %s dport @nameservers6 accept", f.Proto))
			}
		case f.To == netpolicy.Internet && f.Proto == netpolicy.TCP && f.Port == 0:
			rest = append(rest,
				"meta l4proto != tcp goto refuse",
				// A connection that was let begin goes on until the process ends it.
				"tcp flags & (syn | ack) != syn accept")
			rest = append(rest, opened(from)...)
			rest = append(rest,
				"ip daddr @closed4 goto refuse",
				"ip6 daddr @closed6 goto refuse",
				// The machine itself, by whatever address.
				"fib daddr type != unicast goto refuse",
				"accept")
		default:
			panic(fmt.Sprintf("network: there is no rule for %s to %s by %s", f.From, f.To, f.Proto))
		}
	}
	return append(dns, rest...)
}

func writeSet(b *strings.Builder, name, kind string, elements []string) {
	fmt.Fprintf(b, "\tset %s { type %s;", name, kind)
	if len(elements) > 0 {
		slices.Sort(elements)
		fmt.Fprintf(b, " elements = { %s };", strings.Join(slices.Compact(elements), ", "))
	}
	b.WriteString(" }\n")
}

func prefixes(ps []netip.Prefix) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Masked().String())
	}
	return out
}

// Host puts Leaving's rules into force in the host's own network, and sees when they are not there any more.
type Host struct {
	rules      string // as they were put into force last
	listed     []byte // as the kernel had them then
	generation uint32
}

// Enforce puts rules into force, all at once or not at all, if they are others than before or if somebody has changed them; the
// latter it tells. Others on the host have rules of their own and change them when they like, so it is ours alone that is compared.
func (h *Host) Enforce(ctx context.Context, l Leaving) (changed bool, err error) {
	rules := l.Rules()
	now, err := generation()
	if err != nil || rules == h.rules && now == h.generation {
		return false, err
	}
	if rules == h.rules {
		listed, lerr := list(ctx, l.Table)
		if lerr == nil && bytes.Equal(listed, h.listed) {
			h.generation = now
			return false, nil
		}
		changed = true
	}
	if err := nft(ctx, rules, nil, "-f", "-"); err != nil {
		return changed, err
	}
	// Read before the list: what somebody changes in between is looked at again.
	if h.generation, err = generation(); err != nil {
		return changed, err
	}
	if h.listed, err = list(ctx, l.Table); err != nil {
		return changed, err
	}
	h.rules = rules
	return changed, nil
}

func list(ctx context.Context, table string) ([]byte, error) {
	var out bytes.Buffer
	err := nft(ctx, "", &out, "-nn", "list", "table", "inet", table)
	return metered.ReplaceAll(out.Bytes(), nil), err
}

// metered are the sets whose content is the kernel's: who began connections and who asked by datagrams of late.
var metered = regexp.MustCompile(`(?s)\tset (begins|asked|asks)[46] \{.*?\n\t\}\n`)
