package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// How the router hands instances' connections to the egress process: packets with the mark are for a socket of the router's
// own, whatever address they name (Documentation/networking/tproxy.rst).
const (
	transitPort  = 15001
	transitMark  = 1
	transitTable = 100
)

// Exception opens a closed address for one instance: port 0 means any.
type Exception struct {
	From netip.Addr
	To   netip.AddrPort
}

// Rules returns the router's whole rule set, a pure function of what is closed and of the exceptions. An instance sends
// from its own address or not at all; it reaches the resolver and what the egress process carries for it; it reaches no
// other instance, nothing of the router's own, and nothing is ever forwarded. What is closed is refused at once, so that
// an app sees a refusal and not a connection that dies.
//
// Into sandboxes connections are made from here, since they cannot be made inside: to those ports, and nothing else begins here.
func Rules(connected []netip.Prefix, open []Exception, sandboxes []netip.AddrPort) string {
	var b strings.Builder
	closed := append(netpolicy.Closed4(), connected...)
	closed = slices.DeleteFunc(closed, func(p netip.Prefix) bool { return !p.Addr().Is4() })
	fmt.Fprintf(&b, "table inet bulwark\ndelete table inet bulwark\ntable inet bulwark {\n")
	writeSet(&b, "closed", "ipv4_addr; flags interval; auto-merge", prefixes(closed))
	// Two sets without ranges: in one with ranges an address with any port and the same with one would be in each other's way.
	var ported, whole, boxed []string
	for _, e := range open {
		if e.To.Port() == 0 {
			whole = append(whole, fmt.Sprintf("%s . %s", e.From, e.To.Addr()))
			continue
		}
		ported = append(ported, fmt.Sprintf("%s . %s . %d", e.From, e.To.Addr(), e.To.Port()))
	}
	for _, s := range sandboxes {
		boxed = append(boxed, fmt.Sprintf("%s . %d", s.Addr(), s.Port()))
	}
	writeSet(&b, "open", "ipv4_addr . ipv4_addr . inet_service", ported)
	writeSet(&b, "whole", "ipv4_addr . ipv4_addr", whole)
	writeSet(&b, "sandboxes", "ipv4_addr . inet_service", boxed)
	arrive, enter := fromRun(Gateway.String())
	// What a sandbox answers. It cannot begin anything with it: for that it would take a packet with SYN alone.
	answer := fmt.Sprintf("\t\tip daddr %s ip saddr . tcp sport @sandboxes tcp flags & (syn | ack) != syn accept", Gateway)
	arrive, enter = append([]string{answer}, arrive...), append([]string{answer}, enter...)
	for _, line := range slices.Concat([]string{
		"\tchain arrive {",
		"\t\ttype filter hook prerouting priority mangle; policy drop;",
		"\t\tiifname \"lo\" accept",
		"\t\tmeta nfproto != ipv4 drop",
		"\t\tfib saddr . iif oif missing drop",
	}, arrive, []string{
		"\t}",
		"\tchain refuse {",
		"\t\tmeta l4proto tcp reject with tcp reset",
		"\t\treject with icmpx admin-prohibited",
		"\t}",
		"\tchain enter {",
		"\t\ttype filter hook input priority filter; policy drop;",
		"\t\tiifname \"lo\" accept",
	}, enter, []string{
		"\t}",
		"\tchain begin {",
		"\t\ttype filter hook output priority filter; policy accept;",
		"\t\toifname \"lo\" accept",
		"\t\ttcp flags & (syn | ack) == syn ip daddr . tcp dport @sandboxes accept",
		"\t\ttcp flags & (syn | ack) == syn reject with tcp reset",
		"\t\tmeta l4proto udp udp sport != 53 drop",
		"\t}",
		"\tchain pass {",
		"\t\ttype filter hook forward priority filter; policy drop;",
		"\t}",
		"}",
	}) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// fromRun are the rules of what instances may do, made from the matrix of zones: what arrives from them, and what of that is for the
// router itself. A row of another kind cannot be put into force here, which is a mistake of ours.
func fromRun(gw string) (arrive, enter []string) {
	carry := fmt.Sprintf("tproxy ip to %s:%d meta mark set %d accept", gw, transitPort, transitMark)
	var rest []string
	for _, f := range netpolicy.Flows() {
		switch {
		case f.From != netpolicy.Run:
		case f.To == netpolicy.Names && f.Port != 0 && f.Proto != netpolicy.Handed:
			line := fmt.Sprintf("\t\tip daddr %s %s dport %d accept", gw, f.Proto, f.Port)
			arrive, enter = append(arrive, line), append(enter, line)
		case f.To == netpolicy.Egress && f.Proto == netpolicy.TCP && f.Port == 0:
			rest = append(rest,
				"\t\tmeta l4proto != tcp goto refuse",
				// What was open when a connection began is its own until the egress process ends it; a packet of none finds nobody.
				"\t\ttcp flags & (syn | ack) != syn "+carry,
				"\t\tip saddr . ip daddr . tcp dport @open "+carry,
				"\t\tmeta l4proto tcp ip saddr . ip daddr @whole "+carry,
				"\t\tip daddr @closed goto refuse",
				"\t\tmeta l4proto tcp "+carry)
			enter = append(enter, fmt.Sprintf("\t\tmeta mark %d accept", transitMark))
		default:
			panic(fmt.Sprintf("network: there is no rule for %s to %s by %s", f.From, f.To, f.Proto))
		}
	}
	return append(arrive, rest...), enter
}

// onThreadIn runs f on a thread that is in the router namespace.
func (r *Router) onThreadIn(f func() error) error {
	return onThread(func() error {
		ns, err := netns.GetFromPath(r.path)
		if err != nil {
			return fmt.Errorf("network: the router namespace is away: %w", err)
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("network: %w", err)
		}
		return f()
	})
}

// Sockets are the router's own: where instances ask for names, and where their connections are handed over.
type Sockets struct {
	DNS     []*os.File // bound UDP, listening TCP
	Transit *os.File
}

// The names under which the router's sockets are kept over a restart of the node.
const (
	socketUDP     = "router-dns-udp"
	socketTCP     = "router-dns-tcp"
	socketTransit = "router-transit"
)

// Keeper keeps descriptors over a restart of the node.
type Keeper interface {
	NotifyStore(name string, f *os.File) error
}

// Sockets opens the router's sockets, or takes those that a predecessor left in the keeper: the processes that listen on
// copies of them live on when the node does not, and nobody could bind the same addresses anew.
func (r *Router) Sockets(restored map[string][]*os.File, keep Keeper) (*Sockets, error) {
	if udp, tcp, transit := restored[socketUDP], restored[socketTCP], restored[socketTransit]; len(udp) > 0 && len(tcp) > 0 && len(transit) > 0 {
		return &Sockets{DNS: []*os.File{udp[0], tcp[0]}, Transit: transit[0]}, nil
	}
	out, err := r.open()
	if err != nil {
		return nil, err
	}
	for name, f := range map[string]*os.File{socketUDP: out.DNS[0], socketTCP: out.DNS[1], socketTransit: out.Transit} {
		if err := keep.NotifyStore(name, f); err != nil {
			return nil, fmt.Errorf("network: the router's sockets cannot be kept: %w", err)
		}
	}
	return out, nil
}

func (r *Router) open() (*Sockets, error) {
	out := &Sockets{}
	err := r.onThreadIn(func() error {
		dns := net.JoinHostPort(Gateway.String(), "53")
		udp, err := net.ListenPacket("udp4", dns)
		if err != nil {
			return err
		}
		defer udp.Close()
		tcp, err := net.Listen("tcp4", dns)
		if err != nil {
			return err
		}
		defer tcp.Close()
		transparent := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
			if err == nil {
				err = cerr
			}
			return err
		}}
		transit, err := transparent.Listen(context.Background(), "tcp4", net.JoinHostPort(Gateway.String(), fmt.Sprint(transitPort)))
		if err != nil {
			return err
		}
		defer transit.Close()
		for _, s := range []interface{ File() (*os.File, error) }{udp.(*net.UDPConn), tcp.(*net.TCPListener)} {
			f, err := s.File()
			if err != nil {
				return err
			}
			out.DNS = append(out.DNS, f)
		}
		out.Transit, err = transit.(*net.TCPListener).File()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network: the router's sockets: %w", err)
	}
	return out, nil
}

// redirect has the router take marked packets for its own.
func redirect(h *netlink.Handle, lo netlink.Link) error {
	everything := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if err := h.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: everything, Table: transitTable,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Table, rule.Priority = netlink.FAMILY_V4, transitMark, transitTable, 100
	return ignoreExists(h.RuleAdd(rule))
}
