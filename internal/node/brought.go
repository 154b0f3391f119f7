package node

import (
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// replaceBefore is how long before its end a certificate that people brought counts as gone for who asks authorities: then there is another one when it ends.
const replaceBefore = 7 * 24 * time.Hour

// brought are the certificates that people brought, as they were last read.
type brought struct {
	mu     sync.Mutex // guards what follows
	states map[bulwark.HostName]certsapi.Status
	served map[bulwark.HostName]ledger.Brought
}

// now returns those that are good at a time, for the hosts that each is for, and for which hosts authorities are to be asked. What cannot be read is as it was.
func (b *brought) now(ctx context.Context, l *ledger.Ledger, hosts []bulwark.HostName, at time.Time, log *slog.Logger) (map[bulwark.HostName]ledger.Brought, []bulwark.HostName) {
	all, err := l.Certificates(ctx)
	if err != nil && ctx.Err() == nil {
		log.Error("a certificate that somebody brought cannot be read", "error", err)
	}
	good := func(c ledger.Brought) bool { return !at.Before(c.Leaf.NotBefore) && !at.After(c.Leaf.NotAfter) }
	served, states := map[bulwark.HostName]ledger.Brought{}, map[bulwark.HostName]certsapi.Status{}
	for _, c := range all { // who brought one last means that one, unless its time is over
		for _, h := range c.Hosts {
			if _, ok := served[h]; ok && !good(c) {
				continue
			}
			states[h] = certsapi.Status{Host: h, Stage: certsapi.Brought, Issuer: c.Leaf.Issuer.String(), NotBefore: c.Leaf.NotBefore.UTC(), NotAfter: c.Leaf.NotAfter.UTC(), RenewAt: c.Leaf.NotAfter.Add(-30 * 24 * time.Hour).UTC()}
			if good(c) {
				served[h] = c
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		for _, h := range hosts {
			if c, was := b.served[h]; was && served[h].Leaf == nil && good(c) {
				served[h], states[h] = c, b.states[h]
			}
		}
	}
	b.served, b.states = served, states
	return served, slices.DeleteFunc(slices.Clone(hosts), func(h bulwark.HostName) bool {
		c, ok := served[h]
		return ok && at.Before(c.Leaf.NotAfter.Add(-replaceBefore))
	})
}

// gathered has each certificate once, with all the hosts that it is served for, in the order of hosts; of patterns it names one.
func gathered(hosts []bulwark.HostName, served map[bulwark.HostName]ledger.Brought) []bulwark.Certificate {
	var out []bulwark.Certificate
	place := map[*x509.Certificate]int{}
	for _, h := range hosts {
		c, ok := served[h]
		if !ok {
			continue
		}
		at, there := place[c.Leaf]
		below, pattern := h.Wildcard()
		if !there || pattern && out[at].Wildcard != "" {
			at = len(out)
			place[c.Leaf] = at
			out = append(out, bulwark.Certificate{Chain: c.Chain, Key: c.Key})
		}
		if pattern {
			out[at].Wildcard = below
		} else {
			out[at].Names = append(out[at].Names, h)
		}
	}
	return out
}

// over puts how those stand in the place of what is said of authorities' ones.
func (b *brought) over(all []certsapi.Status) []certsapi.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]certsapi.Status, 0, len(all)+len(b.states))
	for _, s := range all {
		own, ok := b.states[s.Host]
		if !ok || !time.Now().Before(own.NotAfter) && s.Stage == certsapi.Issued {
			out = append(out, s)
		}
	}
	for h, s := range b.states {
		if !slices.ContainsFunc(out, func(o certsapi.Status) bool { return o.Host == h }) {
			out = append(out, s)
		}
	}
	return out
}
