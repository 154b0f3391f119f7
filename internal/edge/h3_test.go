package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
	"golang.org/x/net/http2"

	"github.com/bulwark-paas/bulwark"
)

// quicRig is a rig that serves HTTP/3, too. The test keeps a copy of the socket, as the supervisor does.
func quicRig(t *testing.T, change func(*Config)) (*rig, *net.UDPConn) {
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return newRig(t, func(c *Config) {
		c.QUIC = dupPacket(t, u)
		if change != nil {
			change(c)
		}
	}), u
}

func dupPacket(t *testing.T, u *net.UDPConn) net.PacketConn {
	f, err := u.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// overQUIC is a client that speaks HTTP/3 alone.
func (r *rig) overQUIC(t *testing.T, u *net.UDPConn, certs ...tls.Certificate) *http.Client {
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: r.pool, Certificates: certs}, DisableCompression: true,
		Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, u.LocalAddr().String(), c, q)
		}}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestHTTP3(t *testing.T) {
	r, u := quicRig(t, nil)
	type got struct {
		uri, proto string
		header     http.Header
		body       []byte
	}
	seen := make(chan got, 1)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		seen <- got{q.RequestURI, q.Proto, q.Header, b}
		w.Header().Set("Trailer", "X-After")
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Alt-Svc", `h3=":1"`)
		w.Write(b)
		w.Header().Set("X-After", "end")
	}))
	c := r.overQUIC(t, u)
	for _, size := range []int{0, 100, smallBody + 1, 3 << 20} {
		body := bytes.Repeat([]byte{'b'}, size)
		req, _ := http.NewRequest("POST", "https://a.example.org/a//b/%2e?x=1", bytes.NewReader(body))
		req.Header.Set("X-Forwarded-For", "6.6.6.6")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(size, err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || resp.Proto != "HTTP/3.0" || !bytes.Equal(b, body) || resp.Trailer.Get("X-After") != "end" {
			t.Error(size, resp.Status, resp.Proto, len(b), resp.Trailer, err)
		}
		if resp.Header.Get("Alt-Svc") != "" || resp.Header.Get("Strict-Transport-Security") == "" || resp.Header["Connection"] != nil {
			t.Error(resp.Header)
		}
		if g := <-seen; g.uri != "/a//b/%2e?x=1" || g.proto != "HTTP/1.1" || g.header.Get("X-Forwarded-For") != "127.0.0.1" || !bytes.Equal(g.body, body) {
			t.Error(size, g.uri, g.proto, g.header, len(g.body))
		}
	}
	// Over TCP clients are told of it: by us, not by the app.
	go func() { <-seen }()
	resp, _ := get(t, r.client(true), "https://a.example.org/")
	_, port, _ := net.SplitHostPort(u.LocalAddr().String())
	if got := resp.Header.Get("Alt-Svc"); got != `h3=":`+port+`"; ma=86400` {
		t.Error("Alt-Svc:", got)
	}
	until(t, func() bool { return strings.Contains(r.log.String(), `"proto":"HTTP/3.0"`) })
}

func until(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}

// What protects an app protects it whatever the protocol is.
func TestHTTP3IsShielded(t *testing.T) {
	r, u := quicRig(t, nil)
	page := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, strings.Repeat("page ", 1000))
	}
	app := r.serve("a.example.org", backend(t, page))
	r.serve("b.example.org", backend(t, page))
	mine := newAuthority(t)
	r.shield(app, bulwark.Shield{WAF: bulwark.WAFBlock})
	if resp, _ := get(t, r.overQUIC(t, u), "https://a.example.org/?x=<script>alert(1)</script>"); resp.StatusCode != 403 {
		t.Error("an attack:", resp.Status)
	}
	if resp := fetch(t, r.overQUIC(t, u), "https://a.example.org/", "Accept-Encoding: br"); resp.Header.Get("Content-Encoding") != "br" || len(decoded(t, resp)) != 5000 {
		t.Error("not compressed:", resp.Header)
	}
	r.shield(app, bulwark.Shield{ClientCA: mine.pem(), TLS: bulwark.TLSModern})
	if resp, _ := get(t, r.overQUIC(t, u), "https://a.example.org/"); resp.StatusCode != 403 {
		t.Error("without a certificate:", resp.Status)
	}
	if resp, _ := get(t, r.overQUIC(t, u, mine.client(t, "ann", time.Now().Add(time.Hour))), "https://a.example.org/"); resp.StatusCode != 200 {
		t.Error("with one:", resp.Status)
	}
	if resp, err := r.overQUIC(t, u, newAuthority(t).client(t, "eve", time.Now().Add(time.Hour))).Get("https://a.example.org/"); err == nil {
		t.Error("with a stranger's:", resp.Status)
	}
	if resp, _ := get(t, r.overQUIC(t, u), "https://b.example.org/"); resp.StatusCode != 200 {
		t.Error("the app next door:", resp.Status)
	}
	if resp, err := r.overQUIC(t, u).Get("https://nobody.example.net/"); err == nil {
		t.Error("a name that nobody has:", resp.Status)
	}
	for _, method := range []string{"TRACE", "get", "CONNECT"} {
		req, _ := http.NewRequest(method, "https://b.example.org/", nil)
		if resp, err := r.overQUIC(t, u).Do(req); err == nil && resp.StatusCode != 405 {
			t.Error(method, resp.Status)
		}
	}
}

// A client that goes away ends its request, and one whose app breaks off sees that.
func TestHTTP3Ends(t *testing.T) {
	r, u := quicRig(t, nil)
	begun, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/half" {
			w.Write(make([]byte, 100_000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		begun <- struct{}{}
		<-q.Context().Done()
		ended <- struct{}{}
	}))
	c := r.overQUIC(t, u)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://a.example.org/", nil)
	if _, err := c.Do(req); err == nil {
		t.Error("no error")
	}
	<-ended
	resp, err := c.Get("https://a.example.org/half")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half an answer looks whole")
	}
}

// Events come when they are sent.
func TestHTTP3Events(t *testing.T) {
	r, u := quicRig(t, nil)
	next := make(chan struct{})
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
			<-next
		}
	}))
	resp, err := r.overQUIC(t, u).Get("https://a.example.org/")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := io.ReadFull(resp.Body, make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		next <- struct{}{}
	}
}

// One client has no more than its share of connections, and what it gives back others get.
func TestHTTP3Connections(t *testing.T) {
	r, u := quicRig(t, nil)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") }))
	dial := func() (*quic.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return quic.DialAddr(ctx, u.LocalAddr().String(), &tls.Config{RootCAs: r.pool, ServerName: "a.example.org", NextProtos: []string{"h3"}}, nil)
	}
	var mu sync.Mutex
	var conns []*quic.Conn
	var wg sync.WaitGroup
	for range 2 * h3Unproven { // more than need not show where they are
		wg.Go(func() {
			c, err := dial()
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		})
	}
	wg.Wait()
	if resp, _ := get(t, r.overQUIC(t, u), "https://a.example.org/"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	for _, c := range conns {
		_ = c.CloseWithError(0, "")
	}
}

// An edge that follows another takes the socket over: who talked to the one before is told so, and served by the next.
func TestHTTP3OutlivesTheEdge(t *testing.T) {
	r, u := quicRig(t, nil)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") }))
	c := r.overQUIC(t, u)
	get(t, c, "https://a.example.org/")
	stop := r.successorWith(func(cfg *Config) { cfg.QUIC = dupPacket(t, u) })
	defer stop()
	go r.stop()
	c.Timeout = 5 * time.Second
	until(t, func() bool {
		resp, err := c.Get("https://a.example.org/")
		return err == nil && resp.StatusCode == 200
	})
}

// An attacker sends by HTTP/3 a body that is shorter than it said, which the library takes. The instance waited for the rest
// of it, and took the next request on that connection, of somebody else, for that: the attacker's choice of what it read next.
func TestHoleShortBodyByHTTP3(t *testing.T) {
	r, u := quicRig(t, nil)
	var mu sync.Mutex
	var seen []string
	r.serve("a.example.org", answersEarly(t, func(q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, q.Method+" "+q.RequestURI)
	}))
	qc, err := quic.DialAddr(t.Context(), u.LocalAddr().String(), &tls.Config{RootCAs: r.pool, ServerName: "a.example.org", NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	control, err := qc.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	control.Write([]byte{0, 4, 0})
	str, err := qc.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var head bytes.Buffer
	enc := qpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "a.example.org"}, {":path", "/early"}, {"content-length", "20000"}} {
		enc.WriteField(qpack.HeaderField{Name: f[0], Value: f[1]})
	}
	out := quicvarint.Append([]byte{1}, uint64(head.Len()))
	out = append(append(out, head.Bytes()...), 0, 10)
	str.Write(append(out, "0123456789"...))
	str.Close()
	_, _ = io.ReadAll(str)
	body := strings.Repeat("\r\n", 10000) + "GET /admin HTTP/1.1\r\nHost: a.example.org\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	q, _ := http.NewRequestWithContext(ctx, "POST", "https://a.example.org/second", strings.NewReader(body))
	if resp, err := r.client(false).Do(q); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	// The last one is what the edge was asked for last: what came before it has been read by then.
	q, _ = http.NewRequestWithContext(t.Context(), "GET", "https://a.example.org/last", nil)
	if resp, err := r.client(false).Do(q); err == nil {
		resp.Body.Close()
	}
	until(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) > 0 && seen[len(seen)-1] == "GET /last"
	})
	mu.Lock()
	defer mu.Unlock()
	for _, s := range seen {
		if s != "POST /early" && s != "POST /second" && s != "GET /last" {
			t.Errorf("the app read %q, which is a part of a body", s)
		}
	}
}

// answersEarly is an app that answers before it has the body, and then reads on, over empty lines too, as many do.
func answersEarly(t *testing.T, seen func(*http.Request)) string {
	l := tcp(t)
	serve := func(c net.Conn) {
		defer c.Close()
		br := bufio.NewReader(c)
		for {
			for b, err := br.Peek(1); err == nil && (b[0] == '\r' || b[0] == '\n'); b, err = br.Peek(1) {
				br.ReadByte()
			}
			q, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			seen(q)
			io.WriteString(c, "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, q.Body)
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// An app that is owned names the edge's own headers as trailers, which HTTP/3's library then leaves out of the header, and
// HTTP/2's waits for. They are there, and nobody waits.
func TestHoleHeadersNamedAsTrailers(t *testing.T) {
	r, u := quicRig(t, nil)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header()["Trailer"] = []string{"Strict-Transport-Security", "X-Frame-Options", "X-Content-Type-Options", "X-Sum"}
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "x")
	}))
	for name, c := range map[string]*http.Client{"h1": r.client(false), "h2": r.client(true), "h3": r.overQUIC(t, u)} {
		ctx, cancel := context.WithTimeout(t.Context(), victimTime)
		q, _ := http.NewRequestWithContext(ctx, "GET", "https://a.example.org/", nil)
		resp, err := c.Do(q)
		if err != nil {
			t.Fatal(name, err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		cancel()
		if err != nil || string(b) != "x" {
			t.Error(name, string(b), err)
		}
		for _, k := range []string{"Strict-Transport-Security", "X-Frame-Options", "X-Content-Type-Options"} {
			if resp.Header.Get(k) == "" {
				t.Error(name, "without", k, resp.Header)
			}
		}
	}
}

// What a client sends over HTTP/2 beside requests is paid for from a purse that its bodies fill. Bodies by HTTP/3, of which
// frames cost nothing, must not fill it: an upload would have paid for a flood.
func TestHolePurseFilledByHTTP3(t *testing.T) {
	r, u := quicRig(t, func(c *Config) { c.each = means{rate: 16 << 10, most: 64 << 10} })
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { io.Copy(io.Discard, q.Body) }))
	flood := func() time.Duration {
		c := r.conn("a.example.org", "h2")
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, http2.ClientPreface)
		f := http2.NewFramer(c, c)
		f.WriteSettings()
		began := time.Now()
		go func() {
			for range 2500 {
				f.WriteWindowUpdate(0, 1)
			}
			f.WritePing(false, [8]byte{7})
		}()
		for {
			fr, err := f.ReadFrame()
			if err != nil {
				return 20 * time.Second // ended: as good as slow
			}
			if p, ok := fr.(*http2.PingFrame); ok && p.IsAck() {
				return time.Since(began)
			}
		}
	}
	full := flood() // the purse is empty after it
	resp, err := r.overQUIC(t, u).Post("https://a.example.org/", "application/octet-stream", bytes.NewReader(make([]byte, 2<<20)))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if took := flood(); took < full+1500*time.Millisecond {
		t.Error("an upload by HTTP/3 paid for a flood by HTTP/2, which took", took, "and with a full purse", full)
	}
}
