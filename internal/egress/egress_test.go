package egress

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// world is an egress process with the internet around it and one builder in it.
type world struct {
	t      *testing.T
	names  *names
	socket string
	client *Client
	stop   func() // ends the process and waits
	space  *space
	ln     *os.File
	proxy  string // where the builder finds the proxy
	roots  *x509.CertPool
	cert   tls.Certificate
	build  bulwark.BuildID
}

// names is the DNS of the test: each answer is used once, the last one for ever.
type names struct {
	mu      sync.Mutex
	answers map[bulwark.HostName][][]netip.Addr
	asked   map[bulwark.HostName]int
}

func (n *names) set(name bulwark.HostName, answers ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name] = nil
	for _, a := range answers {
		var set []netip.Addr
		for _, s := range strings.Fields(a) {
			set = append(set, netip.MustParseAddr(s))
		}
		n.answers[name] = append(n.answers[name], set)
	}
}

func (n *names) lookup(_ context.Context, name bulwark.HostName) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[name]++
	all := n.answers[name]
	if len(all) == 0 {
		return nil, errors.New("no such host")
	}
	if len(all) > 1 {
		n.answers[name] = all[1:]
	}
	return all[0], nil
}

const web = "203.0.113.10"

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, socket: filepath.Join(t.TempDir(), "control"), build: bulwark.NewBuildID(),
		names: &names{answers: map[bulwark.HostName][][]netip.Addr{}, asked: map[bulwark.HostName]int{}}}
	w.makeCert()
	w.start(change)
	w.space = newSpace(t)
	w.ln, w.proxy = w.space.listen(t)
	return w
}

func (w *world) start(change func(*Config)) {
	w.t.Helper()
	os.Remove(w.socket)
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: w.socket, Net: "unixpacket"})
	if err != nil {
		w.t.Fatal(err)
	}
	c := Config{Control: ln, NodeUID: uint32(os.Getuid()), Lookup: w.names.lookup,
		Connected: func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("203.0.113.128/25")}, nil }}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("Run: %v", err)
			}
		})
	}
	w.t.Cleanup(w.stop)
	w.client, err = Dial(w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.client.Close() })
}

func (w *world) register(policy Policy) {
	w.t.Helper()
	policy.App = "shop"
	if err := w.client.Register(w.t.Context(), w.build, w.ln, policy); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) allow(targets ...string) []netpolicy.Rule {
	w.t.Helper()
	rules, err := netpolicy.Rules(targets...)
	if err != nil {
		w.t.Fatal(err)
	}
	return rules
}

func (w *world) report() Report {
	w.t.Helper()
	r, err := w.client.Report(w.t.Context(), w.build)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// settled is the report after all connections ended.
func (w *world) settled() Report {
	w.t.Helper()
	r, err := w.client.Release(w.t.Context(), w.build)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) makeCert() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"mirror.example.org", "*.example.net"}, IPAddresses: []net.IP{net.ParseIP(web)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	w.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(leaf)
}

// serve puts a server on the internet, with TLS or without.
func (w *world) serve(addr string, secure bool, h http.HandlerFunc) {
	w.t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	if secure {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{w.cert}})
	}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(ln)
	w.t.Cleanup(func() { srv.Close() })
}

// raw puts a bare TCP server on the internet and returns its connections.
func (w *world) raw(addr string) <-chan *net.TCPConn {
	w.t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	conns := make(chan *net.TCPConn, 128)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c.(*net.TCPConn)
		}
	}()
	w.t.Cleanup(func() { ln.Close() })
	return conns
}

// browser is an HTTP client inside the builder.
func (w *world) browser() *http.Client {
	tr := &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: w.proxy}),
		DialContext:       w.space.dial,
		TLSClientConfig:   &tls.Config{RootCAs: w.roots},
		DisableKeepAlives: true,
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// say sends a request by hand and returns the answer's head, its body up to the end or for a tunnel the connection.
func (w *world) say(request string) (*http.Response, net.Conn, *bufio.Reader) {
	w.t.Helper()
	conn, err := w.space.dial(w.t.Context(), "tcp", w.proxy)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		w.t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		w.t.Fatalf("%.60q: %v", request, err)
	}
	return resp, conn, br
}

func (w *world) connect(to string) (int, string, net.Conn, *bufio.Reader) {
	w.t.Helper()
	resp, conn, br := w.say("CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n\r\n")
	if resp.StatusCode == http.StatusOK {
		return resp.StatusCode, "", conn, br
	}
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), conn, br
}

func find(t *testing.T, r Report, host string, reason Reason) Entry {
	t.Helper()
	for _, e := range r.Entries {
		if e.Host == host && e.Reason == reason {
			return e
		}
	}
	t.Errorf("the report has no entry for %s with reason %q: %+v", host, reason, r.Entries)
	return Entry{}
}

func TestAllowedHost(t *testing.T) {
	w := newWorld(t, nil)
	w.serve(web+":443", true, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello from "+r.Host) })
	w.serve(web+":80", false, func(rw http.ResponseWriter, r *http.Request) {
		if v := r.Header.Get("Proxy-Authorization") + r.Header.Get("Via") + r.Header.Get("X-Forwarded-For"); v != "" {
			t.Errorf("the mirror saw %q", v)
		}
		io.WriteString(rw, "plain from "+r.Host)
	})
	w.names.set("mirror.example.org", web)
	w.names.set("a.b.example.net", web)
	w.register(Policy{Allow: w.allow("mirror.example.org", "*.b.example.net:443")})
	for address, want := range map[string]string{
		"https://mirror.example.org/x":   "hello from mirror.example.org",
		"http://mirror.example.org/x":    "plain from mirror.example.org",
		"http://MIRROR.example.org:80/x": "plain from mirror.example.org",
	} {
		resp, err := w.browser().Get(address)
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || string(body) != want {
			t.Errorf("%s: %d %q, want %q", address, resp.StatusCode, body, want)
		}
	}
	r := w.settled()
	if r.App != "shop" || r.Build != w.build || r.Lost != 0 {
		t.Errorf("the report's head is %+v", r)
	}
	for _, e := range r.Entries {
		if e.Verdict != Reached || e.Host != "mirror.example.org" || e.Up == 0 || e.Down == 0 || e.Time <= 0 || e.Open != 0 ||
			len(e.Addresses) != 1 || e.Addresses[0] != netip.MustParseAddr(web) || e.First.IsZero() || e.Last.Before(e.First) ||
			e.Port == 80 && e.Count != 2 || e.Port == 443 && e.Count != 1 {
			t.Errorf("%+v", e)
		}
	}
	if len(r.Entries) != 2 {
		t.Errorf("%d entries, want 2", len(r.Entries))
	}
	if _, err := w.client.Report(t.Context(), w.build); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Errorf("a released build is still known: %v", err)
	}
	if _, err := w.space.dial(t.Context(), "tcp", w.proxy); err != nil {
		t.Errorf("the node's copy of the listener was closed with ours: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, nil)
	hits := w.raw("0.0.0.0:443")
	w.raw("0.0.0.0:8443")
	w.names.set("mirror.example.org", web)
	w.names.set("inner.example.org", "10.99.0.1")
	w.names.set("mixed.example.org", web+" 10.99.0.1")
	w.names.set("neighbour.example.org", "203.0.113.200")
	w.names.set("self.example.org", "127.0.0.1")
	w.names.set("mapped.example.org", "::ffff:10.99.0.1")
	w.names.set("metadata.example.org", "169.254.169.254")
	rules := w.allow("mirror.example.org", "inner.example.org", "mixed.example.org", "neighbour.example.org", "self.example.org",
		"mapped.example.org", "metadata.example.org", "gone.example.org", "203.0.113.77/32", "10.99.0.0/16")
	rules = append(rules, netpolicy.Rule{To: w.allow("private-self.example.org")[0].To, Private: true})
	w.names.set("private-self.example.org", "127.0.0.1")
	w.register(Policy{Allow: rules})
	for _, c := range []struct {
		to     string
		status int
		reason Reason
	}{
		{"evil.example.com:443", 403, Unlisted},
		{"mirror.example.org:22", 403, Unlisted},
		{"mirror.example.org:80", 403, Unlisted}, // plain HTTP goes by GET, where the name can be checked
		{"mirror.example.org.evil.test:443", 403, Unlisted},
		{"xmirror.example.org:443", 403, Unlisted},
		{"inner.example.org:443", 403, ClosedAddress},
		{"mixed.example.org:443", 403, ClosedAddress},
		{"neighbour.example.org:443", 403, ClosedAddress},
		{"self.example.org:443", 403, ClosedAddress},
		{"mapped.example.org:443", 403, ClosedAddress},
		{"metadata.example.org:443", 403, ClosedAddress},
		{"private-self.example.org:443", 403, ClosedAddress},
		{"10.99.0.1:443", 403, ClosedAddress},
		{"[::ffff:10.99.0.1]:443", 403, ClosedAddress},
		{"127.0.0.1:443", 403, Unlisted},
		{web + ":443", 403, Unlisted}, // the name is allowed, its address is not
		{"gone.example.org:443", 502, NotResolved},
		{"mirror.example.org", 400, BadRequest},
		{"mirror.example.org:0", 400, BadRequest},
		{"mirror.example.org:0443", 400, BadRequest},
		{"mirror.example.org:99999", 400, BadRequest},
		{"0x7f.1:443", 400, BadRequest},
		{"2130706433:443", 400, BadRequest},
		{"[fe80::1%25lo]:443", 400, BadRequest},
		{"\xc3\xbc.example.org:443", 400, BadRequest},
		{"\xe2\x84\xaa.example.org:443", 400, BadRequest},
		{"mir%72or.example.org:443", 400, BadRequest},
	} {
		status, body, _, _ := w.connect(c.to)
		if status != c.status {
			t.Errorf("CONNECT %s: %d %q, want %d", c.to, status, body, c.status)
		}
		if c.reason == Unlisted && (!strings.Contains(body, "bulwark registries allow --packages ") || !strings.Contains(body, "may not reach")) {
			t.Errorf("CONNECT %s: the body does not help: %q", c.to, body)
		}
	}
	for _, c := range []struct {
		request string
		status  int
	}{
		{"GET / HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 400},
		{"GET https://mirror.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 400},
		{"GET ftp://mirror.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 400},
		{"GET http://u:p@mirror.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 400},
		{"POST http://mirror.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\nContent-Length: 0\r\n\r\n", 400},
		{"GET http://mirror.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\nContent-Length: 1\r\n\r\nx", 400},
		{"GET http://mirror.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"GET http://mirror.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 400},
		{"GET http://mirror.example.org/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		{"GET http://mirror.example.org/ HTTP/1.1\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		{"\x16\x03\x01\x00\x01\x00\r\n\r\n", 400},
		// The Host header does not speak for the address line.
		{"GET http://evil.example.com/ HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 403},
		{"GET http://inner.example.org/ HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 403},
		{"GET http://127.0.0.1/ HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 403},
		{"GET http://mirror.example.org:443/ HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", 403},
	} {
		resp, _, _ := w.say(c.request)
		if resp.StatusCode != c.status {
			t.Errorf("%.60q: %d, want %d", c.request, resp.StatusCode, c.status)
		}
	}
	r := w.settled()
	find(t, r, "evil.example.com", Unlisted)
	find(t, r, "inner.example.org", ClosedAddress)
	for _, e := range r.Entries {
		if e.Verdict == Reached {
			t.Errorf("reached: %+v", e)
		}
	}
	select {
	case c := <-hits:
		t.Errorf("a connection came out: to %v", c.LocalAddr())
	default:
	}
}

// A name that is public when it is checked and private when it is used: there is one resolution, so no second answer.
func TestRebinding(t *testing.T) {
	w := newWorld(t, nil)
	w.serve(web+":443", true, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "public") })
	w.serve("10.99.0.1:443", true, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "private") })
	w.names.set("mirror.example.org", web, "10.99.0.1")
	w.register(Policy{Allow: w.allow("mirror.example.org")})
	resp, err := w.browser().Get("https://mirror.example.org/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "public" {
		t.Errorf("the builder read %q", body)
	}
	if w.names.asked["mirror.example.org"] != 1 {
		t.Errorf("the name was resolved %d times for one connection", w.names.asked["mirror.example.org"])
	}
	if status, _, _, _ := w.connect("mirror.example.org:443"); status != 403 {
		t.Errorf("the second answer, private, led to %d", status)
	}
	find(t, w.settled(), "mirror.example.org", ClosedAddress)
}

// What an operator marked private is reached; the machine itself only by a range that says so.
func TestPrivateRule(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("10.99.0.1:80", false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "inner") })
	w.serve("127.0.0.9:80", false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "self") })
	w.names.set("inner.example.org", "10.99.0.1")
	w.names.set("self.example.org", "127.0.0.9")
	rules := w.allow("inner.example.org", "self.example.org", "127.0.0.9/32:80")
	rules[0].Private, rules[2].Private = true, true
	w.register(Policy{Allow: rules})
	for address, want := range map[string]string{
		"http://inner.example.org/": "inner", "http://self.example.org/": "self", "http://127.0.0.9/": "self",
	} {
		resp, err := w.browser().Get(address)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != want {
			t.Errorf("%s: %d %q", address, resp.StatusCode, body)
		}
	}
}
