package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Bounds of clients' connections. One that does nothing takes some 30 KiB.
const (
	connsMost     = 16384 // at a time, beyond which only who has few gets another
	connsOfClient = 1024  // of one network, but for the machine itself
	connsFew      = 16
)

// conns are the connections of clients.
type conns struct {
	net.Listener
	e *edge

	mu     sync.Mutex // guards what follows
	all    int
	each   means
	client map[netip.Addr]*purse
	swept  time.Time // when purses of clients that are gone were looked through
}

func (e *edge) bounded(l net.Listener) net.Listener {
	return &conns{Listener: l, e: e, each: e.cfg.each, client: map[netip.Addr]*purse{}}
}

// Accept returns the next connection that there is room for. Others are reset: an answer would cost what they are after.
func (l *conns) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, at := addressIn(c)
		trusted := l.e.cfg.Upstreams.trusts(at)
		var p *purse
		if l.e.cfg.Upstreams.admits(at) {
			p = l.enter(from, trusted)
		}
		if p == nil {
			if t, ok := c.(*net.TCPConn); ok {
				_ = t.SetLinger(0)
			}
			c.Close()
			l.e.turnedAway.Add(1)
			continue
		}
		cc := &clientConn{Conn: l.e.cfg.Upstreams.begin(c, at), of: l, from: from, purse: p}
		cc.free.Store(trusted) // it brings what many clients send
		return cc, nil
	}
}

// addressIn is where a connection comes from, and the network that this is in.
func addressIn(c net.Conn) (from, at netip.Addr) {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, netip.Addr{}
	}
	at = a.AddrPort().Addr().Unmap()
	return network(at), at
}

// enter counts a connection, if there is room for it; an upstream has those of many clients.
func (l *conns) enter(from netip.Addr, trusted bool) *purse {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.client[from]
	n := 0
	if p != nil {
		n = p.open
	}
	if n >= connsOfClient && !from.IsLoopback() && !trusted || l.all >= connsMost && n >= connsFew && !trusted || l.all >= connsMost+connsMost/8 {
		return nil
	}
	now := time.Now()
	if p == nil {
		l.sweep(now)
		p = l.each.purse(now)
		l.client[from] = p
	}
	l.all++
	p.open++
	return p
}

func (l *conns) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if p := l.client[from]; p != nil {
		if p.open--; p.open <= 0 && p.full(time.Now()) {
			delete(l.client, from)
		}
	}
}

// sweep forgets clients that are gone and owe nothing any more. The caller holds mu.
func (l *conns) sweep(now time.Time) {
	if now.Sub(l.swept) < time.Second {
		return
	}
	l.swept = now
	for from, p := range l.client {
		if p.open <= 0 && p.full(now) {
			delete(l.client, from)
		}
	}
}

// clientConn is a client's connection, below TLS.
type clientConn struct {
	net.Conn
	of     *conns
	from   netip.Addr
	purse  *purse
	closed atomic.Bool
	turn   atomic.Bool                // held while a handshake computes
	asked  atomic.Pointer[clientAuth] // for a certificate, in the handshake
	quic   netip.Addr                 // where it comes from by QUIC; there is no Conn then
	free   atomic.Bool                // what comes is not counted: it is an upstream's, or no HTTP any more
}

// Read gives the turn up, if a handshake has it: it waits for the client now.
func (c *clientConn) Read(b []byte) (int, error) {
	c.yield()
	n, err := c.Conn.Read(b)
	if n > 0 && !c.free.Load() {
		if wait := c.purse.spend(n, time.Now()); wait > 0 {
			c.wait(wait)
		}
	}
	return n, err
}

// wait sleeps, but not for longer than the connection is there.
func (c *clientConn) wait(d time.Duration) {
	const look = 100 * time.Millisecond
	for ; d > 0 && !c.closed.Load(); d -= look {
		time.Sleep(min(d, look))
	}
}

// connKey is what a request's context has its connection by.
type connKey struct{}

// withConn has the contexts of a connection's requests know it.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if cc, ok := c.(*clientConn); ok {
		return context.WithValue(ctx, connKey{}, cc)
	}
	return ctx
}

// Close is as [net.Conn] has it.
func (c *clientConn) Close() error {
	if !c.closed.Swap(true) {
		c.of.leave(c.from)
	}
	c.yield()
	return c.Conn.Close()
}

// take waits for a turn; false: it does not come.
func (c *clientConn) take(ctx context.Context, g *guard) bool {
	if c.quic.IsValid() {
		// Nobody tells when the handshake has computed, so it only waits its turn.
		if !c.of.e.turns.take(ctx, g, c.from.String()) {
			return false
		}
		c.of.e.turns.give()
		return true
	}
	client, _ := addressIn(c.Conn) // for whom an upstream connects, where it says so
	if !c.of.e.turns.take(ctx, g, client.String()) {
		return false
	}
	c.turn.Store(true)
	if c.closed.Load() { // meanwhile, by somebody who did not see the turn
		c.yield()
	}
	return true
}

func (c *clientConn) yield() {
	if c.turn.Swap(false) {
		c.of.e.turns.give()
	}
}

// errBusy ends a handshake whose turn did not come.
var errBusy = errors.New("too many handshakes")

// hello is tls.Config.GetConfigForClient. A handshake computes for longer than most requests, so it waits for its turn as they do: among those of the
// app that it is for.
func (e *edge) hello(h *tls.ClientHelloInfo) (*tls.Config, error) {
	g := &e.guards.nobody
	c, ok := h.Conn.(*clientConn)
	if !ok {
		c, ok = h.Context().Value(connKey{}).(*clientConn) // by QUIC
	}
	if ok {
		host := bulwark.HostName(strings.ToLower(h.ServerName))
		if a := e.tables.route(host); a != nil {
			g = e.guards.of(host, a)
		}
		if !c.take(h.Context(), g) {
			return nil, errBusy
		}
	}
	if config, err := e.certs.forAuthority(h); config != nil || err != nil {
		return config, err
	}
	chosen := g.chosen.Load()
	if e.policies.lockedModern != nil && (!ok || !c.from.IsLoopback()) {
		// Clients' own certificates end at the upstream, so an app that asks for them is told so by the page.
		if chosen == nil {
			return e.policies.locked(bulwark.TLSIntermediate), nil
		}
		return e.policies.locked(chosen.shield.TLS), nil
	}
	switch {
	case chosen == nil:
		return nil, nil
	case chosen.clients != nil:
		if ok {
			c.asked.Store(chosen.clients)
		}
		return chosen.clients.config, nil
	case chosen.shield.TLS == bulwark.TLSModern:
		return e.policies.modern, nil
	}
	return nil, nil
}
