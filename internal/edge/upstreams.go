package edge

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/bulwark-paas/bulwark"
)

// Upstreams are the operator's own proxies in front of the edge. What they say of a client's address is believed, and what anybody else says is
// not: by its address an app limits, blocks and blames who asks.
type Upstreams struct {
	From   []netip.Prefix // where they connect from
	Header string         // in which they say for whom they ask, see [net/http.CanonicalHeaderKey]; empty: X-Forwarded-For
	Proxy  bool           // their connections begin with a PROXY header (versions 1 and 2), and those that do not are ended
	Only   bool           // nobody else may connect, but for the machine itself
	// CA has everybody who connects show a certificate of these authorities, but for the machine itself and authorities that look at a challenge.
	CA bulwark.ClientCA
}

// The headers in which an upstream may say for whom it asks.
const (
	ForwardedFor = "X-Forwarded-For"
	Forwarded    = "Forwarded" // RFC 7239
	CFConnecting = "Cf-Connecting-Ip"
)

// proxyHeaderTime is what an upstream has to say for whom it connects.
const proxyHeaderTime = 5 * time.Second

// maxHops bounds how many addresses of a header are looked at.
const maxHops = 32

// trusts tells whether a client at an address is one of them.
func (u *Upstreams) trusts(a netip.Addr) bool { return len(u.From) > 0 && within(u.From, a.Unmap()) }

// admits tells whether who connects from an address may.
func (u *Upstreams) admits(a netip.Addr) bool { return !u.Only || a.IsLoopback() || u.trusts(a) }

// begin reads, when it is first asked for, for whom an upstream connects.
func (u *Upstreams) begin(c net.Conn, from netip.Addr) net.Conn {
	if !u.Proxy || !u.trusts(from) {
		return c
	}
	return proxyproto.NewConn(c, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(proxyHeaderTime))
}

// client is who asks by a connection from an address: the nearest one that is none of ours. What it says itself of for whom it asks counts for nothing.
func (u *Upstreams) client(from string, h http.Header) string {
	at, err := netip.ParseAddr(from)
	if err != nil || !u.trusts(at) {
		return from
	}
	var hops []string
	switch u.Header {
	case CFConnecting:
		if v := h[CFConnecting]; len(v) == 1 {
			hops = v
		}
	case Forwarded:
		hops = forwardedFor(h[Forwarded])
	default:
		for _, v := range h[ForwardedFor] {
			hops = append(hops, strings.Split(v, ",")...)
		}
	}
	for n := range min(len(hops), maxHops) {
		a, ok := hop(hops[len(hops)-1-n])
		if !ok {
			break // nobody of ours wrote that
		}
		if from = a.String(); !u.trusts(a) {
			break
		}
	}
	return from
}

// hop reads an address as proxies write them: with or without a port, an IPv6 one with or without brackets.
func hop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.Addr().Unmap().WithZone(""), true
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	a, err := netip.ParseAddr(s)
	return a.Unmap().WithZone(""), err == nil
}

// forwardedFor lists the "for" of each hop (RFC 7239 §5.2); one without is an empty one. It is split without regard to quotes: no address has what it is
// split at, and a quote that a client leaves open must not hide what a proxy wrote behind it.
func forwardedFor(values []string) []string {
	var out []string
	for _, v := range values {
		for _, element := range strings.Split(v, ",") {
			who := ""
			for _, pair := range strings.Split(element, ";") {
				k, val, _ := strings.Cut(strings.TrimSpace(pair), "=")
				if strings.EqualFold(k, "for") {
					who = strings.Trim(val, `"`)
				}
			}
			out = append(out, who)
		}
	}
	return out
}
