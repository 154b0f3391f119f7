package netpolicy

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What the kernel writes into the flags of a route (linux/route.h, linux/ipv6_route.h).
const (
	routeUp      = 0x1
	routeGateway = 0x2
	routeReject  = 0x200
)

// OnLink returns the subnets that the host reaches without a router, from the contents of /proc/net/route and
// /proc/net/ipv6_route. A default route is left out even if it names no router, as on a point-to-point line: it says
// nothing about neighbours and would close the internet. A line that does not read as a route is left out; the caller
// who gets nothing at all from a host that has a network should refuse to go on.
func OnLink(route, route6 []byte) []netip.Prefix {
	var all []netip.Prefix
	for line := range strings.Lines(string(route)) {
		if prefix, ok := route4(strings.Fields(line)); ok {
			all = append(all, prefix)
		}
	}
	for line := range strings.Lines(string(route6)) {
		if prefix, ok := route16(strings.Fields(line)); ok {
			all = append(all, prefix)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// route4 reads "eth0 000200C0 00000000 0001 0 0 0 00FFFFFF …": interface, destination, gateway, flags, …, mask; the
// addresses are the numbers as a little-endian machine holds them.
func route4(f []string) (netip.Prefix, bool) {
	if len(f) < 8 {
		return netip.Prefix{}, false
	}
	dst, err1 := strconv.ParseUint(f[1], 16, 32)
	flags, err2 := strconv.ParseUint(f[3], 16, 32)
	mask, err3 := strconv.ParseUint(f[7], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil || flags&routeUp == 0 || flags&(routeGateway|routeReject) != 0 {
		return netip.Prefix{}, false
	}
	var a, m [4]byte
	binary.NativeEndian.PutUint32(a[:], uint32(dst))
	binary.NativeEndian.PutUint32(m[:], uint32(mask))
	bits := 0
	for v := binary.BigEndian.Uint32(m[:]); v&(1<<31) != 0; v <<= 1 {
		bits++
	}
	prefix := netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked()
	return prefix, bits > 0
}

// route16 reads "fd00…0000 40 000…0 00 000…0 00000100 … 00000001 eth0": destination, length, source, length, next hop,
// metric, uses, references, flags, interface.
func route16(f []string) (netip.Prefix, bool) {
	if len(f) < 10 {
		return netip.Prefix{}, false
	}
	dst, err1 := hex.DecodeString(f[0])
	bits, err2 := strconv.ParseUint(f[1], 16, 8)
	flags, err3 := strconv.ParseUint(f[8], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil || len(dst) != 16 || bits == 0 || bits > 128 ||
		flags&routeUp == 0 || flags&(routeGateway|routeReject) != 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte(dst)), int(bits)).Masked(), true
}
