package edge

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// guard protects one app: by what its people chose, or by what every app has.
type guard struct {
	chosen atomic.Pointer[chosen]
	tally  tally
	looks  chan struct{} // looks at its requests that are waited for now
	queued atomic.Int32  // its requests that wait to be looked at
	held   atomic.Int64  // bytes of bodies that are kept for that
	// compressing are answers that are compressed now.
	compressing atomic.Int32
	reports     reports
	learned     learned
	alike       atomic.Pointer[alike] // nil before the first look
}

// chosen is a shield as it is applied. It is immutable.
type chosen struct {
	shield  bulwark.Shield
	mode    bulwark.WAFMode
	limits  []limiter
	headers *headerPolicy
	traced  float64     // part of the requests that are told of as spans; 0: the client's word is passed on
	clients *clientAuth // whom clients' certificates have to be of; nil: nobody asks
}

// usual limits each client's requests to one app where nobody chose another limit: more than a browser does, less than what hurts.
func usual() limiter {
	return limiter{usual: true, each: time.Second / 200, burst: 10 * time.Second, limit: bulwark.RateLimit{Rate: bulwark.Rate{Requests: 200, Window: time.Second}, Per: bulwark.PerClient}}
}

// guards are those of all apps.
type guards struct {
	meters *meters
	began  time.Time // of the clock of meters
	shares int       // looks of one app that may be waited for at a time
	byHost atomic.Pointer[map[bulwark.HostName]*guard]
	wild   atomic.Pointer[map[bulwark.HostName]*guard] // of patterns, by what their names have after the first label
	nobody guard                                       // for what is for no app
	// refusals is how many a client may have before it is answered later.
	refusals limiter
	// What the node has said, or said to an edge before: until all of it is there nothing is let through, since it may be that it shall not.
	toldShields, toldPatches atomic.Bool
	policies                 policies

	mu     sync.Mutex // guards what follows
	all    map[bulwark.AppID]*guard
	serial uint64 // of what the supervisor holds
	said   []byte // by the node, last
	limits uint64 // ids of limiters that were given
}

func newGuards(shares int, p policies) *guards {
	g := &guards{policies: p, meters: newMeters(), began: time.Now(), shares: shares, all: map[bulwark.AppID]*guard{}, limits: 1, refusals: limiter{id: 1, each: time.Second / 50, burst: 4 * time.Second}}
	g.byHost.Store(&map[bulwark.HostName]*guard{})
	g.wild.Store(&map[bulwark.HostName]*guard{})
	return g
}

// of is the guard of a request. The node says which shield protects a host; for others the server's word of which app has it is enough,
// since all have the same.
func (g *guards) of(host bulwark.HostName, a *app) *guard {
	hosts := *g.byHost.Load()
	if v := hosts[host]; v != nil {
		return v
	}
	if wild := *g.wild.Load(); len(wild) > 0 {
		if v := wild[host.Above()]; v != nil {
			return v
		}
	}
	if v := a.guard.Load(); v != nil {
		return v
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.get(a.id)
	a.guard.Store(v)
	return v
}

// get returns the guard of an app, made if there is none. The caller holds mu.
func (g *guards) get(id bulwark.AppID) *guard {
	v := g.all[id]
	if v == nil {
		v = &guard{looks: make(chan struct{}, g.shares)}
		v.chosen.Store(g.choose(bulwark.Shield{}, nil))
		g.all[id] = v
	}
	return v
}

// remember notes that what is like a request was found harmless.
func (g *guard) remember(likeness uint64) {
	a := g.alike.Load()
	if a == nil {
		a = new(alike)
		if !g.alike.CompareAndSwap(nil, a) {
			a = g.alike.Load()
		}
	}
	a.add(likeness)
}

// known returns the guard of an app, nil if nobody asked for it yet.
func (g *guards) known(id bulwark.AppID) *guard {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all[id]
}

// choose makes of a shield what is applied. A limit that was there before goes on counting. The caller holds mu.
func (g *guards) choose(s bulwark.Shield, before *chosen) *chosen {
	c := &chosen{shield: s, mode: s.WAF, traced: s.Trace.Of()}
	if c.mode == "" {
		c.mode = bulwark.WAFDetect
	}
	c.headers = newHeaderPolicy(s)
	if s.ClientCA != "" {
		if before != nil && before.clients != nil && before.shield.ClientCA == s.ClientCA && before.shield.TLS == s.TLS {
			c.clients = before.clients
		} else {
			c.clients = newClientAuth(s.ClientCA, g.policies.of(s.TLS))
		}
	}
	for _, l := range s.Limits {
		if before != nil {
			if at := slices.IndexFunc(before.limits, func(v limiter) bool { return !v.usual && v.limit == l }); at >= 0 {
				c.limits = append(c.limits, before.limits[at])
				continue
			}
		}
		g.limits++
		c.limits = append(c.limits, newLimiter(g.limits, l))
	}
	if !slices.ContainsFunc(s.Limits, func(l bulwark.RateLimit) bool { return l.Per == bulwark.PerClient && l.Path == "" }) {
		l := usual()
		g.limits++
		l.id = g.limits
		if before != nil && before.limits[len(before.limits)-1].usual {
			l.id = before.limits[len(before.limits)-1].id
		}
		c.limits = append(c.limits, l)
	}
	return c
}

// replace puts the shields of all apps that have one in the place of those before.
func (g *guards) replace(list []bulwark.Shielded) {
	g.mu.Lock()
	defer g.mu.Unlock()
	hosts, wild := map[bulwark.HostName]*guard{}, map[bulwark.HostName]*guard{}
	named := map[bulwark.AppID]bool{}
	for _, s := range list {
		v := g.get(s.App)
		before := v.chosen.Load()
		v.chosen.Store(g.choose(s.Shield, before))
		if s.Shield.CSP == bulwark.CSPReport && before.shield.CSP != bulwark.CSPReport {
			v.reports.clear()
		}
		named[s.App] = true
		for _, h := range s.Hosts {
			hosts[h] = v
			if below, is := h.Wildcard(); is {
				wild[below] = v
			}
		}
	}
	for id, v := range g.all {
		if !named[id] && !v.chosen.Load().shield.IsDefault() {
			v.chosen.Store(g.choose(bulwark.Shield{}, nil))
		}
	}
	g.byHost.Store(&hosts)
	g.wild.Store(&wild)
	g.toldShields.Store(true)
}

// storedShields is what is kept over a restart.
type storedShields struct {
	Serial  uint64             `json:"serial"`
	Shields []bulwark.Shielded `json:"shields"`
}

func decodeStoredShields(b []byte) (storedShields, error) {
	var s storedShields
	err := fdpass.Decode(b, &s)
	return s, err
}

// putShields takes the shields of all apps from the node.
func (e *edge) putShields(r *http.Request) error {
	b, err := readBody(r)
	if err != nil {
		return err
	}
	var list []bulwark.Shielded
	if err := fdpass.Decode(b, &list); err != nil {
		return err
	}
	e.certs.mu.Lock() // one message of the node at a time
	defer e.certs.mu.Unlock()
	e.guards.mu.Lock()
	if bytes.Equal(b, e.guards.said) {
		e.guards.mu.Unlock()
		return nil // the node says it again and again, for an edge that did not hear it
	}
	next := e.guards.serial + 1
	e.guards.mu.Unlock()
	stored, err := json.Marshal(storedShields{Serial: next, Shields: list})
	if err != nil {
		return errors.Join(errors.New("encode shields"), err)
	}
	if err := e.store.keep(keptShields, stored); err != nil {
		return err
	}
	e.guards.mu.Lock()
	e.guards.serial, e.guards.said = next, b
	e.guards.mu.Unlock()
	e.guards.replace(list)
	return nil
}

// shieldStats answers what was noted for an app.
func (e *edge) shieldStats(r *http.Request) (bulwark.ShieldStats, error) {
	id, err := bulwark.ParseAppID(r.FormValue("app"))
	if err != nil {
		return bulwark.ShieldStats{}, err
	}
	v := e.guards.known(id)
	if v == nil {
		return bulwark.ShieldStats{Counts: map[bulwark.Refusal]int{}, Examples: []bulwark.ShieldExample{}}, nil
	}
	s := v.tally.stats(time.Now())
	s.Learned = v.learned.list(v.chosen.Load().shield.Exclude)
	if v.chosen.Load().headers.report {
		s.CSP = v.reports.list()
	}
	return s, nil
}

func newestFirst(list []bulwark.ShieldExample) {
	slices.SortStableFunc(list, func(a, b bulwark.ShieldExample) int { return b.Time.Compare(a.Time) })
}

// passes asks whether a request may go on; if not, it has been answered.
func (x *exchange) passes() bool {
	x.guard = x.e.guards.of(x.host, x.app)
	c := x.guard.chosen.Load()
	if !x.e.guards.toldShields.Load() || !x.e.guards.toldPatches.Load() {
		x.fault = "no word of the node yet"
		x.refuse(pageNoInstance)
		return false
	}
	if c.traced > 0 {
		x.join(c.traced)
	}
	if c.shield.TLS == bulwark.TLSModern && x.r.TLS.Version < tls.VersionTLS13 {
		x.refuse(pageMisdirected) // the connection was made for another app that shares the certificate
		return false
	}
	at, err := netip.ParseAddr(x.client)
	if err != nil { // net/http always gives one
		x.refuse(pageBadRequest)
		return false
	}
	at = at.Unmap()
	if x.turn = x.e.turns.take(x.r.Context(), x.guard, network(at).String()); !x.turn {
		x.slow(slowAfter)
		x.decline(bulwark.RefusedFlood, pageLimited)
		return false
	}
	allowed := within(c.shield.Allow, at)
	if !allowed {
		if within(c.shield.Deny, at) || x.e.deniedAS(c.shield.DenyAS, at) {
			x.decline(bulwark.RefusedDeny, pageDenied)
			return false
		}
		if !x.metered(c, at) {
			return false
		}
	}
	if !x.certified(c) {
		return false
	}
	if !allowed {
		if c.shield.Maintenance == bulwark.MaintenanceOn {
			x.refuse(pageMaintenance)
			return false
		}
		if !x.challenged(c, at) {
			return false
		}
	}
	if c.headers.report && x.target == reportPath {
		x.report()
		return false
	}
	return x.inspected(c)
}

// deniedAS tells whether an address is of one of the operators. Where the table was lost nobody can tell, and everybody is: what was chosen would be open otherwise, and nobody notice.
func (e *edge) deniedAS(list []bulwark.ASN, at netip.Addr) bool {
	return len(list) > 0 && (e.cfg.ASTable == nil || slices.Contains(list, e.cfg.ASTable.Of(at)))
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// metered counts a request against the limits.
func (x *exchange) metered(c *chosen, at netip.Addr) bool {
	now := time.Since(x.e.guards.began)
	plain := plainPath(x.r.URL.Path)
	for i := range c.limits {
		l := &c.limits[i]
		// Who connects from the machine itself is the operator's: a proxy in front, a test of load. A limit that was chosen counts those too.
		if l.usual && at.IsLoopback() || l.limit.Path != "" && !limited(plain, l.path) {
			continue
		}
		var client netip.Addr
		if l.limit.Per == bulwark.PerClient {
			client = network(at)
		}
		if wait, inRow := x.e.guards.meters.take(l, client, now); wait > 0 {
			x.slow(inRow)
			p := pageLimited
			p.retryAfter = strconv.Itoa(int(wait/time.Second) + 1)
			x.decline(bulwark.RefusedLimit, p)
			return false
		}
	}
	return true
}

// plainPath is a path as the most generous app reads it, so that no spelling goes round a limit.
func plainPath(p string) string { return strings.ToLower(path.Clean("/" + p)) }

// limited tells whether a limit for a path is about another: that, what is below it, and what some frameworks take for it.
func limited(p, limit string) bool {
	rest, ok := strings.CutPrefix(p, limit)
	return ok && (rest == "" || limit == "/" || strings.ContainsRune("/.;", rune(rest[0])))
}

// decline refuses a request and notes why.
func (x *exchange) decline(why bulwark.Refusal, p page) {
	x.fault = string(why)
	x.guard.tally.note(x.example(why))
	x.turnAway()
	x.refuse(p)
}

// turnAway counts a refusal against the client, who is answered later if there are many, whatever they were for. It waits for a turn as a request does
// that nobody has an app for.
func (x *exchange) turnAway() {
	at, err := netip.ParseAddr(x.client)
	if err != nil {
		return
	}
	client := network(at)
	if !x.turn {
		if x.turn = x.e.turns.take(x.r.Context(), &x.e.guards.nobody, client.String()); !x.turn {
			x.slow(slowAfter)
			return
		}
	}
	if at.IsLoopback() {
		return
	}
	if wait, inRow := x.e.guards.meters.take(&x.e.guards.refusals, client, time.Since(x.e.guards.began)); wait > 0 {
		x.slow(inRow)
	}
}

// example is the request as an example.
func (x *exchange) example(why bulwark.Refusal) bulwark.ShieldExample {
	p := x.path()
	return bulwark.ShieldExample{Time: x.start.UTC(), Reason: why, ID: x.id, Client: x.client, Method: x.r.Method, Path: p[:min(len(p), 200)]}
}
