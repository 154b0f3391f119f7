package edge

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// exchange is one request and its answer.
type exchange struct {
	e *edge
	w http.ResponseWriter
	r *http.Request

	id, client, target, port string
	host                     bulwark.HostName
	framing                  framing
	upgrade                  bool // the client asks for WebSocket
	expects                  bool // the client waits for 100 Continue before it sends the body

	span   span // of which there is one if its id is not empty
	app    *app
	shown  *x509.Certificate // the client's, where the app asks for one
	guard  *guard
	conned *clientConn // by which it came; nil in tests of parts
	sight  *sight      // what is kept of the request for the firewall; nil: nothing
	// What the firewall looked at before it let the request through, with the look, which goes on; nil where nobody waits for one.
	look   *waf.Look
	looked *waf.Request
	turn   bool  // it has its turn, see turns
	held   int64 // bytes of bodies that are kept
	replay bool  // the answer's body was read before, in part or all of it
	inst   *instance
	conn   *upConn

	start         time.Time
	queued, first time.Duration // waiting for an instance; until the answer began
	status        int
	in            atomic.Int64 // bytes of the request's body; the sender may be another goroutine
	out           int64        // bytes of the answer's body
	came          int64        // bytes of the request's body, and for how long they were waited for; see readBody
	waited        time.Duration
	fault         string // for the access log
	aborted       bool   // the answer broke off: the client must see that

	head  []byte       // the request's head, with a small body behind it
	small []byte       // that body
	up    upstreamSide // what the answer comes from, while it comes
}

// upstreamSide is the instance's side of an exchange whose answer has begun.
type upstreamSide interface {
	buffered() int         // bytes that are there already
	await(d time.Duration) // for the next ones, at most
	end()                  // at once
}

// awaitMore sets how long the next piece of the answer may take.
func (x *exchange) awaitMore(d time.Duration) {
	x.up.await(d)
	if x.r.Context().Err() != nil { // the end may have come before the deadline, which replaced it
		x.up.end()
	}
}

// exchanges keeps what each request needs, so that it is not allocated anew.
type exchanges struct {
	states, buffers, lines sync.Pool
}

const copySize = 32 << 10

func newExchanges() *exchanges {
	return &exchanges{
		states:  sync.Pool{New: func() any { return &exchange{head: make([]byte, 0, 4096)} }},
		buffers: sync.Pool{New: func() any { b := make([]byte, copySize); return &b }},
		lines:   sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }},
	}
}

// httpsServer is the server in front.
func (e *edge) httpsServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	config := e.policies.intermediate.Clone()
	config.GetConfigForClient = e.hello
	return &http.Server{
		Handler: &proxy{edge: e, pools: newExchanges()}, TLSConfig: config, Protocols: protocols,
		ReadHeaderTimeout: readHeaderTime, IdleTimeout: keepAliveTime, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: errorLog(e.cfg.Logger), DisableGeneralOptionsHandler: true, ConnState: e.count, ConnContext: withConn,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReadFrameSize: 16384, SendPingTimeout: clientStallTime,
			PingTimeout: 15 * time.Second, WriteByteTimeout: clientStallTime},
	}
}

// proxy forwards requests.
type proxy struct {
	edge  *edge
	pools *exchanges
}

// ServeHTTP does one request.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.edge.leaving.Load() && r.ProtoMajor < 3 { // HTTP/3 has no such word; its connections are told that they end
		w = closing{w}
	}
	x := p.pools.states.Get().(*exchange)
	*x = exchange{e: p.edge, w: w, r: r, start: time.Now(), head: x.head[:0]}
	over := false
	defer func() {
		if !over { // somebody tripped over what they read; net/http ends the connection, and the turn is for others
			x.yield()
			x.endLook()
			if x.sight != nil {
				p.edge.firewall.hold(x.guard, -x.sight.size())
			}
			x.letGo()
		}
	}()
	x.conned, _ = r.Context().Value(connKey{}).(*clientConn)
	x.id = newRequestID()
	x.client = p.edge.cfg.Upstreams.client(addressOf(r.RemoteAddr), r.Header)
	p.edge.requests.Add(1)
	if refusal := x.check(); refusal != nil {
		x.turnAway()
		x.refuse(*refusal)
	} else if x.passes() {
		x.forward(p.pools)
	}
	x.yield()
	over = true
	x.endLook()
	x.sighted()
	x.letGo()
	if x.conned != nil && !x.conned.quic.IsValid() && r.Context().Err() == nil { // not one that was taken back
		x.conned.purse.earn(purseEarned + x.out>>6) // a client tells how much of an answer it has taken
	}
	if x.app != nil {
		x.app.count(x.status)
		x.measured()
	}
	p.log(x)
	aborted := x.aborted
	head := x.head
	*x = exchange{head: head}
	p.pools.states.Put(x)
	if aborted {
		panic(http.ErrAbortHandler) // the documented way to break the connection off without a clean end
	}
}

// arrived counts bytes of the request's body.
func (x *exchange) arrived(n int) {
	x.in.Add(int64(n))
	if x.conned != nil && !x.conned.quic.IsValid() { // by QUIC nothing is spent either, and what is earned there pays for nothing
		x.conned.purse.earn(int64(n) + int64(n)/4) // and what framed them
	}
}

func (p *proxy) log(x *exchange) {
	if p.edge.log.out == nil {
		return
	}
	line := p.pools.lines.Get().(*[]byte)
	*line = x.appendLine((*line)[:0], time.Now())
	p.edge.log.add(*line)
	p.pools.lines.Put(line)
}

// check reads what routes the request, and refuses what cannot be passed on in one reading.
func (x *exchange) check() *page {
	r := x.r
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace || !plainMethod(r.Method) {
		return &pageMethod
	}
	var ok bool
	if x.host, x.port, ok = hostOf(r.Host); !ok {
		return &pageBadRequest
	}
	if x.target, ok = target(r); !ok {
		return &pageBadRequest
	}
	if r.TLS == nil || !x.e.certs.directs(r.TLS.ServerName, string(x.host)) {
		return &pageMisdirected
	}
	fields := 0
	for _, v := range r.Header {
		fields += len(v)
	}
	if fields > maxHeaderFields {
		return &pageHeaders
	}
	if reserved(x.target) {
		return &pageNoRoute // authorities ask on the other port
	}
	if x.app = x.e.tables.route(x.host); x.app == nil {
		return &pageNoRoute
	}
	switch {
	case r.ProtoMajor == 3 && r.ContentLength < 0:
		x.peekBody()
	case r.ProtoMajor == 3 && r.ContentLength > 0:
		r.Body = &wholeBody{ReadCloser: r.Body, left: r.ContentLength}
	}
	x.framing = framingOf(r)
	x.upgrade = r.Header["Upgrade"] != nil && wantsWebSocket(r)
	x.expects = x.framing != noBody && r.ProtoMajor == 1 && r.Header["Expect"] != nil && hasToken(r.Header["Expect"], "100-continue")
	return nil
}

// plainMethod says that m looks like a method: capitals and "-". HTTP allows nearly anything there, of which no app has
// a use and some servers have an opinion.
func plainMethod(m string) bool {
	for i := range len(m) {
		if c := m[i]; !(c >= 'A' && c <= 'Z' || c == '-') {
			return false
		}
	}
	return len(m) <= 32
}

// refuse answers with a page of the edge. On HTTP/1.1 the connection ends if a body is still to come: what is left of
// it must never be read as the next request.
func (x *exchange) refuse(p page) {
	x.yield() // who is answered may take its time
	rc := http.NewResponseController(x.w)
	_ = rc.SetWriteDeadline(time.Now().Add(clientStallTime))
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	x.status = p.status
	d := &x.e.headers
	given := ""
	if x.guard != nil {
		c := x.guard.chosen.Load()
		given, d = p.given(c.shield.Pages), &c.headers.own
	}
	if x.r.ProtoMajor == 1 && framingOf(x.r) != noBody {
		x.out = int64(p.write(closing{x.w}, d, x.id, given))
		return
	}
	x.out = int64(p.write(x.w, d, x.id, given))
}

// closing ends the connection after the answer.
type closing struct{ http.ResponseWriter }

// WriteHeader adds the header that makes net/http close the connection.
func (c closing) WriteHeader(status int) {
	if status >= http.StatusOK {
		c.Header()["Connection"] = []string{"close"}
	}
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (c closing) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// path is the target without its query, which may hold secrets.
func (x *exchange) path() string {
	t := x.target
	if t == "" {
		t = x.r.RequestURI // refused for it
	}
	path, _, _ := strings.Cut(t, "?")
	return path
}

// newRequestID makes 128 random bits. They name a request and protect nothing, so the runtime's generator will do.
func newRequestID() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	var h [32]byte
	hex.Encode(h[:], b[:])
	return string(h[:])
}

// addressOf is the host part of net/http's RemoteAddr.
func addressOf(remote string) string {
	if i := strings.LastIndexByte(remote, ':'); i >= 0 {
		remote = remote[:i]
	}
	remote = strings.TrimSuffix(strings.TrimPrefix(remote, "["), "]")
	remote, _, _ = strings.Cut(remote, "%")
	return remote
}
