package node

import (
	"context"
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
	mu     sync.Mutex // guards states
	states map[bulwark.HostName]certsapi.Status
}

// now returns those that are good at a time, by host name, and for which hosts authorities are to be asked.
func (b *brought) now(ctx context.Context, l *ledger.Ledger, hosts []bulwark.HostName, at time.Time, log *slog.Logger) (map[bulwark.HostName]bulwark.Certificate, []bulwark.HostName) {
	all, err := l.Certificates(ctx)
	if err != nil && ctx.Err() == nil {
		log.Error("a certificate that somebody brought is not served", "error", err)
	}
	out, best := map[bulwark.HostName]bulwark.Certificate{}, map[bulwark.HostName]ledger.Brought{}
	states := map[bulwark.HostName]certsapi.Status{}
	for _, c := range all { // who brought one last means that one, unless its time is over
		for _, h := range c.Hosts {
			if _, ok := out[h]; ok && (at.Before(c.Leaf.NotBefore) || at.After(c.Leaf.NotAfter)) {
				continue
			}
			best[h] = c
			states[h] = certsapi.Status{Host: h, Stage: certsapi.Brought, Issuer: c.Leaf.Issuer.String(), NotBefore: c.Leaf.NotBefore.UTC(), NotAfter: c.Leaf.NotAfter.UTC(), RenewAt: c.Leaf.NotAfter.Add(-30 * 24 * time.Hour).UTC()}
			if at.Before(c.Leaf.NotBefore) || at.After(c.Leaf.NotAfter) {
				continue
			}
			out[h] = bulwark.Certificate{Chain: c.Chain, Key: c.Key, Names: []bulwark.HostName{h}}
			if below, is := h.Wildcard(); is {
				out[h] = bulwark.Certificate{Chain: c.Chain, Key: c.Key, Wildcard: below}
			}
		}
	}
	b.mu.Lock()
	b.states = states
	b.mu.Unlock()
	return out, slices.DeleteFunc(slices.Clone(hosts), func(h bulwark.HostName) bool {
		_, ok := out[h]
		return ok && at.Before(best[h].Leaf.NotAfter.Add(-replaceBefore))
	})
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
