package certs

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// Config is what Run needs.
type Config struct {
	Node string // path of the socket at which the node answers
	Edge Edge
	Log  *slog.Logger
	// Challenges are the types by which names are proven; empty means all that the edge can answer.
	Challenges []string
	// Pace may be changed by tests; the zero value means DefaultPace.
	Pace Pace
}

// Pace is how often things are done.
type Pace struct {
	First, Last time.Duration // between tries of a name that fails: the first, doubled up to the last
	Limited     time.Duration // the least, if the authority said that it was asked too often
	Renew       time.Duration // how often it is looked what has to be renewed
	Tell        time.Duration // how long changes are collected before the edge is told
}

// DefaultPace is what a public authority can be asked: fast where somebody waits for a record that they have just set, and seldom where
// nobody looks any more.
func DefaultPace() Pace {
	return Pace{First: 15 * time.Second, Last: 6 * time.Hour, Limited: time.Hour, Renew: 10 * time.Minute, Tell: 200 * time.Millisecond}
}

// atOnce bounds how many names are asked for at a time.
const atOnce = 8

// issueTime bounds one try.
const issueTime = 10 * time.Minute

// manager has a certificate for each host.
type manager struct {
	c       Config
	node    *node
	answers *answers
	slots   chan struct{}
	changed chan struct{} // something is to be told

	mu     sync.Mutex // guards what follows
	config *certmagic.Config
	cache  *certmagic.Cache
	hosts  map[bulwark.HostName]*host
}

// host is a name with what is done for it.
type host struct {
	status certsapi.Status
	looked bool // whether there is a certificate from before is known
	stop   context.CancelFunc
	again  chan struct{} // somebody wants it to be tried now
}

// Run has certificates issued and renewed until ctx ends; ready is called when it knows what it is for.
func Run(ctx context.Context, c Config, ready func()) error {
	if c.Pace == (Pace{}) {
		c.Pace = DefaultPace()
	}
	m := &manager{c: c, node: newNode(c.Node), answers: newAnswers(c.Edge, c.Log), slots: make(chan struct{}, atOnce), changed: make(chan struct{}, 1),
		hosts: map[bulwark.HostName]*host{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { m.answers.keep(ctx) })
	wg.Go(func() { m.publish(ctx) })
	version, was := "", certsapi.Orders{}
	ready()
	for ctx.Err() == nil {
		o, err := m.node.orders(ctx, version)
		if err == nil && o.Version != version {
			if err = m.follow(ctx, &was, *o); err == nil {
				version = o.Version
			}
		}
		if err != nil && ctx.Err() == nil {
			c.Log.Warn("what certificates are wanted is not known", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	m.mu.Lock()
	cache := m.cache
	m.mu.Unlock()
	if cache != nil {
		cache.Stop()
	}
	return nil
}

// follow makes what is done what the node orders. Only what changed is touched.
func (m *manager) follow(ctx context.Context, was *certsapi.Orders, next certsapi.Orders) error {
	if m.config == nil || !sameAuthorities(*was, next) {
		if err := m.reconfigure(ctx, next); err != nil {
			return err
		}
		*was = certsapi.Orders{Authorities: next.Authorities, Email: next.Email}
	}
	wanted := map[bulwark.HostName]bool{}
	for _, h := range next.Hosts {
		wanted[h] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, h := range m.hosts {
		if !wanted[name] {
			h.stop()
			delete(m.hosts, name)
			m.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: string(name)}})
		}
	}
	for name := range wanted {
		if m.hosts[name] != nil {
			continue
		}
		h := &host{status: certsapi.Status{Host: name, Stage: certsapi.Waiting}, again: make(chan struct{}, 1)}
		m.hosts[name] = h
		if len(next.Authorities) == 0 || !certmagic.SubjectQualifiesForPublicCert(string(name)) {
			h.status.Stage, h.stop, h.looked = certsapi.Foreign, func() {}, true
			continue
		}
		hctx, stop := context.WithCancel(ctx)
		h.stop = stop
		go m.obtain(hctx, name, h)
	}
	*was = next
	m.touch()
	return nil
}

func sameAuthorities(a, b certsapi.Orders) bool {
	return a.Email == b.Email && slices.EqualFunc(a.Authorities, b.Authorities, func(x, y certsapi.Authority) bool {
		return x.Directory == y.Directory && string(x.Roots) == string(y.Roots) && (x.EAB == nil) == (y.EAB == nil) && (x.EAB == nil || *x.EAB == *y.EAB)
	})
}

// reconfigure begins anew with other authorities. What was issued stays served.
func (m *manager) reconfigure(ctx context.Context, o certsapi.Orders) error {
	var issuers []certmagic.Issuer
	for _, a := range o.Authorities {
		i, err := newIssuer(a, o.Email, m.node, m.answers.solvers(m.c.Challenges))
		if err != nil {
			return err
		}
		issuers = append(issuers, i)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, h := range m.hosts {
		h.stop()
		delete(m.hosts, name)
	}
	if m.cache != nil {
		m.cache.Stop()
	}
	quiet := zap.NewNop() // what matters comes as events, below
	m.cache = certmagic.NewCache(certmagic.CacheOptions{RenewCheckInterval: m.c.Pace.Renew, Logger: quiet,
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.config, nil
		}})
	if len(issuers) == 0 {
		issuers = []certmagic.Issuer{nobody{}}
	}
	m.config = certmagic.New(m.cache, certmagic.Config{Storage: m.node, Issuers: issuers, Logger: quiet, OnEvent: m.event,
		DisableStorageCheck: true, KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256}})
	return nil
}

// nobody issues nothing: the operator wants no authority asked.
type nobody struct{}

// Issue implements [certmagic.Issuer].
func (nobody) Issue(context.Context, *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	return nil, errors.New("no certificate authority is asked")
}

// IssuerKey implements [certmagic.Issuer].
func (nobody) IssuerKey() string { return "nobody" }

// obtain has a first certificate for a name, however long it takes; after that certmagic renews it.
func (m *manager) obtain(ctx context.Context, name bulwark.HostName, h *host) {
	if !m.look(ctx, name, h) {
		return
	}
	wait := m.c.Pace.First
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case m.slots <- struct{}{}:
		}
		m.update(h, func(s *certsapi.Status) { s.Stage, s.Tried, s.Next = certsapi.Issuing, time.Now().UTC(), time.Time{} })
		m.mu.Lock()
		config := m.config
		m.mu.Unlock()
		tctx, cancel := context.WithTimeout(ctx, issueTime)
		err := config.ManageSync(tctx, []string{string(name)})
		cancel()
		<-m.slots
		if err == nil {
			m.update(h, func(s *certsapi.Status) { s.Stage, s.Error, s.Failures = certsapi.Issued, "", 0 })
			m.c.Log.Info("a certificate is there", "host", name)
			return
		}
		if ctx.Err() != nil {
			return
		}
		pause := wait
		if limited(err) {
			pause = max(pause, m.c.Pace.Limited)
		}
		pause += rand.N(pause/4 + 1) //nolint:gosec // names that failed together are not tried together for ever; that is no secret
		wait = min(2*wait, m.c.Pace.Last)
		m.c.Log.Warn("no certificate was issued", "host", name, "error", sentence(err), "next", pause.String())
		m.update(h, func(s *certsapi.Status) {
			s.Stage, s.Error, s.Failures, s.Next = certsapi.Waiting, sentence(err), s.Failures+1, time.Now().Add(pause).UTC()
		})
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		case <-h.again:
			wait = m.c.Pace.First
		}
	}
}

// look finds what a process before this one had for a name, and reports whether that became known.
func (m *manager) look(ctx context.Context, name bulwark.HostName, h *host) bool {
	m.mu.Lock()
	config := m.config
	m.mu.Unlock()
	for {
		_, err := config.CacheManagedCertificate(ctx, string(name))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			break
		}
		m.c.Log.Warn("what was kept for a host was not read", "host", name, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Second):
		}
	}
	m.mu.Lock()
	h.looked = true
	m.mu.Unlock()
	m.touch()
	return true
}

func (m *manager) update(h *host, f func(*certsapi.Status)) {
	m.mu.Lock()
	f(&h.status)
	m.mu.Unlock()
	m.touch()
}

// touch has the edge and the node told.
func (m *manager) touch() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// event is what certmagic tells of renewals.
func (m *manager) event(_ context.Context, what string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	renewal, _ := data["renewal"].(bool)
	switch what {
	case "cert_obtained", "cached_managed_cert":
		m.touch()
	case "cert_failed":
		err, _ := data["error"].(error)
		if !renewal || err == nil {
			return nil
		}
		m.mu.Lock()
		if h := m.hosts[bulwark.HostName(name)]; h != nil {
			h.status.Error, h.status.Tried, h.status.Failures = sentence(err), time.Now().UTC(), h.status.Failures+1
		}
		m.mu.Unlock()
		m.c.Log.Warn("a certificate was not renewed", "host", name, "error", sentence(err))
		m.touch()
	}
	return nil
}

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
		fmt.Fprintf(h, "%d %d %v", len(c.Chain), len(c.Key), c.Names)
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
		best := m.best(name, now)
		if best != nil {
			c, err := asPEM(best.Certificate.Certificate, best.PrivateKey)
			if err == nil {
				c.Names = []bulwark.HostName{name}
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
		if c.Leaf == nil || now.After(c.Leaf.NotAfter) || best != nil && !c.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			continue
		}
		best = &c
	}
	return best
}

// renewAt is when a certificate will be renewed at the latest: when a third of its life is left. An authority may want it sooner (RFC 9773).
func renewAt(c *certmagic.Certificate) time.Time {
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return c.Leaf.NotAfter.Add(-time.Duration(float64(life) * certmagic.DefaultRenewalWindowRatio)).UTC()
}
