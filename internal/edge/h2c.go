package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// h2cMost is how many connections by HTTP/2 an instance has for a host: more than that many times its streams it is not sent at a time.
const h2cMost = 8

// h2cConn is a connection to an instance by HTTP/2 without TLS (RFC 9113 §3.3), on which many requests are under way.
type h2cConn struct {
	*http.ClientConn
	host bulwark.HostName // for which dial made it
	made time.Time
	used atomic.Int64 // last, in Unix nanoseconds
	// single is one that there was no room for in the pool: it carries one request.
	single  bool
	retired bool // no more requests; guarded by the pool's mu
}

// h2cPool holds an instance's connections of that kind.
type h2cPool struct {
	mu    sync.Mutex
	conns []*h2cConn
}

// reserve returns a connection for host with room for one more request, which was used within most if nothing is under way on it.
func (p *h2cPool) reserve(host bulwark.HostName, most time.Duration) *h2cConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, c := range p.conns {
		if c.retired || c.host != host || now.Sub(c.made) >= lifeTime || c.InFlight() == 0 && now.Sub(time.Unix(0, c.used.Load())) > most {
			continue
		}
		if c.Err() == nil && c.Available() > 0 && c.Reserve() == nil {
			return c
		}
	}
	return nil
}

// put keeps c; false: there are too many.
func (p *h2cPool) put(c *h2cConn) bool {
	p.tidy(time.Now())
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) >= h2cMost {
		return false
	}
	p.conns = append(p.conns, c)
	return true
}

// retire has no connection be used any more.
func (p *h2cPool) retire() {
	p.mu.Lock()
	for _, c := range p.conns {
		c.retired = true
	}
	p.mu.Unlock()
	p.tidy(time.Now())
}

// tidy closes what is of no use any more and on which nothing is under way.
func (p *h2cPool) tidy(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.conns[:0]
	for _, c := range p.conns {
		old := c.retired || now.Sub(c.made) >= lifeTime || now.Sub(time.Unix(0, c.used.Load())) >= idleTime
		if c.InFlight() == 0 && old || c.Err() != nil {
			_ = c.Close()
		} else {
			kept = append(kept, c)
		}
	}
	clear(p.conns[len(kept):])
	p.conns = kept
}

// connKeyH2C is where a context has the connection that is to be used.
type connKeyH2C struct{}

// newH2C makes what speaks HTTP/2 to instances. It dials nothing: each connection is one that dial made.
func newH2C() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: protocols, DisableCompression: true, MaxResponseHeaderBytes: maxReplyHeader,
		HTTP2: &http.HTTP2Config{MaxReadFrameSize: 16384, SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, ok := ctx.Value(connKeyH2C{}).(net.Conn)
			if !ok {
				return nil, errors.New("the edge dials nothing itself")
			}
			return c, nil
		}}
}

// connectH2C takes a connection that stands or asks dial for one.
func (x *exchange) connectH2C(fresh bool) (c *h2cConn, reused bool, why bulwark.DialError) {
	if !fresh {
		most := idleTime
		if !x.repeatable() {
			most = freshTime
		}
		if c := x.inst.h2c.reserve(x.host, most); c != nil {
			return c, true, ""
		}
	}
	x.yield()
	raw, why := x.e.dialer.connect(x.r.Context(), x.inst.id, x.host)
	if why != "" {
		return nil, false, why
	}
	// The connection is not the request's, which may end before others that it carries.
	ctx := context.WithValue(context.WithoutCancel(x.r.Context()), connKeyH2C{}, raw)
	made, err := x.e.h2c.NewClientConn(ctx, "http", string(x.host)+":80")
	if err == nil {
		err = made.Reserve()
	}
	if err != nil {
		raw.Close()
		return nil, false, bulwark.DialRefused
	}
	c = &h2cConn{ClientConn: made, host: x.host, made: time.Now()}
	c.used.Store(time.Now().UnixNano())
	if !x.inst.h2c.put(c) {
		c.single = true
	}
	return c, false, ""
}

// attemptH2C tries one instance by HTTP/2. It returns false if another one may be tried.
func (x *exchange) attemptH2C(pools *exchanges) bool {
	defer x.app.release(x.inst)
	fresh := false
	for {
		c, reused, why := x.connectH2C(fresh)
		if why != "" {
			x.inst.aside.Store(time.Now().Add(asideTime).UnixNano())
			x.inst.failed.Add(1)
			x.fault = "dial " + string(why)
			return x.r.Context().Err() != nil && x.gone()
		}
		x.inst.requests.Add(1)
		x.fault = ""
		again := x.exchangeH2C(c, pools, reused)
		c.used.Store(time.Now().UnixNano())
		if c.single {
			_ = c.Close()
		}
		if !again {
			return true
		}
		fresh = true
	}
}

// exchangeH2C sends the request over c and its answer to the client. It returns true if the connection turned out to be dead and
// the request can be sent again without a doubt.
func (x *exchange) exchangeH2C(c *h2cConn, pools *exchanges, reused bool) (again bool) {
	set := x.app.set.Load()
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	watch := newWatch(cancel, set)
	defer watch.stop()
	body := &h2cBody{x: x, watch: watch, rc: http.NewResponseController(x.w)}
	defer body.end()
	interim := &h2cInterim{x: x}
	defer interim.end()
	req := x.requestH2C(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: interim.got}), body)
	x.yield()
	watch.await(set.firstByte)
	resp, err := c.RoundTrip(req)
	interim.end()
	if err != nil {
		gone := x.r.Context().Err() != nil // before the body is ended, which net/http may take for the client's end
		cancel()
		body.end()
		if reused && !gone && !watch.late.Load() && !interim.any && x.repeatable() {
			return true
		}
		x.noAnswerH2C(err, body, watch, gone)
		return false
	}
	defer resp.Body.Close()
	x.first = time.Since(x.start)
	body.answering.Store(true)
	x.up = watch
	send := &sender{x: x, set: set, pools: pools, h2c: body}
	whole := x.deliver(resp, send, pools)
	x.up = nil
	if !whole || !send.clean() {
		if x.r.ProtoMajor == 1 {
			_ = http.NewResponseController(x.w).Flush() // the client gets its answer before its upload is cut off
		}
		cancel()
	}
	return false
}

// noAnswerH2C tells the client that nothing usable came back.
func (x *exchange) noAnswerH2C(err error, body *h2cBody, watch *watch, gone bool) {
	x.inst.failed.Add(1)
	switch {
	case gone:
		x.unserved(clientGone)
	case body.failed.Load():
		x.fault = "request cut off"
		x.refuse(pageSlowRequest)
	case watch.late.Load():
		x.fault = "no first byte"
		x.refuse(pageSlowAnswer)
	default:
		x.e.cfg.Logger.Debug("no answer by HTTP/2", "error", err)
		x.fault = "no answer"
		x.refuse(pageBadAnswer)
	}
}

// requestH2C is the request as the instance gets it, of the same parts as appendRequest writes.
func (x *exchange) requestH2C(ctx context.Context, body *h2cBody) *http.Request {
	h := make(http.Header, len(x.r.Header)+5)
	h["X-Forwarded-For"] = []string{x.client}
	h["X-Forwarded-Proto"] = []string{"https"}
	h["X-Forwarded-Host"] = []string{string(x.host) + x.port}
	h["X-Request-Id"] = []string{x.id}
	h["User-Agent"] = []string{""} // else net/http would name itself
	x.passed(func(k, v string) { h[k] = append(h[k], v) })
	if ua := h["User-Agent"]; len(ua) > 1 {
		h["User-Agent"] = ua[1:]
	}
	if cert := x.clientCert(); cert != "" {
		h["Client-Cert"] = []string{cert}
	}
	if hasToken(x.r.Header["Te"], "trailers") {
		h["Te"] = []string{"trailers"}
	}
	// Opaque has the target go out as it came in.
	req := (&http.Request{Method: x.r.Method, Header: h, Host: string(x.host) + x.port,
		URL: &url.URL{Scheme: "http", Host: string(x.host) + x.port, Opaque: "//" + string(x.host) + x.port + x.target}}).WithContext(ctx)
	if x.r.ContentLength != 0 && x.r.Body != nil && x.r.Body != http.NoBody {
		req.Body, req.ContentLength = body, x.r.ContentLength
		body.talks = strings.HasPrefix(x.r.Header.Get("Content-Type"), "application/grpc")
		if x.small != nil {
			body.small = bytes.NewReader(x.small)
			body.whole.Store(true)
		} else if x.r.ProtoMajor == 1 {
			_ = body.rc.EnableFullDuplex() // else net/http would read the rest of the body before it writes the answer's first byte
		}
		for k := range x.r.Trailer {
			if trailerAllowed(k) {
				if req.Trailer == nil {
					req.Trailer = http.Header{}
				}
				req.Trailer[k] = nil
			}
		}
		body.trailer = req.Trailer
	} else {
		body.whole.Store(true)
	}
	return req
}

// watch ends an exchange in which nothing moves for too long, as deadlines do it on a connection of its own.
type watch struct {
	timer  *time.Timer
	set    *upstreams
	late   atomic.Bool
	cancel context.CancelFunc
}

func newWatch(cancel context.CancelFunc, set *upstreams) *watch {
	w := &watch{set: set, cancel: cancel}
	w.timer = time.AfterFunc(time.Hour, func() {
		w.late.Store(true)
		cancel()
	})
	return w
}

func (w *watch) await(d time.Duration) { w.timer.Reset(d) }
func (w *watch) stop()                 { w.timer.Stop() }

func (w *watch) buffered() int { return 0 } // nobody knows
func (w *watch) end()          { w.cancel() }

// h2cInterim passes interim answers on, from net/http's goroutine, until the real one is there.
type h2cInterim struct {
	x    *exchange
	mu   sync.Mutex
	over bool
	n    int
	any  bool
}

func (i *h2cInterim) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over {
		return nil
	}
	i.any = true
	if i.n++; i.n > maxInterim {
		return errors.New("the answer has too many interim answers")
	}
	if code == http.StatusEarlyHints {
		i.x.earlyHints(http.Header(header))
	}
	return nil
}

func (i *h2cInterim) end() {
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
}

// h2cBody is the client's body as net/http sends it on, on a goroutine that may outlive the exchange: after end nothing of that is touched.
type h2cBody struct {
	x         *exchange
	watch     *watch
	rc        *http.ResponseController
	small     *bytes.Reader // the body, where it was read before
	trailer   http.Header
	talks     bool // both do, from the beginning
	answering atomic.Bool
	whole     atomic.Bool // nothing of it is outstanding
	failed    atomic.Bool // the client did not deliver

	mu   sync.Mutex // held while it is read
	over bool
}

// Read reads a piece of the body.
func (b *h2cBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, io.ErrUnexpectedEOF
	}
	if b.small != nil {
		return b.small.Read(p)
	}
	talks := b.talks || b.answering.Load()
	if !talks {
		b.watch.await(time.Hour) // from here on the watch is on the body, see readBody
	}
	n, err := b.x.readBody(b.rc, p, talks)
	b.x.arrived(n)
	if !talks {
		b.watch.await(b.watch.set.firstByte)
	} else if n > 0 {
		b.watch.await(b.watch.set.pause) // both talk
	}
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
		for k := range b.trailer {
			b.trailer[k] = append(b.trailer[k], b.x.r.Trailer[k]...)
		}
		b.whole.Store(true)
	} else if err != nil {
		b.failed.Store(true)
	}
	return n, err
}

// Close is net/http's, when it needs no more.
func (b *h2cBody) Close() error { return nil }

// end has reading stop, and waits for that.
func (b *h2cBody) end() {
	if !b.whole.Load() {
		// On HTTP/1.1 the connection is not used again after this, see deliver and refuse.
		_ = b.rc.SetReadDeadline(time.Unix(1, 0))
		if b.x.r.ProtoMajor >= 2 {
			b.x.r.Body.Close()
		}
	}
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
}
