package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// Config is what Run needs.
type Config struct {
	Node string // path of the socket at which the node answers
	Edge Edge
	Log  *slog.Logger
	// Challenges are the types by which names are proven; empty means all that can be answered.
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
	Account     time.Duration // how old the key of an account becomes
}

// DefaultPace is what a public authority can be asked: fast where somebody waits for a record that they have just set, and seldom where
// nobody looks any more.
func DefaultPace() Pace {
	return Pace{First: 15 * time.Second, Last: 6 * time.Hour, Limited: time.Hour, Renew: 10 * time.Minute, Tell: 200 * time.Millisecond, Account: accountKeyAge}
}

// How often accounts are looked for that are not known yet, and how long an authority may take to say how it is named.
const (
	accountsTick = 5 * time.Second
	accountsTime = 20 * time.Second
)

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
	anew    func()        // ends this process in good order

	mu     sync.Mutex // guards what follows
	config *certmagic.Config
	cache  *certmagic.Cache
	asks   bool // there is an authority to ask
	sets   bool // records of the DNS can be set
	hosts  map[bulwark.HostName]*host
	why    map[string]error // what authorities said last, by name
	asked  []*issuer
	caa    []string // what CAA records would let our accounts alone issue
}

// host is a name with what is done for it.
type host struct {
	status certsapi.Status
	looked bool // whether there is a certificate from before is known
	stop   context.CancelFunc
	wake   chan struct{} // has it tried again at once
}

// Run has certificates issued and renewed until ctx ends; ready is called when it knows what it is for.
func Run(ctx context.Context, c Config, ready func()) error {
	if c.Pace == (Pace{}) {
		c.Pace = DefaultPace()
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &manager{c: c, anew: cancel, node: newNode(c.Node), answers: newAnswers(c.Edge, c.Log), slots: make(chan struct{}, atOnce), changed: make(chan struct{}, 1),
		hosts: map[bulwark.HostName]*host{}, why: map[string]error{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { m.answers.keep(ctx) })
	wg.Go(func() { m.publish(ctx) })
	wg.Go(func() { m.watchAccounts(ctx) })
	version, was, pause := "", certsapi.Orders{}, time.Second
	ready()
	for ctx.Err() == nil {
		o, err := m.node.orders(ctx, version)
		if err == nil && o.Version != version {
			if err = m.follow(ctx, &was, *o); err == nil {
				version = o.Version
			}
		}
		if err == nil {
			pause = time.Second
			continue
		}
		if ctx.Err() == nil {
			c.Log.Warn("what certificates are wanted is not known", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Minute)
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
		*was = certsapi.Orders{Authorities: next.Authorities, Email: next.Email, Updates: next.Updates, NameServer: next.NameServer}
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
			delete(m.why, string(name))
		}
	}
	for name := range wanted {
		if h := m.hosts[name]; h != nil {
			if next.Again[name] > was.Again[name] {
				m.again(h)
			}
			continue
		}
		h := &host{status: certsapi.Status{Host: name, Stage: certsapi.Waiting}, wake: make(chan struct{}, 1)}
		m.hosts[name] = h
		if !certmagic.SubjectQualifiesForPublicCert(string(name)) {
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
	return a.Email == b.Email && a.NameServer == b.NameServer && (a.Updates == nil) == (b.Updates == nil) && (a.Updates == nil || *a.Updates == *b.Updates) && slices.EqualFunc(a.Authorities, b.Authorities, func(x, y certsapi.Authority) bool {
		return x.Directory == y.Directory && string(x.Roots) == string(y.Roots) && (x.EAB == nil) == (y.EAB == nil) && (x.EAB == nil || *x.EAB == *y.EAB)
	})
}

// reconfigure begins anew with other authorities. What those before issued stays served until it is renewed.
func (m *manager) reconfigure(ctx context.Context, o certsapi.Orders) error {
	solvers, err := m.solvers(o)
	if err != nil {
		return err
	}
	var issuers []certmagic.Issuer
	var asked []*issuer
	known := map[string]bool{}
	for _, a := range o.Authorities {
		i, err := newIssuer(a, o.Email, m.node, solvers, m.refused)
		if err != nil {
			return err
		}
		if m.c.Pace.Account > 0 {
			i.keyAge = m.c.Pace.Account
		}
		i.unchanged = func(err error) {
			m.c.Log.Warn("the key of an account was not changed", "authority", i.key, "error", sentence(err))
		}
		asked = append(asked, i)
		known[i.key] = true
		issuers = append(issuers, i)
	}
	before, err := m.node.List(ctx, certificatesAt, false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, at := range before {
		if key := path.Base(at); !known[key] {
			issuers = append(issuers, retired(key))
		}
	}
	m.mu.Lock()
	old := m.cache
	m.mu.Unlock()
	if old != nil {
		old.Stop() // it waits for what tells us of renewals, and that takes mu
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, h := range m.hosts {
		h.stop()
		delete(m.hosts, name)
	}
	quiet := zap.NewNop() // what matters comes as events, below
	// certmagic asks for the configuration while it holds its cache, which is looked at below mu: so mu is not taken for the answer.
	var config atomic.Pointer[certmagic.Config]
	m.cache = certmagic.NewCache(certmagic.CacheOptions{RenewCheckInterval: m.c.Pace.Renew, Logger: quiet,
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return config.Load(), nil }})
	m.asked, m.caa = asked, nil
	m.sets = solvers[acme.ChallengeTypeDNS01] != nil
	if m.asks = len(o.Authorities) > 0; len(issuers) == 0 {
		issuers = []certmagic.Issuer{retired("nobody")}
	}
	m.config = certmagic.New(m.cache, certmagic.Config{Storage: m.node, Issuers: issuers, Logger: quiet, OnEvent: m.event,
		DisableStorageCheck: true,
		// With a proxy, of which there is none, it gives those who say what is revoked 30 s; without, all the time that they take.
		OCSP:      certmagic.OCSPConfig{HTTPProxy: func(*http.Request) (*url.URL, error) { return nil, nil }},
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256}})
	config.Store(m.config)
	return nil
}

// solvers are those of the challenges that can be answered.
func (m *manager) solvers(o certsapi.Orders) (map[string]acmez.Solver, error) {
	out := map[string]acmez.Solver{acme.ChallengeTypeHTTP01: m.answers, acme.ChallengeTypeTLSALPN01: m.answers}
	if o.Updates != nil {
		r, err := newRecords(*o.Updates, o.NameServer)
		if err != nil {
			return nil, err
		}
		out[acme.ChallengeTypeDNS01] = r
	}
	maps.DeleteFunc(out, func(t string, _ acmez.Solver) bool {
		return len(m.c.Challenges) > 0 && !slices.Contains(m.c.Challenges, t)
	})
	return out, nil
}

// certificatesAt is the folder in which certmagic keeps certificates, those of each issuer in a folder of its own.
const certificatesAt = "certificates"

// retired is an authority that is not asked any more. What it issued is found by its key.
type retired string

// Issue implements [certmagic.Issuer].
func (retired) Issue(context.Context, *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	return nil, errors.New("the authority is not asked any more")
}

// IssuerKey implements [certmagic.Issuer].
func (r retired) IssuerKey() string { return string(r) }

// refused notes what an authority said. After it others may be tried, and those that are retired: what they say is of no use.
func (m *manager) refused(names []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		m.why[n] = err
	}
}

// because is what an authority said of a name, else what is known.
func (m *manager) because(name string, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if why := m.why[name]; why != nil {
		return why
	}
	return err
}

// obtain has a first certificate for a name, however long it takes; after that certmagic renews it.
func (m *manager) obtain(ctx context.Context, name bulwark.HostName, h *host) {
	if !m.look(ctx, name, h) {
		return
	}
	m.mu.Lock()
	asks, sets := m.asks, m.sets
	m.mu.Unlock()
	if !asks {
		m.update(h, func(s *certsapi.Status) { s.Stage = certsapi.Foreign })
		return
	}
	if _, wild := name.Wildcard(); wild && !sets {
		m.update(h, func(s *certsapi.Status) {
			s.Error = "for such a name records of the DNS have to be set, and the operator named no name server that takes them (bulwark up --acme-dns)"
		})
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
		delete(m.why, string(name))
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
		err = m.because(string(name), err)
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
		case <-h.wake:
			wait = m.c.Pace.First
		}
	}
}

// again has it tried at once to get a certificate for a host. Renewals are certmagic's, who waits longer and longer and cannot be told; so for those this process ends,
// and begins anew, as it may at any time: it looks what is due then. The caller holds mu.
func (m *manager) again(h *host) {
	if !h.looked || h.status.Stage != certsapi.Issued {
		select {
		case h.wake <- struct{}{}:
		default:
		}
		return
	}
	m.c.Log.Info("begins anew, since somebody wants a renewal tried at once", "host", h.status.Host)
	m.anew()
}

// watchAccounts finds out what CAA records would name our accounts.
func (m *manager) watchAccounts(ctx context.Context) {
	tick := time.NewTicker(accountsTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.mu.Lock()
		asked, known := m.asked, len(m.caa)
		m.mu.Unlock()
		if known == len(asked) {
			continue
		}
		var all []string
		for _, i := range asked {
			actx, cancel := context.WithTimeout(ctx, accountsTime)
			one, err := i.caa(actx)
			cancel()
			if err != nil {
				m.c.Log.Debug("an authority does not say how it is named in CAA records", "authority", i.key, "error", err)
			}
			if one != "" {
				all = append(all, one)
			}
		}
		m.mu.Lock()
		changed := !slices.Equal(all, m.caa)
		m.caa = all
		m.mu.Unlock()
		if changed {
			m.touch()
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
		if m.forget(ctx, config, name) {
			continue
		}
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

// forget removes pairs of a name that do not fit, and reports whether there was one. Certificate and key are two things: who is killed between
// keeping one and the other leaves such a pair. It is good for nothing, and as long as it is there certmagic asks for no other. What cannot
// be read stays: the node may be away.
func (m *manager) forget(ctx context.Context, config *certmagic.Config, name bulwark.HostName) (found bool) {
	for _, i := range config.Issuers {
		chain, err := m.node.Load(ctx, certmagic.StorageKeys.SiteCert(i.IssuerKey(), string(name)))
		if err != nil {
			continue
		}
		key, err := m.node.Load(ctx, certmagic.StorageKeys.SitePrivateKey(i.IssuerKey(), string(name)))
		if err != nil {
			continue
		}
		if _, err := tls.X509KeyPair(chain, key); err == nil {
			continue
		}
		if err := m.node.Delete(ctx, certmagic.StorageKeys.CertsSitePrefix(i.IssuerKey(), string(name))); err != nil {
			m.c.Log.Warn("what does not fit was not removed", "host", name, "error", err)
			continue
		}
		found = true
	}
	return found
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
		err = m.because(name, err)
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
