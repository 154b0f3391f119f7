package edge

import (
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/bulwark-paas/bulwark"
)

// h2cBackend is an instance that speaks HTTP/2 alone.
func h2cBackend(t testing.TB, h http.HandlerFunc) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: p}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// serveH2C has an app that is spoken to by HTTP/2.
func (r *rig) serveH2C(host bulwark.HostName, addrs ...string) bulwark.AppID {
	r.t.Helper()
	app := r.serve(host, addrs...)
	r.shield(app, bulwark.Shield{Backend: bulwark.BackendH2C})
	return app
}

// The gRPC project's own tests of interoperability, with its client and its server, the edge between them.
func TestGRPC(t *testing.T) {
	r := newRig(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, interop.NewTestServer())
	go s.Serve(l)
	t.Cleanup(s.Stop)
	r.serveH2C("a.example.org", l.Addr().String())
	cc, err := grpc.NewClient("passthrough:///a.example.org", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: r.pool, ServerName: "a.example.org"})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", r.addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	c := grpc_testing.NewTestServiceClient(cc)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, do := range map[string]func(){ // each ends the process where it does not hold
		"empty_unary":                 func() { interop.DoEmptyUnaryCall(ctx, c) },
		"large_unary":                 func() { interop.DoLargeUnaryCall(ctx, c) },
		"client_streaming":            func() { interop.DoClientStreaming(ctx, c) },
		"server_streaming":            func() { interop.DoServerStreaming(ctx, c) },
		"ping_pong":                   func() { interop.DoPingPong(ctx, c) },
		"empty_stream":                func() { interop.DoEmptyStream(ctx, c) },
		"timeout_on_sleeping_server":  func() { interop.DoTimeoutOnSleepingServer(ctx, c) },
		"cancel_after_begin":          func() { interop.DoCancelAfterBegin(ctx, c) },
		"cancel_after_first_response": func() { interop.DoCancelAfterFirstResponse(ctx, c) },
		"custom_metadata":             func() { interop.DoCustomMetadata(ctx, c) },
		"status_code_and_message":     func() { interop.DoStatusCodeAndMessage(ctx, c) },
		"special_status_message":      func() { interop.DoSpecialStatusMessage(ctx, c) },
		"unimplemented_method":        func() { interop.DoUnimplementedMethod(ctx, cc) },
		"unimplemented_service":       func() { interop.DoUnimplementedService(ctx, grpc_testing.NewUnimplementedServiceClient(cc)) },
	} {
		t.Run(name, func(*testing.T) { do() })
	}
}

// Whatever comes by HTTP/1.1 or HTTP/2 reaches an app by HTTP/2 as one well-formed request.
func TestForwardsByHTTP2(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		type got struct {
			uri, host, proto string
			header           http.Header
			body             []byte
			trailer          http.Header
		}
		seen := make(chan got, 1)
		r.serveH2C("a.example.org", h2cBackend(t, func(w http.ResponseWriter, q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			seen <- got{q.RequestURI, q.Host, q.Proto, q.Header, b, q.Trailer}
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("Trailer", "X-After")
			w.Header().Set("Server", "secret/1.0")
			w.WriteHeader(201)
			io.WriteString(w, "answer")
			w.Header().Set("X-After", "end")
		}))
		for _, size := range []int{0, 10, smallBody + 1, 3 << 20} {
			body := bytes.Repeat([]byte{'b'}, size)
			req, _ := http.NewRequest("PUT", "https://a.example.org/a//b/%2e%2E/c?x=1&&y=%20", bytes.NewReader(body))
			req.Header.Set("X-Forwarded-For", "6.6.6.6")
			req.Header.Set("X-Mine", "1")
			req.Header.Set("Connection", "X-Hop")
			req.Header.Set("X-Hop", "1")
			if h2 {
				req.Header.Del("Connection")
			}
			resp, err := r.client(h2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 201 || string(text) != "answer" || resp.Trailer.Get("X-After") != "end" || resp.Header.Get("Server") != "" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Error(size, resp.Status, resp.Header, resp.Trailer, string(text))
			}
			g := <-seen
			if g.uri != "/a//b/%2e%2E/c?x=1&&y=%20" || g.host != "a.example.org" || g.proto != "HTTP/2.0" || !bytes.Equal(g.body, body) {
				t.Error(size, g.uri, g.host, g.proto, len(g.body))
			}
			if g.header.Get("X-Forwarded-For") != "127.0.0.1" || g.header.Get("X-Forwarded-Proto") != "https" || g.header.Get("X-Mine") != "1" || !h2 && g.header.Get("X-Hop") != "" {
				t.Error(g.header)
			}
			if g.header.Get("X-Request-Id") != resp.Header.Get("X-Request-Id") {
				t.Error("another id", g.header, resp.Header)
			}
			if ua := g.header.Get("User-Agent"); !strings.HasPrefix(ua, "Go-http-client") {
				t.Error("User-Agent", ua)
			}
		}
	})
}

// Many requests go over few connections, also while these get old and instances go.
func TestHTTP2ConnectionsAreShared(t *testing.T) {
	r := newRig(t, nil)
	hold := make(chan struct{})
	r.serveH2C("a.example.org", h2cBackend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/hold" {
			<-hold
		}
		io.WriteString(w, "ok")
	}))
	c := r.client(true)
	get(t, c, "https://a.example.org/")
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if resp, err := c.Get("https://a.example.org/hold"); err != nil || resp.StatusCode != 200 {
				t.Error(resp, err)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	close(hold)
	wg.Wait()
	if n := r.dial.made.Load(); n > 3 {
		t.Errorf("%d connections for 100 requests", n)
	}
}

// An instance that dies takes the requests with it that it had, and no others.
func TestHTTP2InstanceDies(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		started := make(chan struct{}, 1)
		conns := make(chan net.Conn, 100)
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		s := &http.Server{Protocols: p, ConnState: func(c net.Conn, st http.ConnState) {
			if st == http.StateNew {
				conns <- c
			}
		}, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/die" {
				started <- struct{}{}
				<-q.Context().Done()
				return
			}
			if q.URL.Path == "/half" {
				w.Header().Set("Content-Type", "application/octet-stream")
				w.Write(make([]byte, 100_000))
				w.(http.Flusher).Flush()
				started <- struct{}{}
				<-q.Context().Done()
				return
			}
			io.WriteString(w, "ok")
		})}
		l := tcp(t)
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
		r.serveH2C("a.example.org", l.Addr().String())
		c := r.client(h2)
		for _, path := range []string{"/die", "/half"} {
			done := make(chan int)
			go func() {
				resp, err := c.Get("https://a.example.org" + path)
				if err != nil {
					done <- 0
					return
				}
				_, err = io.ReadAll(resp.Body)
				if err == nil {
					done <- resp.StatusCode
					return
				}
				done <- -1
			}()
			<-started
			(<-conns).Close()
			if got, want := <-done, map[string]int{"/die": 502, "/half": -1}[path]; got != want {
				t.Errorf("%s: %d, want %d", path, got, want)
			}
			for range 5 {
				if resp, body := get(t, c, "https://a.example.org/"); resp.StatusCode != 200 || body != "ok" {
					t.Fatal(resp.Status)
				}
			}
		}
	})
}

// One that says nothing, and one that never takes the body.
func TestHTTP2SlowInstance(t *testing.T) {
	r := newRig(t, nil)
	app := r.serveH2C("a.example.org", h2cBackend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/half" {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		<-q.Context().Done()
	}))
	up := r.table.Apps[app]
	up.FirstByte, up.Idle = bulwark.Duration(300*time.Millisecond), bulwark.Duration(300*time.Millisecond)
	r.table.Apps[app] = up
	r.put()
	c := r.client(true)
	if resp, _ := get(t, c, "https://a.example.org/"); resp.StatusCode != 504 {
		t.Error(resp.Status)
	}
	resp, err := c.Get("https://a.example.org/half")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%q looks whole", b)
	}
	resp, err = c.Post("https://a.example.org/", "application/octet-stream", bytes.NewReader(make([]byte, 10<<20)))
	if err != nil || resp.StatusCode != 504 {
		t.Error(resp, err)
	}
}

// An instance leaves the table while two requests are under way on its one connection. The first to be answered closed
// that for both.
func TestHoleOneOfTwoEndsBoth(t *testing.T) {
	r := newRig(t, nil)
	release := map[string]chan struct{}{"/1": make(chan struct{}), "/2": make(chan struct{})}
	begun := make(chan struct{}, 2)
	h := func(w http.ResponseWriter, q *http.Request) {
		if c := release[q.URL.Path]; c != nil {
			begun <- struct{}{}
			<-c
		}
		io.WriteString(w, "ok")
	}
	app := r.serveH2C("a.example.org", h2cBackend(t, h))
	get(t, r.client(true), "https://a.example.org/")
	results := map[string]chan string{"/1": make(chan string, 1), "/2": make(chan string, 1)}
	for p, c := range results {
		go func() {
			resp, err := r.client(true).Post("https://a.example.org"+p, "text/plain", strings.NewReader("x"))
			if err != nil {
				c <- err.Error()
				return
			}
			c <- resp.Status
		}()
	}
	<-begun
	<-begun
	up := r.table.Apps[app]
	up.Instances = []bulwark.InstanceID{r.instance(h2cBackend(t, h))}
	r.table.Apps[app] = up
	r.put()
	for _, p := range []string{"/1", "/2"} {
		close(release[p])
		if got := <-results[p]; got != "200 OK" {
			t.Error(p, got)
		}
		time.Sleep(100 * time.Millisecond) // for what the first one's end does
	}
}
