package resolver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	ednsSize      = 1232 // fits every path without fragments, which could be forged (DNS flag day 2020)
	askTimeout    = 2 * time.Second
	totalTimeout  = 5 * time.Second
	rereadAfter   = 2 * time.Second
	maxForgeries  = 16 // wrong answers to one question before it is asked again over TCP
	maxChain      = 16
	maxRecords    = 128
	bareNegative  = 5 * time.Second // an absence without an SOA record
	maxUpstreams  = 3               // as the C library has it
	forwarderPort = "53"
)

var (
	errForged    = errors.New("too many answers that do not fit the question")
	errTruncated = errors.New("the answer is truncated")
	errMismatch  = errors.New("the answer does not fit the question")
)

// upstreams are the host's resolvers, read anew when resolv.conf changes.
type upstreams struct {
	read func() ([]byte, error)

	mu      sync.Mutex // guards what follows
	content []byte
	servers []string
	checked time.Time
}

func (u *upstreams) list(now time.Time) ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.servers) > 0 && now.Sub(u.checked) < rereadAfter {
		return u.servers, nil
	}
	u.checked = now
	content, err := u.read()
	if err == nil && len(u.servers) > 0 && bytes.Equal(content, u.content) {
		return u.servers, nil
	}
	var servers []string
	if err == nil {
		servers, err = parseServers(content)
	}
	if err != nil || len(servers) == 0 {
		if len(u.servers) > 0 {
			return u.servers, nil // half-written or gone for a moment: the last good ones stay
		}
		return nil, fmt.Errorf("resolver: the host names no DNS server: %w", err)
	}
	u.content, u.servers = content, servers
	return servers, nil
}

func readHostConfig() ([]byte, error) { return os.ReadFile("/etc/resolv.conf") }

// HostServers returns the addresses of the host's own resolvers, in their order, as they are now.
func HostServers() ([]netip.Addr, error) {
	content, err := readHostConfig()
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	servers, err := parseServers(content)
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	var out []netip.Addr
	for _, s := range servers {
		if a, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, a.Addr().WithZone(""))
		}
	}
	return out, nil
}

func parseServers(content []byte) ([]string, error) {
	c, err := dns.ClientConfigFromReader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	var servers []string
	for _, s := range c.Servers {
		host, _, _ := strings.Cut(s, "%")
		if net.ParseIP(host) != nil && len(servers) < maxUpstreams {
			servers = append(servers, net.JoinHostPort(s, forwarderPort))
		}
	}
	return servers, nil
}

// ask puts q to the host's resolvers, one after the other, until one answers it.
func (u *upstreams) ask(ctx context.Context, q question) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, totalTimeout)
	defer cancel()
	servers, err := u.list(time.Now())
	if err != nil {
		return nil, err
	}
	var last error
	for _, server := range servers {
		reply, err := exchange(ctx, "udp", server, q)
		if errors.Is(err, errTruncated) || errors.Is(err, errForged) {
			reply, err = exchange(ctx, "tcp", server, q)
		}
		switch {
		case err != nil:
			last = err
		case reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError:
			return settle(reply, q, time.Now()), nil
		default:
			last = fmt.Errorf("%s answered %s", server, dns.RcodeToString[reply.Rcode])
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// exchange asks one server once. Each query has a socket of its own, connected, so the kernel chooses its port at random
// and drops what comes from elsewhere; the id is random too.
func exchange(ctx context.Context, network, server string, q question) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	query := newQuery(q)
	conn := &dns.Conn{Conn: raw, UDPSize: 4096} // more than we announce: a server that sends more is still read whole
	if err := conn.WriteMsg(query); err != nil {
		return nil, err
	}
	for range maxForgeries {
		b, err := conn.ReadMsgHeader(nil)
		if err != nil && !errors.Is(err, dns.ErrShortRead) {
			return nil, err
		}
		reply, err := match(query, b)
		if err == nil || errors.Is(err, errTruncated) {
			return reply, err
		}
		if network == "tcp" {
			return nil, err
		}
		// Wrong id or wrong question: a late answer, or somebody guessing. The true one may still come.
	}
	return nil, errForged
}

func newQuery(q question) *dns.Msg {
	m := new(dns.Msg)
	var id [2]byte
	rand.Read(id[:]) // never fails: crypto/rand aborts the process instead
	m.Id = binary.BigEndian.Uint16(id[:])
	m.RecursionDesired = true
	m.Question = []dns.Question{{Name: dns.Fqdn(q.name), Qtype: q.qtype, Qclass: dns.ClassINET}}
	m.SetEdns0(ednsSize, false)
	return m
}

// match decodes an answer to query.
func match(query *dns.Msg, b []byte) (*dns.Msg, error) {
	reply := new(dns.Msg)
	err := reply.Unpack(b)
	if len(b) < 12 || reply.Id != query.Id || !reply.Response || reply.Opcode != dns.OpcodeQuery {
		return nil, errMismatch
	}
	if len(reply.Question) != 1 || !sameQuestion(reply.Question[0], query.Question[0]) {
		return nil, errMismatch
	}
	if reply.Truncated {
		return nil, errTruncated // before err: a truncated message may end in the middle of a record
	}
	return reply, err
}

func sameQuestion(a, b dns.Question) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// settle keeps of an answer the records that answer q: the chain of names from the question and the records at its end.
// All else (authority, additional, names that nobody asked about) is what cache poisoning is made of.
func settle(reply *dns.Msg, q question, now time.Time) *outcome {
	o := &outcome{rcode: reply.Rcode}
	ttl := maxTTL
	keep := func(rr dns.RR) {
		o.records = append(o.records, rr)
		o.size += dns.Len(rr) + 64
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	name, found := dns.Fqdn(q.name), false
chain:
	for range maxChain {
		var alias *dns.CNAME
		for _, rr := range reply.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, name) {
				continue
			}
			if h.Rrtype == q.qtype && len(o.records) < maxRecords {
				keep(rr)
				found = true
			} else if c, ok := rr.(*dns.CNAME); ok && alias == nil {
				alias = c
			}
		}
		if found || alias == nil {
			break chain
		}
		keep(alias)
		name = alias.Target
	}
	if !found {
		absent := bareNegative
		for _, rr := range reply.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				absent = time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
			}
		}
		ttl = min(ttl, absent, maxNegative)
	}
	o.size += len(q.name) + 128
	o.expires = now.Add(max(ttl, minTTL))
	return o
}
