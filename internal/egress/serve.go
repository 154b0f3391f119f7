package egress

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// serve answers one request of a builder.
func (b *build) serve(w http.ResponseWriter, r *http.Request) {
	if !b.begin() {
		return
	}
	defer b.work.Done()
	f := b.ledger.begin()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodConnect {
		b.connectTo(w, r, f)
		return
	}
	b.fetch(w, r, f)
}

// deny answers with what was wrong and how it is put right, and records it.
func (b *build) deny(w http.ResponseWriter, f *flow, r *refusal) {
	b.refuse(f, r)
	status := http.StatusForbidden
	switch {
	case r.reason == BadRequest:
		status = http.StatusBadRequest
	case r.reason == TooManyBytes:
		status = http.StatusInsufficientStorage
	case r.verdict == Failed:
		status = http.StatusBadGateway
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Bulwark-Egress", string(r.reason)) // for clients that show headers and no body
	http.Error(w, strings.TrimSpace(r.Error()), status)
}

func badRequest(message, hint string) *refusal {
	return &refusal{verdict: Refused, reason: BadRequest, message: message, hint: hint}
}

// open takes a request from its authority to a connection: read, allowed, resolved, checked, dialled.
func (b *build) open(ctx context.Context, f *flow, authority string, policy Policy, usual uint16) (place, *net.TCPConn, *refusal) {
	var fallback uint16
	if usual == PortPlain {
		fallback = PortPlain
	}
	to, err := parsePlace(authority, fallback)
	if err != nil {
		return to, nil, &refusal{verdict: Refused, reason: BadRequest, message: "The proxy cannot read where to go.",
			hint: "Ask for host:port with a name in ASCII.", cause: err}
	}
	f.mu.Lock()
	f.host, f.port = to.host(), to.port
	f.mu.Unlock()
	rule, no := policy.allow(to, usual)
	if no != nil {
		return to, nil, no
	}
	if !b.spend(0, policy) {
		return to, nil, &refusal{verdict: Refused, reason: TooManyBytes, message: "The build has moved as many bytes as it may.",
			hint: "Fetch less, or ask an operator for a higher limit."}
	}
	addrs, no := b.resolve(ctx, policy, rule, to)
	if no != nil {
		return to, nil, no
	}
	conn, no := b.connect(ctx, to, addrs)
	if no != nil {
		return to, nil, no
	}
	f.mu.Lock()
	f.address = addrOf(conn)
	f.mu.Unlock()
	return to, conn, nil
}

// connectTo answers CONNECT: a tunnel, after the handshake inside it was looked at.
func (b *build) connectTo(w http.ResponseWriter, r *http.Request, f *flow) {
	policy := b.current()
	to, up, no := b.open(r.Context(), f, r.Host, policy, PortTLS)
	if no != nil {
		b.deny(w, f, no)
		return
	}
	defer up.Close()
	// The build's end closes this end too: a builder that only half closed would otherwise be waited for.
	defer context.AfterFunc(b.ctx, func() { up.Close() })()
	down, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		b.deny(w, f, &refusal{verdict: Failed, reason: ClientGone, message: "The connection cannot become a tunnel.", cause: err})
		return
	}
	defer down.Close()
	f.end(Reached, "")
	cause := b.tunnel(to, policy, f, down.(*client), rw.Reader, up)
	b.finish(f, cause)
}

// fetch answers GET and HEAD of an http:// address, which is how package mirrors without TLS are read.
func (b *build) fetch(w http.ResponseWriter, r *http.Request, f *flow) {
	if no := plain(r); no != nil {
		b.deny(w, f, no)
		return
	}
	policy := b.current()
	to, up, no := b.open(r.Context(), f, r.URL.Host, policy, PortPlain)
	if no == nil && to.port == PortTLS {
		up.Close()
		no = &refusal{verdict: Refused, reason: NotTLS, message: fmt.Sprintf("Port %d is for TLS.", PortTLS), hint: "Use CONNECT, or https."}
	}
	if no != nil {
		b.deny(w, f, no)
		return
	}
	defer up.Close()
	defer context.AfterFunc(b.ctx, func() { up.Close() })()
	f.end(Reached, "")
	defer b.finish(f, nil) // also when the copying panics with http.ErrAbortHandler
	target := &url.URL{Scheme: "http", Host: strings.TrimSuffix(to.String(), ":80")}
	proxy := httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = target.Scheme, target.Host, target.Host
		},
		// A transport of its own for the request: it uses the connection that was checked, and no other.
		Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return &metered{TCPConn: up, b: b, f: f, policy: policy}, nil
			},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			ResponseHeaderTimeout:  b.idle,
			MaxResponseHeaderBytes: 64 << 10,
		},
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			f.end(Failed, NotConnected)
			http.Error(w, fmt.Sprintf("%s gave no answer that can be read. Try again.", to), http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(&patient{w, http.NewResponseController(w), b.idle}, r)
}

// plain checks that a request is one that fetch may pass on.
func plain(r *http.Request) *refusal {
	const hint = "Use CONNECT host:port, or GET http://host/path."
	switch {
	case r.URL.Host == "":
		return badRequest("This is a proxy, and the request names no host.", hint)
	case r.URL.Scheme != "http":
		return badRequest("The proxy reads http:// addresses only.", hint)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return badRequest("The proxy passes on CONNECT, GET and HEAD only.", hint)
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return badRequest("The request has a body.", hint)
	case r.URL.User != nil:
		return badRequest("The address holds a user name.", hint)
	case r.Header.Get("Upgrade") != "":
		return badRequest("The proxy does not change protocols.", hint)
	}
	return nil
}

// patient gives each write of an answer as long as a tunnel may be idle; without it a builder that stops reading would
// hold the connection for ever.
type patient struct {
	http.ResponseWriter
	rc   *http.ResponseController
	idle time.Duration
}

// Write implements [io.Writer].
func (p *patient) Write(b []byte) (int, error) {
	p.rc.SetWriteDeadline(time.Now().Add(p.idle))
	return p.ResponseWriter.Write(b)
}

// Unwrap serves [http.ResponseController].
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
