package edge

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const (
	h3Most      = 4096            // connections at a time, all clients together
	h3OfClient  = 256             // of one network, but for the machine itself
	h3Unproven  = 64              // connections a second that may be begun by who has not shown that it is where it says
	h3Handshake = 5 * time.Second // of which no byte comes, in a handshake
	h3Farewell  = farewellTime    // for which the one before finishes what it answers
)

// h3 serves HTTP/3 (RFC 9114) over the socket that it was handed.
type h3 struct {
	e       *edge
	clients *conns // counted with those over TCP, too
	all     atomic.Int64
	second  atomic.Int64 // Unix time of unproven
	begun   atomic.Int64 // in that second
}

// errCrowded refuses a connection that there is no room for.
var errCrowded = errors.New("there is no room for another connection")

// serve serves until ctx ends. Only one edge can read from a socket, so it begins when the one before has left it.
func (h *h3) serve(ctx context.Context, conn net.PacketConn, handler http.Handler) error {
	defer conn.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(time.Until(h.e.alone)):
	}
	// Who talks to an edge that is gone is told so at once by its successor, which therefore has the same key.
	key := quic.StatelessResetKey(sha256.Sum256(append([]byte("quic stateless reset"), h.e.pow.key[:]...)))
	tokens := quic.TokenGeneratorKey(sha256.Sum256(append([]byte("quic address tokens"), h.e.pow.key[:]...)))
	tr := &quic.Transport{Conn: conn, StatelessResetKey: &key, TokenGeneratorKey: &tokens, VerifySourceAddress: h.doubts, ConnContext: h.begin}
	defer tr.Close()
	config := h.e.policies.modern.Clone()
	config.GetConfigForClient = h.e.hello
	ln, err := tr.Listen(http3.ConfigureTLSConfig(config), &quic.Config{
		MaxIdleTimeout: keepAliveTime, HandshakeIdleTimeout: h3Handshake, MaxIncomingStreams: 100, MaxIncomingUniStreams: 8,
		InitialStreamReceiveWindow: 128 << 10, MaxStreamReceiveWindow: 1 << 20, InitialConnectionReceiveWindow: 256 << 10, MaxConnectionReceiveWindow: 4 << 20,
	})
	if err != nil {
		return err
	}
	srv := &http3.Server{Handler: handler, MaxHeaderBytes: maxHeaderBytes, IdleTimeout: keepAliveTime, Logger: h.e.cfg.Logger}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = ln.Close()
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), h3Farewell)
		defer cancel()
		_ = srv.Shutdown(patience) // what is not answered by then is asked for again, over TCP or of the successor
		_ = srv.Close()
	}()
	for {
		c, err := ln.Accept(ctx)
		if err != nil {
			<-stopped
			if ctx.Err() != nil || errors.Is(err, quic.ErrServerClosed) {
				return nil
			}
			return err
		}
		go func() { _ = srv.ServeQUICConn(c) }() // its error is the client's
	}
}

// doubts says that a client has to show first that it is where it says (RFC 9000 §8.1.2): a round more, of which nobody needs to know as long as few come.
func (h *h3) doubts(net.Addr) bool {
	now := time.Now().Unix()
	if h.second.Swap(now) != now {
		h.begun.Store(0)
	}
	return h.begun.Add(1) > h3Unproven
}

// begin lets a connection in, if there is room for it, and counts it as one over TCP is.
func (h *h3) begin(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	u, ok := info.RemoteAddr.(*net.UDPAddr)
	if !ok {
		return nil, errCrowded
	}
	at := u.AddrPort().Addr().Unmap()
	from := network(at)
	if !h.e.cfg.Upstreams.admits(at) || h.e.cfg.Upstreams.Proxy && h.e.cfg.Upstreams.trusts(at) {
		h.e.turnedAway.Add(1)
		return nil, errCrowded // an upstream that says for whom it connects does so by TCP
	}
	if h.all.Add(1) > h3Most {
		h.all.Add(-1)
		h.e.turnedAway.Add(1)
		return nil, errCrowded
	}
	p := h.clients.enter(from, h.e.cfg.Upstreams.trusts(at))
	if p == nil || h.clients.openOf(from) > h3OfClient && !at.IsLoopback() {
		h.all.Add(-1)
		if p != nil {
			h.clients.leave(from)
		}
		h.e.turnedAway.Add(1)
		return nil, errCrowded
	}
	c := &clientConn{of: h.clients, from: from, purse: p, quic: at}
	context.AfterFunc(ctx, func() {
		h.all.Add(-1)
		h.clients.leave(from)
	})
	return context.WithValue(ctx, connKey{}, c), nil
}

// openOf is how many connections a network has.
func (l *conns) openOf(from netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.client[from]; p != nil {
		return p.open
	}
	return 0
}

// peekTime is how long the end of a request is waited for that has not said whether a body follows. Nearly always it came with the head.
const peekTime = 50 * time.Millisecond

// peekBody finds out whether there is a body, which HTTP/3 does not say beforehand: an app takes a request with one otherwise.
func (x *exchange) peekBody() {
	rc := http.NewResponseController(x.w)
	_ = rc.SetReadDeadline(time.Now().Add(peekTime))
	first := make([]byte, 512)
	n, err := x.r.Body.Read(first)
	_ = rc.SetReadDeadline(time.Time{})
	switch {
	case n == 0 && err == io.EOF:
		x.r.Body, x.r.ContentLength = http.NoBody, 0
	case n == 0 && timedOut(err):
	default:
		if err != nil && timedOut(err) {
			err = nil
		}
		x.arrived(n)
		x.r.Body = &replayed{ReadCloser: x.r.Body, first: first[:n], end: err}
	}
}

// wholeBody is a body whose length was said beforehand. One that ends earlier must not be taken for whole: the instance would wait for the rest of it, and take
// the next request on the connection for that. The library refuses one that is longer, and not this.
type wholeBody struct {
	io.ReadCloser
	left int64
}

// Read implements [io.Reader].
func (b *wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); err == io.EOF && b.left != 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// altSvc tells clients over TCP that there is HTTP/3 at the same port (RFC 7838).
func altSvc(conn net.PacketConn) []string {
	a, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return nil
	}
	return []string{`h3=":` + strconv.Itoa(a.Port) + `"; ma=86400`}
}
