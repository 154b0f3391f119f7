package netpolicy

import (
	"net/netip"
	"slices"
)

// Class says what sort of place an address leads to.
type Class int

// The classes, from the most to the least reachable.
const (
	// Open is a public unicast address: any allow rule may lead there.
	Open Class = iota
	// Private belongs to somebody's inner network (RFC 1918, unique local, carrier NAT, the host's connected subnets):
	// only a rule that the operator marked private leads there.
	Private
	// Local leads to the machine itself, to its link, to many machines at once, or nowhere defined: a name never leads
	// there, whatever rule it matches. Cloud metadata services live here.
	Local
)

// String returns the class for a log line.
func (c Class) String() string {
	switch c {
	case Open:
		return "open"
	case Private:
		return "private"
	default:
		return "local"
	}
}

// Closed reports whether addr is anything but Open. connected are the subnets that the host itself is part of, as
// OnLink reads them: the host's neighbours are not the internet, whatever range they use.
func Closed(addr netip.Addr, connected []netip.Prefix) bool { return Classify(addr, connected) != Open }

// Classify returns the class of addr. The documentation ranges 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24 and
// 2001:db8::/32 count as public: nothing local lives there by itself, and closed test networks play the internet with
// them. connected comes first in strictness all the same.
func Classify(addr netip.Addr, connected []netip.Prefix) Class {
	// A scoped address names a link of this machine.
	if !addr.IsValid() || addr.Zone() != "" {
		return Local
	}
	class := Open
	// Each address on the way is judged: the outer one, then what it carries. Nesting ends at IPv4, so after two steps.
	for _, a := range unwrap(addr) {
		c := base(a)
		if c == Open && slices.ContainsFunc(connected, func(p netip.Prefix) bool { return unmap(p).Contains(a) }) {
			c = Private
		}
		class = max(class, c)
	}
	return class
}

// block is a range and what it is.
type block struct {
	prefix netip.Prefix
	class  Class
}

// blocks4 lists what is not public unicast in IPv4 (IANA special-purpose address registry, RFC 6890).
func blocks4() []block {
	return []block{
		{p("0.0.0.0/8"), Local},        // "this network"; Linux takes 0.0.0.0 for itself
		{p("10.0.0.0/8"), Private},     // RFC 1918
		{p("100.64.0.0/10"), Private},  // carrier NAT, RFC 6598; some clouds' metadata (100.100.100.200)
		{p("127.0.0.0/8"), Local},      // loopback
		{p("169.254.0.0/16"), Local},   // link-local; cloud metadata
		{p("172.16.0.0/12"), Private},  // RFC 1918
		{p("192.0.0.0/24"), Local},     // protocol assignments: DS-Lite, NAT64 discovery, some clouds' metadata
		{p("192.88.99.0/24"), Local},   // 6to4 relays, withdrawn
		{p("192.168.0.0/16"), Private}, // RFC 1918
		{p("198.18.0.0/15"), Private},  // benchmarking, used as inner networks
		{p("224.0.0.0/4"), Local},      // multicast
		{p("240.0.0.0/4"), Local},      // reserved, and broadcast
	}
}

// Closed4 returns the IPv4 ranges that are not Open, for a packet filter that refuses them before a connection is made.
func Closed4() []netip.Prefix {
	var out []netip.Prefix
	for _, b := range blocks4() {
		out = append(out, b.prefix)
	}
	return out
}

// Inner returns the ranges, of both kinds, that are somebody's inner network.
func Inner() []netip.Prefix {
	var out []netip.Prefix
	for _, b := range append(blocks4(), blocks6()...) {
		if b.class == Private {
			out = append(out, b.prefix)
		}
	}
	return out
}

// Closed6 is Closed4 for IPv6. Tunnels (6to4, Teredo), which carry an address that a packet filter cannot see, are in it as a whole;
// of the forms that hold an IPv4 address as it is, those that hold a closed one.
func Closed6() []netip.Prefix {
	out := []netip.Prefix{p("2001::/32"), p("2002::/16")}
	for _, b := range blocks6() {
		out = append(out, b.prefix)
	}
	// Everything outside 2000::/3 but the carriers, as what is left of ::/0 on the way down to each of them.
	out = append(out, without(p("::/0"), append(carriers(), p("2000::/3")))...)
	for _, c := range carriers() {
		for _, closed := range Closed4() {
			b := c.Addr().As16()
			four := closed.Addr().As4()
			copy(b[12:], four[:])
			out = append(out, netip.PrefixFrom(netip.AddrFrom16(b), 96+closed.Bits()))
		}
	}
	return out
}

// without returns the ranges that make up whole less the holes.
func without(whole netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	if slices.ContainsFunc(holes, func(h netip.Prefix) bool { return h.Bits() <= whole.Bits() && h.Contains(whole.Addr()) }) {
		return nil
	}
	if !slices.ContainsFunc(holes, whole.Overlaps) {
		return []netip.Prefix{whole}
	}
	b := whole.Addr().As16()
	low := netip.PrefixFrom(whole.Addr(), whole.Bits()+1)
	b[whole.Bits()/8] |= 0x80 >> (whole.Bits() % 8)
	return append(without(low, holes), without(netip.PrefixFrom(netip.AddrFrom16(b), whole.Bits()+1), holes)...)
}

// blocks6 lists what is not public unicast inside 2000::/3, outside of which nothing is, and the ranges outside that are
// somebody's inner network rather than nowhere.
func blocks6() []block {
	return []block{
		{p("fc00::/7"), Private},     // unique local
		{p("fec0::/10"), Private},    // site-local, withdrawn and still routed by some
		{p("64:ff9b:1::/48"), Local}, // NAT64 of the local network: where the IPv4 address sits is the network's choice
		{p("2001:2::/48"), Private},  // benchmarking
		{p("2001:10::/28"), Local},   // ORCHID: not routable
		{p("2001:20::/28"), Local},   // ORCHIDv2: not routable
	}
}

// carriers are the IPv6 forms that hold an IPv4 address. The outer form itself is judged by that address alone.
func carriers() []netip.Prefix {
	return []netip.Prefix{
		p("::ffff:0:0:0/96"), // IPv4-translated, RFC 2765
		p("64:ff9b::/96"),    // NAT64, RFC 6052
	}
}

func base(a netip.Addr) Class {
	if a.Is4() {
		return find(blocks4(), a, Open)
	}
	outside := Local
	if p("2000::/3").Contains(a) || slices.ContainsFunc(carriers(), func(c netip.Prefix) bool { return c.Contains(a) }) {
		outside = Open
	}
	return find(blocks6(), a, outside)
}

func find(blocks []block, a netip.Addr, other Class) Class {
	for _, b := range blocks {
		if b.prefix.Contains(a) {
			return b.class
		}
	}
	return other
}

// unwrap returns the addresses by which addr must be judged: the mapped form is the IPv4 address itself (the kernel
// sends IPv4), the other forms are judged together with what they carry.
func unwrap(addr netip.Addr) []netip.Addr {
	addr = addr.Unmap()
	if addr.Is4() {
		return []netip.Addr{addr}
	}
	b := addr.As16()
	all := []netip.Addr{addr}
	for _, c := range carriers() {
		if c.Contains(addr) {
			return append(all, netip.AddrFrom4([4]byte(b[12:16])))
		}
	}
	if p("2002::/16").Contains(addr) { // 6to4, RFC 3056
		all = append(all, netip.AddrFrom4([4]byte(b[2:6])))
	}
	if p("2001::/32").Contains(addr) { // Teredo, RFC 4380: the server, and the client with its bits turned over
		all = append(all, netip.AddrFrom4([4]byte(b[4:8])),
			netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	// ISATAP, RFC 5214: the interface identifier [00|02]00:5efe holds the address of the tunnel's far end.
	if b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		all = append(all, netip.AddrFrom4([4]byte(b[12:16])))
	}
	return all
}

// unmap turns a prefix of mapped addresses into the IPv4 prefix that it means.
func unmap(prefix netip.Prefix) netip.Prefix {
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		return netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix
}

func p(s string) netip.Prefix { return netip.MustParsePrefix(s) }
