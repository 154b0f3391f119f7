// Package edge is the HTTPS edge: it ends TLS, decides by host name which instance a request goes to, and forwards it
// over sockets that dial made. It promises: it creates no socket and opens no file, all it uses was handed to it or
// connected to it; it keeps serving the last good table when everything else is away; it never takes the last
// instances from an app by mistake; what reaches an app is one well-formed request, written anew from what a strict
// parser understood, never the client's bytes; a request is sent twice only if nothing of it was sent before or if
// repeating it is harmless by the HTTP standard; a client's idea of its own address is not passed on.
//
// An attacker who owned it could read and alter the traffic that passes, hold the TLS keys in memory, and ask dial for
// connections to web instances by host names that they claimed. It could reach nothing else: see Harden.
package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/astable"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// Keeper keeps descriptors over a restart; *fdpass.Notifier is one.
type Keeper interface {
	// NotifyStore hands f over under name; f stays the caller's.
	NotifyStore(name string, f *os.File) error
	// NotifyRemove forgets what is held under name.
	NotifyRemove(name string) error
	// Notify tells the supervisor a state, such as READY=1.
	Notify(state string) error
}

// Config is what Run gets from the supervisor. Run owns the listeners and the restored files.
type Config struct {
	HTTPS   net.Listener      // TLS is spoken here
	HTTP    net.Listener      // redirects to HTTPS
	QUIC    net.PacketConn    // HTTP/3, at the port of HTTPS; nil: there is none
	Control *net.UnixListener // stream; the server, or root
	Certs   *net.UnixListener // stream; the node
	Issued  *net.UnixListener // stream; the certs process
	Dial    *net.UnixListener // packets; dial connects here

	ServerUID, NodeUID, DialUID, CertsUID uint32 // who may connect to them

	// Restored is what the supervisor gave back from its store, by name ("table…", "certificates…"); others are ignored.
	Restored map[string][]*os.File
	// Keeper keeps table and certificates over a restart; nil: they are lost.
	Keeper Keeper
	// AccessLog gets one JSON line a request; nil: none.
	AccessLog io.Writer
	// Logger is for the operator; default: nothing is logged.
	Logger *slog.Logger
	// Firewall looks at requests; nil: one is made, of the rules as they come.
	Firewall *waf.Firewall
	each     means                          // for tests
	observe  func(id string, v waf.Verdict) // of each look at a request; for tests
	alikeFor time.Duration                  // default alikeFor; for tests
	// ASTable says whose networks are whose; nil knows of none.
	ASTable *astable.Table
	// Upstreams are the proxies in front that may say for whom they ask.
	Upstreams Upstreams
	// Grace is how long requests may go on when ctx ends; default 30 s.
	Grace time.Duration
}

func (c *Config) complete() error {
	if c.HTTPS == nil || c.HTTP == nil || c.Control == nil || c.Certs == nil || c.Issued == nil || c.Dial == nil {
		return bulwark.Fail(bulwark.KindInvalid, "The edge needs the listeners https, http, control, certs, issued and dial.", "Start it by the supervisor.", nil)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.alikeFor == 0 {
		c.alikeFor = alikeFor
	}
	if c.Grace == 0 {
		c.Grace = 30 * time.Second
	}
	return nil
}

// Limits of what one client and one request may take.
const (
	maxHeaderBytes  = 32 << 10
	maxHeaderFields = 100
	readHeaderTime  = 10 * time.Second
	keepAliveTime   = 75 * time.Second
	clientStallTime = 60 * time.Second           // no byte moved to or from a client
	farewellTime    = 2 * time.Second            // for which an edge that leaves waits for one more request on each idle connection
	handoverTime    = farewellTime + time.Second // and until it leaves, once its successor is there
)

// edge is one running edge.
type edge struct {
	cfg          Config
	tables       *tables
	certs        *certStore
	dialer       *dialer
	log          *accessLog
	store        *store
	headers      defaultHeaders
	plain        defaultHeaders // on the port for http
	requests     atomic.Uint64
	upgraded     sync.WaitGroup // hijacked connections, which http.Server does not count
	closing      context.Context
	guards       *guards
	firewall     *firewall
	policies     policies
	patches      *patches
	turns        *turns
	pow          *pow
	compressions compressions
	altSvc       []string        // what tells of HTTP/3; nil: there is none
	h2c          *http.Transport // to apps that are spoken to by HTTP/2
	turnedAway   atomic.Uint64   // connections that there was no room for
	slowed       atomic.Int64    // answers that wait, see slow
	leaving      atomic.Bool     // another edge accepts now; each answer ends its connection
	alone        time.Time       // when the edge before, if there was one, answers no request any more that it had not begun
	open         atomic.Int64    // connections of clients that net/http counts
	// httpsPort is what the address of a redirect has behind the host: ":8443", or nothing for the usual port.
	httpsPort string
}

// Run serves until ctx ends, lets the requests that are under way finish, and returns nil then.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	// What outlives ctx: requests under way still need dial, and their lines the log.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	e := &edge{cfg: cfg, dialer: newDialer(cfg.Logger), log: newAccessLog(cfg.AccessLog), headers: newDefaultHeaders(), plain: newDefaultHeaders().overPlain(),
		store: newStore(cfg.Keeper), closing: inner}
	if a, ok := cfg.HTTPS.Addr().(*net.TCPAddr); ok && a.Port != 443 {
		e.httpsPort = fmt.Sprintf(":%d", a.Port)
	}
	e.tables = newTables(e.dialer)
	e.certs = newCertStore()
	e.firewall = newFirewall(cfg.Firewall)
	if cfg.observe != nil {
		e.firewall.observe = cfg.observe
	}
	e.pow, e.h2c = newPow(), newH2C()
	e.patches, e.turns = newPatches(), newTurns(runtime.GOMAXPROCS(0))
	e.firewall.short = e.turns.isShort
	e.policies = newPolicies(e.certs.tlsConfig(), cfg.Upstreams.CA)
	e.guards = newGuards(e.firewall.share(), e.policies)
	if e.alone = time.Now(); len(cfg.Restored) > 0 {
		e.alone = e.alone.Add(handoverTime)
	}
	e.restore()

	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { e.log.run(inner) })
	wg.Go(func() { e.firewall.run(inner) })
	wg.Go(func() { e.turns.watch(inner) })
	wg.Go(func() { tidy(inner) })
	wg.Go(func() { e.tables.sweep(inner) })
	wg.Go(func() { e.dialer.accept(inner, cfg.Dial, cfg.DialUID) })
	prepare(cfg.HTTPS)
	prepare(cfg.HTTP)
	servers := []*serving{
		{e.httpsServer(), e.bounded(cfg.HTTPS), true}, {e.redirectServer(), e.bounded(cfg.HTTP), false},
		{e.controlServer(), &guarded{cfg.Control, []uint32{cfg.ServerUID, 0}, cfg.Logger}, false},
		{e.certsServer(own), &guarded{cfg.Certs, []uint32{cfg.NodeUID, 0}, cfg.Logger}, false},
		{e.certsServer(issued), &guarded{cfg.Issued, []uint32{cfg.CertsUID, 0}, cfg.Logger}, false},
	}
	failed := make(chan error, len(servers)+2)
	wg.Go(func() {
		if err := e.firewall.load(inner); err != nil {
			failed <- err
		}
	})
	var serving sync.WaitGroup
	overQUIC, leaveQUIC := context.WithCancel(inner)
	defer leaveQUIC()
	if cfg.QUIC != nil {
		e.altSvc = altSvc(cfg.QUIC)
		q := &h3{e: e, clients: servers[0].listener.(*conns)}
		wg.Go(func() {
			if err := q.serve(overQUIC, cfg.QUIC, servers[0].server.Handler); err != nil {
				failed <- err
			}
		})
	}
	for _, s := range servers {
		serving.Go(func() { failed <- s.run() })
	}
	if cfg.Keeper != nil {
		if err := cfg.Keeper.Notify("READY=1"); err != nil {
			cfg.Logger.Error("cannot tell the supervisor", "error", err)
		}
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	leaveQUIC() // first: the successor waits until nobody reads that socket any more
	e.leave(servers, &serving, cancel)
	return err
}

// serving is a server with its listener.
type serving struct {
	server   *http.Server
	listener net.Listener
	tls      bool
}

func (s *serving) run() error {
	var err error
	if s.tls {
		err = s.server.ServeTLS(s.listener, "", "")
	} else {
		err = s.server.Serve(s.listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return bulwark.Fail(bulwark.KindInternal, "The edge cannot accept connections any more.", "", err)
}

// leave ends gracefully: the listeners first (the supervisor's copies stay open, a successor accepts on them), then clients learn that
// their connections end, then requests finish. Dial's socket stays open to the last: what is still answered needs dial, which may end too.
func (e *edge) leave(servers []*serving, accepting *sync.WaitGroup, cancel context.CancelFunc) {
	e.leaving.Store(true)
	if e.cfg.Keeper != nil {
		// Who is replaced is not heard; who got a signal from somebody else is followed by another at once.
		if err := e.cfg.Keeper.Notify("STOPPING=1"); err != nil {
			e.cfg.Logger.Error("cannot tell the supervisor", "error", err)
		}
	}
	for _, s := range servers {
		s.listener.Close()
	}
	accepting.Wait() // Shutdown does not wait for a connection that was accepted in this moment
	e.farewell()
	ctx, done := context.WithTimeout(context.Background(), e.cfg.Grace)
	defer done()
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			if s.server.Shutdown(ctx) != nil {
				s.server.Close()
			}
		})
	}
	wg.Wait()
	ended := make(chan struct{})
	go func() { e.upgraded.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	cancel() // closes what was upgraded and stays
	<-ended
	e.tables.close()
}

// farewell waits until no connection is left, for a time. An idle one that is closed can cut off a request that is on its way; one
// that ends with an answer cannot.
func (e *edge) farewell() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(farewellTime); e.open.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

// count keeps the number of clients' connections.
func (e *edge) count(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		e.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		e.open.Add(-1)
	}
}

// restore takes back what a predecessor stored. What cannot be read is left out with a line in the log: serving some
// is better than serving none.
func (e *edge) restore() {
	if t, name, ok := newest(e.cfg.Restored, keptTable, decodeTable, func(t bulwark.Table) uint64 { return t.Generation }, e.cfg.Logger); ok {
		e.store.adopt(keptTable, name, e.cfg.Restored)
		e.tables.install(t)
	}
	for from, what := range kept {
		if c, name, ok := newest(e.cfg.Restored, what, decodeStoredCerts, func(c storedCerts) uint64 { return c.Serial }, e.cfg.Logger); ok {
			e.store.adopt(what, name, e.cfg.Restored)
			if err := e.certs.replace(source(from), c.Certificates); err != nil {
				e.cfg.Logger.Error("cannot use the stored certificates", "which", what, "error", err)
			}
			e.certs.serial[from] = c.Serial
		}
	}
	if s, name, ok := newest(e.cfg.Restored, keptShields, decodeStoredShields, func(s storedShields) uint64 { return s.Serial }, e.cfg.Logger); ok {
		e.store.adopt(keptShields, name, e.cfg.Restored)
		e.guards.serial = s.Serial
		e.guards.replace(s.Shields)
	}
	if p, name, ok := newest(e.cfg.Restored, keptPatches, decodeStoredPatches, func(p storedPatches) uint64 { return p.Serial }, e.cfg.Logger); ok {
		e.store.adopt(keptPatches, name, e.cfg.Restored)
		e.patches.serial = p.Serial
		e.patches.replace(p.Patches, time.Now())
		e.guards.toldPatches.Store(true)
	}
	if key, name, ok := newest(e.cfg.Restored, keptPow, decodePowKey, func([32]byte) uint64 { return 0 }, e.cfg.Logger); ok {
		e.store.adopt(keptPow, name, e.cfg.Restored)
		e.pow.key = key
	} else if err := e.store.keep(keptPow, e.pow.keyText()); err != nil {
		e.cfg.Logger.Error("who was let in will be asked again after a restart", "error", err)
	}
	for _, files := range e.cfg.Restored {
		for _, f := range files {
			f.Close()
		}
	}
}
