package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// The ports that a rule of builds opens if it gives none, each for its own way of asking.
const (
	PortTLS   = 443 // by CONNECT
	PortPlain = 80  // by GET http://…
)

// place is where a builder wants to go: a name or an address, and a port.
type place struct {
	name bulwark.HostName // empty for an address
	addr netip.Addr
	port uint16
}

func (p place) host() string {
	if p.name != "" {
		return string(p.name)
	}
	return p.addr.String()
}

func (p place) String() string { return net.JoinHostPort(p.host(), strconv.Itoa(int(p.port))) }

// parsePlace reads the authority of a request. fallback is the port if there is none, 0 if there must be one.
func parsePlace(s string, fallback uint16) (place, error) {
	bad := func(why string) (place, error) {
		return place{}, bulwark.Invalid("The request "+why+".", "Ask for host:port with a name in ASCII.")
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil && fallback != 0 {
		if host, portText, err = net.SplitHostPort(s + ":" + strconv.Itoa(int(fallback))); err != nil {
			return bad("names no host that can be read")
		}
	} else if err != nil {
		return bad("names no host and port that can be read")
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != portText {
		return bad("has a port that is not a number from 1 to 65535")
	}
	p := place{port: uint16(n)}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return bad("names a network interface")
		}
		p.addr = a.Unmap()
		return p, nil
	}
	if p.name, err = netpolicy.ParseHost(host); err != nil {
		return bad("names no host that can exist")
	}
	return p, nil
}

// refusal is a connection that does not come about, with the sentences for the build's log.
type refusal struct {
	verdict Verdict
	reason  Reason
	message string
	hint    string
	cause   error
}

// Error returns what the user is told.
func (r *refusal) Error() string { return r.message + " " + r.hint }

// allow finds the rule that opens to for connections whose default port is usual. Among several, one that the operator
// marked private wins.
func (p Policy) allow(to place, usual uint16) (netpolicy.Rule, *refusal) {
	var found netpolicy.Rule
	ok := false
	for _, r := range p.Allow {
		matches := r.To.Names(to.name) || to.name == "" && r.To.Covers(to.addr)
		port := r.To.Port()
		if port == 0 {
			port = usual
		}
		if matches && port == to.port && (!ok || r.Private) {
			found, ok = r, true
		}
	}
	if ok {
		return found, nil
	}
	return found, &refusal{
		verdict: Refused, reason: Unlisted,
		message: fmt.Sprintf("Builds of %s may not reach %s.", p.App, to),
		hint:    "An operator can allow it with: bulwark registries allow --packages " + to.String(),
	}
}

// permits reports whether a connection that rule opened may go to a.
func (p Policy) permits(rule netpolicy.Rule, to place, a netip.Addr, connected []netip.Prefix) bool {
	if to.name != "" && rule.Leads(a, connected) {
		return true
	}
	if to.name == "" && !netpolicy.Closed(a, connected) {
		return true
	}
	// An operator who wrote down the range itself and marked it private means it, the machine's own addresses included.
	for _, r := range p.Allow {
		if r.Private && r.To.Covers(a) && (r.To.Port() == 0 || r.To.Port() == to.port) {
			return true
		}
	}
	return false
}

// resolve returns the addresses that to leads to, each of them permitted. One closed address refuses the name as a
// whole: an answer that mixes the internet with the inside is what an attack on the resolver looks like.
func (s *settings) resolve(ctx context.Context, policy Policy, rule netpolicy.Rule, to place) ([]netip.Addr, *refusal) {
	addrs := []netip.Addr{to.addr}
	if to.name != "" {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		var err error
		addrs, err = s.lookup(ctx, to.name)
		if err != nil || len(addrs) == 0 {
			return nil, &refusal{Failed, NotResolved, fmt.Sprintf("The name %s could not be resolved.", to.name),
				"Check the name, and the host's resolver.", err}
		}
	}
	connected, err := s.connected()
	if err != nil {
		// Without knowing the host's neighbours, nothing can be told from them.
		return nil, &refusal{Failed, NotConnected, "The host's own networks could not be read, so nothing is reached.", "Try again.", err}
	}
	checked := make([]netip.Addr, 0, maxAddresses)
	for _, a := range addrs {
		a = a.Unmap()
		if !policy.permits(rule, to, a, connected) {
			hint := "No rule opens the machine itself or its link."
			if netpolicy.Classify(a, connected) == netpolicy.Private {
				hint = "An operator who means an inner address can allow it with: bulwark registries allow --packages " + to.String()
			}
			return nil, &refusal{Refused, ClosedAddress, fmt.Sprintf("%s leads to %s, which is not on the internet.", to, a), hint, nil}
		}
		if len(checked) < maxAddresses {
			checked = append(checked, a)
		}
	}
	return checked, nil
}

// connect opens a connection to one of addrs, in their order. It dials addresses, never names: what was checked is what
// is reached.
func (s *settings) connect(ctx context.Context, to place, addrs []netip.Addr) (*net.TCPConn, *refusal) {
	var last error
	for _, a := range addrs {
		dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
		conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(a, to.port).String())
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if last = err; ctx.Err() != nil {
			break
		}
	}
	return nil, &refusal{Failed, NotConnected, fmt.Sprintf("%s did not answer.", to), "Try again, or check that host.", last}
}
