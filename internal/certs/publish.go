package certs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/crypto/ocsp"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// publish tells the edge what to serve and the node how things stand, whenever something changed, and in between in case that they forgot.
func (m *manager) publish(ctx context.Context) {
	var told [sha256.Size]byte
	var at time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
			select { // what comes together is told together
			case <-ctx.Done():
				return
			case <-time.After(m.c.Pace.Tell):
			}
		case <-time.After(10 * time.Second):
		}
		list, states, known := m.picture()
		if !known {
			continue // an edge that serves what a process before this one gave it goes on doing so
		}
		if sum := sumOf(list); sum != told || time.Since(at) > time.Minute {
			if err := m.c.Edge.PutCertificates(ctx, list); err == nil {
				told, at = sum, time.Now()
			} else if ctx.Err() == nil {
				m.c.Log.Debug("the edge takes no certificates", "error", err)
				m.later(ctx)
			}
		}
		if err := m.node.tell(ctx, states); err != nil && ctx.Err() == nil {
			m.c.Log.Debug("the node is not told", "error", err)
			m.later(ctx)
		}
	}
}

// later has it tried again in a moment.
func (m *manager) later(ctx context.Context) {
	time.AfterFunc(time.Second, func() {
		if ctx.Err() == nil {
			m.touch()
		}
	})
}

func sumOf(list []bulwark.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, c := range list {
		fmt.Fprintf(h, "%d %d %d %v", len(c.Chain), len(c.Key), len(c.OCSP), c.Names)
		h.Write(c.OCSP)
		h.Write(c.Chain)
		h.Write(c.Key)
	}
	h.Sum(sum[:0])
	return sum
}

// picture is what is served and how each name stands. It is not known before it was looked for
// what a process before this one had.
func (m *manager) picture() (list []bulwark.Certificate, states []certsapi.Status, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cache == nil {
		return nil, nil, false
	}
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(m.hosts)) {
		h := m.hosts[name]
		if !h.looked {
			return nil, nil, false
		}
		s := h.status
		if s.Stage != certsapi.Foreign {
			s.CAA = m.caa
		}
		best := m.best(name, now)
		if best != nil {
			c, err := asPEM(best.Certificate.Certificate, best.PrivateKey)
			if err == nil {
				if below, is := name.Wildcard(); is {
					c.Wildcard = below
				} else {
					c.Names = []bulwark.HostName{name}
				}
				c.OCSP, c.OCSPUntil = staple(best, now)
				list = append(list, c)
			}
			s.Stage, s.Issuer, s.NotBefore, s.NotAfter = certsapi.Issued, best.Leaf.Issuer.String(), best.Leaf.NotBefore.UTC(), best.Leaf.NotAfter.UTC()
			s.RenewAt = renewAt(best)
			if s.RenewAt.After(now) {
				s.Error, s.Failures = "", 0
			}
		}
		states = append(states, s)
	}
	return list, states, true
}

// best is the certificate of a name that is good for longest.
func (m *manager) best(name bulwark.HostName, now time.Time) *certmagic.Certificate {
	var best *certmagic.Certificate
	for _, c := range m.cache.AllMatchingCertificates(string(name)) {
		if !slices.Contains(c.Names, string(name)) { // a pattern's is for whoever has the pattern
			continue
		}
		if c.Leaf == nil || now.After(c.Leaf.NotAfter) || best != nil && !c.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			continue
		}
		best = &c
	}
	return best
}

// staple is what an authority says of a certificate not being revoked (RFC 6960), and until when it says so; nothing if it says nothing.
func staple(c *certmagic.Certificate, now time.Time) ([]byte, time.Time) {
	if len(c.OCSPStaple) == 0 {
		return nil, time.Time{}
	}
	r, err := ocsp.ParseResponse(c.OCSPStaple, nil)
	if err != nil || r.Status != ocsp.Good || !r.NextUpdate.After(now) {
		return nil, time.Time{}
	}
	return c.OCSPStaple, r.NextUpdate.UTC()
}

// renewAt is when a certificate will be renewed at the latest: when a third of its life is left. An authority may want it sooner (RFC 9773).
func renewAt(c *certmagic.Certificate) time.Time {
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return c.Leaf.NotAfter.Add(-time.Duration(float64(life) * certmagic.DefaultRenewalWindowRatio)).UTC()
}
