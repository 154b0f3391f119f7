package certs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/rfc2136"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
	"go.uber.org/zap"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// records proves names by records of the DNS (RFC 8555 §8.4). Where the record's name is delegated by a CNAME, it is set where that leads: so the
// key by which records are set needs to be good for one small zone alone. It implements [acmez.Solver] and [acmez.Waiter].
type records struct {
	provider certmagic.DNSProvider
	ask      []string // name servers, "ADDRESS:PORT"

	mu  sync.Mutex // guards set
	set map[string]*certmagic.DNS01Solver
}

// How long a record is good for, how long until everybody sees it, and how many delegations are followed.
const (
	recordTTL      = time.Minute
	recordSeen     = 2 * time.Minute
	maxDelegations = 8
)

func newRecords(u certsapi.Updates, nameServer string) (*records, error) {
	r := &records{provider: &rfc2136.Provider{Server: u.Server, KeyName: u.KeyName, KeyAlg: u.Algorithm, Key: u.Key}, ask: []string{nameServer}, set: map[string]*certmagic.DNS01Solver{}}
	if nameServer != "" {
		return r, nil
	}
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(c.Servers) == 0 { // without one, certmagic would ask somebody whom nobody chose
		return nil, bulwark.Fail(bulwark.KindUnavailable, "This host asks no name server.", "Name one with bulwark up --name-server.", err)
	}
	r.ask = nil
	for _, s := range c.Servers {
		r.ask = append(r.ask, net.JoinHostPort(s, c.Port))
	}
	return r, nil
}

// Present implements [acmez.Solver].
func (r *records) Present(ctx context.Context, c acme.Challenge) error {
	at, err := r.delegated(ctx, c.DNS01TXTRecordName())
	if err != nil {
		return err
	}
	s := &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{DNSProvider: r.provider, TTL: recordTTL, PropagationTimeout: recordSeen, Resolvers: r.ask,
		OverrideDomain: at, Logger: zap.NewNop()}}
	if err := s.Present(ctx, c); err != nil {
		return fmt.Errorf("the record %s was not set: %w", at, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set[c.URL] = s
	return nil
}

// Wait implements [acmez.Waiter].
func (r *records) Wait(ctx context.Context, c acme.Challenge) error {
	r.mu.Lock()
	s := r.set[c.URL]
	r.mu.Unlock()
	if s == nil {
		return errors.New("certs: no record was set")
	}
	return s.Wait(ctx, c)
}

// CleanUp implements [acmez.Solver].
func (r *records) CleanUp(ctx context.Context, c acme.Challenge) error {
	r.mu.Lock()
	s := r.set[c.URL]
	delete(r.set, c.URL)
	r.mu.Unlock()
	if s == nil {
		return nil // it was not set
	}
	return s.CleanUp(ctx, c)
}

// delegated is where a name leads by CNAMEs, without a dot at its end.
func (r *records) delegated(ctx context.Context, name string) (string, error) {
	for range maxDelegations {
		to, err := r.cname(ctx, name)
		if err != nil || to == "" {
			return name, err
		}
		name = to
	}
	return "", fmt.Errorf("more than %d CNAMEs lead on from each other to %s", maxDelegations, name)
}

// cname is where a name leads, empty if nowhere else.
func (r *records) cname(ctx context.Context, name string) (string, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeCNAME)
	var last error
	for _, server := range r.ask {
		a, _, err := new(dns.Client).ExchangeContext(ctx, q, server)
		if err == nil && a.Truncated {
			a, _, err = (&dns.Client{Net: "tcp"}).ExchangeContext(ctx, q, server)
		}
		switch {
		case err != nil:
			last = err
		case a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError:
			last = fmt.Errorf("%s says %s of %s", server, dns.RcodeToString[a.Rcode], name)
		default:
			for _, rr := range a.Answer {
				if c, ok := rr.(*dns.CNAME); ok && strings.EqualFold(c.Hdr.Name, q.Question[0].Name) {
					return strings.TrimSuffix(c.Target, "."), nil
				}
			}
			return "", nil
		}
	}
	return "", last
}
