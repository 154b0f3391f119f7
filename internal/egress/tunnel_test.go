package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// shake does a TLS handshake inside a tunnel and returns its error.
func shake(conn net.Conn, c *tls.Config) error {
	c.InsecureSkipVerify = true // it is about what the client says, not whom it believes
	return tls.Client(conn, c).Handshake()
}

func TestServerName(t *testing.T) {
	w := newWorld(t, nil)
	for _, port := range []string{":443", ":8443"} {
		w.serve(web+port, true, func(rw http.ResponseWriter, r *http.Request) {})
	}
	w.names.set("mirror.example.org", web)
	w.register(Policy{Allow: w.allow("mirror.example.org", "mirror.example.org:8443", web+":443")})
	for _, c := range []struct {
		to, name string
		reason   Reason
		ok       bool
	}{
		{to: "mirror.example.org:443", name: "mirror.example.org", ok: true},
		{to: "mirror.example.org:443", name: "MIRROR.example.org", ok: true},
		{to: "MIRROR.example.org.:443", name: "mirror.example.org", ok: true},
		{to: "mirror.example.org:443", name: "evil.example.com", reason: OtherName},
		{to: "mirror.example.org:443", name: "mirror.example.org.evil.test", reason: OtherName},
		{to: "mirror.example.org:443", name: "", reason: NoServerName},
		{to: "mirror.example.org:8443", name: "mirror.example.org", ok: true},
		{to: "mirror.example.org:8443", name: "evil.example.com", reason: OtherName},
		{to: "mirror.example.org:8443", name: "", reason: NoServerName},
		{to: web + ":443", name: "", ok: true},
		{to: web + ":443", name: "evil.example.com", reason: OtherName},
	} {
		status, _, conn, _ := w.connect(c.to)
		if status != 200 {
			t.Fatalf("CONNECT %s: %d", c.to, status)
		}
		err := shake(conn, &tls.Config{ServerName: c.name})
		if (err == nil) != c.ok {
			t.Errorf("%s as %q: %v, want ok = %v", c.to, c.name, err, c.ok)
		}
		if !c.ok && (err == nil || !strings.Contains(err.Error(), "access denied")) {
			t.Errorf("%s as %q: the client is told %v", c.to, c.name, err)
		}
		conn.Close()
	}
	r := w.settled()
	for reason, count := range map[Reason]int{OtherName: 2, NoServerName: 1} {
		if e := find(t, r, "mirror.example.org", reason); e.Verdict != Refused || e.Count < count || e.Down != 0 || e.Up != 0 {
			t.Errorf("%+v", e)
		}
	}
}

// What is not TLS does not get through on the TLS port, and no byte of it reaches the other side.
func TestNotTLS(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Idle = 2 * time.Second })
	conns := w.raw(web + ":443")
	w.names.set("mirror.example.org", web)
	w.register(Policy{Allow: w.allow("mirror.example.org")})
	for name, said := range map[string]string{
		"HTTP": "GET / HTTP/1.1\r\nHost: mirror.example.org\r\n\r\n", "SSH": "SSH-2.0-OpenSSH_9.6\r\n",
		"alert first": "\x15\x03\x01\x00\x02\x02\x00", "SSL 2": "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
		"half a hello": "\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x03\x03",
		"empty record": "\x16\x03\x01\x00\x00" + "GET / HTTP/1.1\r\n\r\n",
	} {
		_, _, conn, br := w.connect("mirror.example.org:443")
		io.WriteString(conn, said)
		conn.(*net.TCPConn).CloseWrite()
		rest, _ := io.ReadAll(br)
		if !bytes.HasPrefix([]byte("\x15\x03\x03\x00\x02\x02\x31"), rest) {
			t.Errorf("%s: the builder read %q", name, rest)
		}
		up := <-conns
		if got, _ := io.ReadAll(up); len(got) > 0 {
			t.Errorf("%s: the other side read %q", name, got)
		}
		up.Close()
	}
	// Server speaks first: the builder hears nothing before its own hello was read.
	_, _, conn, br := w.connect("mirror.example.org:443")
	up := <-conns
	io.WriteString(up, "SSH-2.0-tunnel\r\n")
	conn.(*net.TCPConn).CloseWrite()
	if rest, _ := io.ReadAll(br); len(rest) > 0 {
		t.Errorf("the builder read %q from a server that spoke first", rest)
	}
	up.Close()
	if e := find(t, w.settled(), "mirror.example.org", NotTLS); e.Count != 6 || e.Up != 0 || e.Down != 0 {
		t.Errorf("%+v", e)
	}
}

// A hello may come in any number of pieces, and before the answer to CONNECT.
func TestHelloInPieces(t *testing.T) {
	w := newWorld(t, nil)
	conns := w.raw(web + ":443")
	w.names.set("mirror.example.org", web)
	w.register(Policy{Allow: w.allow("mirror.example.org")})
	said := helloBytes(t, &tls.Config{ServerName: "mirror.example.org"})
	conn, err := w.space.dial(t.Context(), "tcp", w.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "CONNECT mirror.example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n"+string(said[:7]))
	for _, b := range said[7:] {
		conn.Write([]byte{b})
	}
	conn.Write([]byte("and what follows"))
	conn.(*net.TCPConn).CloseWrite()
	up := <-conns
	got, err := io.ReadAll(up)
	if err != nil || string(got) != string(said)+"and what follows" {
		t.Errorf("the other side read %d bytes, %v", len(got), err)
	}
	// Half-closed: the answer still comes.
	io.WriteString(up, "answer")
	up.Close()
	br := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	if rest, _ := io.ReadAll(br); string(rest) != "answer" {
		t.Errorf("the builder read %q", rest)
	}
}

// helloBytes returns what a client says first.
func helloBytes(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		shake(a, c)
		a.Close()
	}()
	buf := make([]byte, 64<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestReadHello(t *testing.T) {
	plain := helloBytes(t, &tls.Config{ServerName: "a.example.org"})
	for _, size := range []int{1, 5, 6, 100, len(plain)} {
		h, said, err := readHello(pieces(plain, size))
		if err != nil || h.name != "a.example.org" || h.hidden || !bytes.Equal(said, plain) {
			t.Errorf("in pieces of %d: %+v, %d bytes, %v", size, h, len(said), err)
		}
	}
	// An encrypted hello: the outer name is the list's, the inner one is not ours to see.
	list := echConfigList(t, "a.example.org")
	said := helloBytes(t, &tls.Config{ServerName: "hidden.example.com", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: list})
	h, _, err := readHello(pieces(said, len(said)))
	if err != nil || h.name != "a.example.org" || !h.hidden {
		t.Fatalf("%+v, %v", h, err)
	}
	to := place{name: "a.example.org", port: 443}
	if no := judge(h, said, nil, to); no == nil || no.reason != HiddenName {
		t.Errorf("a hidden name passed: %+v", no)
	}
}

// pipe is a connection that only reads.
type pipe struct {
	net.Conn
	r io.Reader
}

func (p pipe) Read(b []byte) (int, error)      { return p.r.Read(b) }
func (p pipe) Write([]byte) (int, error)       { panic("something was written") }
func (p pipe) Close() error                    { panic("it was closed") }
func (p pipe) SetReadDeadline(time.Time) error { return nil }

type limited struct {
	r    io.Reader
	size int
}

func (l limited) Read(b []byte) (int, error) { return l.r.Read(b[:min(len(b), l.size)]) }

func pieces(b []byte, size int) net.Conn { return pipe{r: limited{bytes.NewReader(b), size}} }

// Whatever a builder says: no panic, nothing written, what is passed on is what was said, and what is passed on names
// the host that was asked for.
func FuzzHello(f *testing.F) {
	f.Add(helloBytes(f, &tls.Config{ServerName: "a.example.org"}), 1)
	f.Add(helloBytes(f, &tls.Config{ServerName: "b.example.org", MaxVersion: tls.VersionTLS12}), 9)
	f.Add(helloBytes(f, &tls.Config{}), 100)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		h, said, err := readHello(pieces(b, 1+max(size%1000, 0)))
		if !bytes.HasPrefix(b, said) {
			t.Error("what was recorded is not what was said")
		}
		if (h == nil) != (err != nil) {
			t.Errorf("%+v, %v", h, err)
		}
		if no := judge(h, said, err, place{name: "a.example.org", port: 443}); no == nil && !bytes.Contains(bytes.ToLower(b), []byte("a.example.org")) {
			t.Error("a hello without the name passed")
		}
	})
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"a.example.org:443", "[::1]:80", "1.2.3.4:1", "a:0", ":80", "[::ffff:1.2.3.4]:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePlace(s, 0)
		if err != nil {
			return
		}
		again, err := parsePlace(p.String(), 0)
		if err != nil || again != p {
			t.Errorf("%q became %v, which reads as %v, %v", s, p, again, err)
		}
		if (p.name == "") == !p.addr.IsValid() || p.port == 0 || p.addr.Is4In6() {
			t.Errorf("%q became %+v", s, p)
		}
	})
}

// echConfigList is an ECHConfigList (RFC 9849, 4) with one X25519, HKDF-SHA256, AES-128-GCM configuration.
func echConfigList(t *testing.T, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte{7, 0x00, 0x20, 0x00, 0x20} // config id, KEM, length of the key
	body = append(body, key.PublicKey().Bytes()...)
	body = append(body, 0, 4, 0x00, 0x01, 0x00, 0x01, 0, byte(len(public))) // suites, longest name, public name
	body = append(append(body, public...), 0, 0)                            // no extensions
	config := append([]byte{0xfe, 0x0d, 0, byte(len(body))}, body...)
	return append([]byte{0, byte(len(config))}, config...)
}

func TestLimits(t *testing.T) {
	w := newWorld(t, nil)
	conns := w.raw(web + ":9000")
	w.names.set("mirror.example.org", web)
	w.register(Policy{Allow: w.allow("mirror.example.org:9000"), MaxConns: 3, MaxBytes: 100 << 10})
	var open []net.Conn
	for range 3 {
		status, _, conn, _ := w.connect("mirror.example.org:9000")
		if status != 200 {
			t.Fatal(status)
		}
		open = append(open, conn)
	}
	if status, body, _, _ := w.connect("mirror.example.org:9000"); status != 503 || !strings.Contains(body, "too many") {
		t.Errorf("the fourth connection: %d %q", status, body)
	}
	if e := find(t, w.report(), "mirror.example.org", ""); e.Open != 3 || e.Count != 3 {
		t.Errorf("while they are open: %+v", e)
	}
	// One ends, one more may come. The other side's end of file arrives after ours was given back.
	open[0].Close()
	for _, c := range []*net.TCPConn{<-conns, <-conns, <-conns} {
		go io.Copy(c, c)
	}
	waitFor(t, func() bool { return find(t, w.report(), "mirror.example.org", "").Open == 2 })
	status, _, conn, br := w.connect("mirror.example.org:9000")
	if status != 200 {
		t.Fatalf("after one ended: %d", status)
	}
	// The bytes of the build are counted over its connections and both ways.
	up := <-conns
	go io.Copy(io.Discard, up)
	go io.Copy(conn, zeros{})
	if n, _ := io.Copy(io.Discard, br); n != 0 {
		t.Errorf("read %d", n)
	}
	if e := find(t, w.report(), "mirror.example.org", TooManyBytes); e.Verdict != Refused || e.Up > 100<<10 {
		t.Errorf("%+v", e)
	}
	waitFor(t, func() bool { return find(t, w.report(), "mirror.example.org", "").Open == 2 }) // its client sees the end before it is given back
	if status, _, _, _ := w.connect("mirror.example.org:9000"); status != 507 {
		t.Errorf("after the bytes were spent: %d", status)
	}
	if e := find(t, w.settled(), "", TooManyConns); e.Count != 1 {
		t.Errorf("%+v", e)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// waitFor asks until it is so. It does not sleep: each question is a round trip to the process that is waited for.
func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about")
		}
	}
}

func TestIdle(t *testing.T) {
	const idle = 300 * time.Millisecond
	w := newWorld(t, func(c *Config) { c.Idle = idle })
	conns := w.raw(web + ":9000")
	w.names.set("mirror.example.org", web)
	w.register(Policy{Allow: w.allow("mirror.example.org:9000")})
	// A download that lasts longer than idle, with nothing said in the other direction, is not idle.
	_, _, _, br := w.connect("mirror.example.org:9000")
	up := <-conns
	go func() {
		tick := time.NewTicker(idle / 10)
		defer tick.Stop()
		for range 20 {
			<-tick.C
			up.Write([]byte("x"))
		}
		up.CloseWrite()
	}()
	if got, err := io.ReadAll(io.LimitReader(br, 20)); err != nil || len(got) != 20 {
		t.Errorf("the download broke after %d: %v", len(got), err)
	}
	// A silent one ends.
	_, _, _, br = w.connect("mirror.example.org:9000")
	start := time.Now()
	if _, err := br.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) < idle/2 {
		t.Errorf("a silent tunnel ended after %v: %v", time.Since(start), err)
	}
}

// The node comes back: it registers its builds again, with a new policy, and tunnels live on. Egress comes back: what
// waited in the node's listener is served.
func TestRestarts(t *testing.T) {
	w := newWorld(t, nil)
	conns := w.raw(web + ":9000")
	w.names.set("mirror.example.org", web)
	w.register(Policy{Allow: w.allow("mirror.example.org:9000")})
	_, _, conn, br := w.connect("mirror.example.org:9000")
	up := <-conns
	w.client.Close()
	var err error
	if w.client, err = Dial(w.socket); err != nil {
		t.Fatal(err)
	}
	if ids, err := w.client.List(t.Context()); err != nil || len(ids) != 1 || ids[0] != w.build {
		t.Errorf("the new node sees %v, %v", ids, err)
	}
	w.register(Policy{Allow: nil})
	io.WriteString(up, "ping")
	if b, err := br.Peek(4); err != nil || string(b) != "ping" {
		t.Errorf("the tunnel broke: %q, %v", b, err)
	}
	conn.Close()
	if status, _, _, _ := w.connect("mirror.example.org:9000"); status != 403 {
		t.Errorf("the new policy does not hold: %d", status)
	}
	other := Policy{App: "other"}
	if err := w.client.Register(t.Context(), w.build, w.ln, other); bulwark.KindOf(err) != bulwark.KindConflict {
		t.Errorf("a build changed its app: %v", err)
	}

	w.stop()
	if _, err := w.client.Report(t.Context(), w.build); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("egress is away: %v", err)
	}
	waiting, err := w.space.dial(t.Context(), "tcp", w.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	io.WriteString(waiting, "CONNECT mirror.example.org:9000 HTTP/1.1\r\nHost: x\r\n\r\n")
	w.start(nil)
	w.register(Policy{Allow: w.allow("mirror.example.org:9000")})
	if resp, err := http.ReadResponse(bufio.NewReader(waiting), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("what waited: %v, %v", resp, err)
	}
}

func TestRelease(t *testing.T) {
	w := newWorld(t, nil)
	conns := w.raw(web + ":9000")
	w.names.set("mirror.example.org", web)
	w.register(Policy{Allow: w.allow("mirror.example.org:9000")})
	_, _, _, br := w.connect("mirror.example.org:9000")
	up := <-conns
	r := w.settled()
	if e := find(t, r, "mirror.example.org", ""); e.Open != 0 || e.Count != 1 {
		t.Errorf("%+v", e)
	}
	if _, err := br.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the builder's end: %v", err)
	}
	if _, err := up.Read(make([]byte, 1)); err == nil {
		t.Error("the other end is open")
	}
	if _, err := w.client.Release(t.Context(), w.build); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Errorf("a second release: %v", err)
	}
}

// Nobody but the node gives orders, and what is not a listening TCP socket is not taken.
func TestControl(t *testing.T) {
	w := newWorld(t, nil)
	stranger := newWorld(t, func(c *Config) { c.NodeUID = uint32(os.Getuid()) + 1 })
	if err := stranger.client.Register(t.Context(), stranger.build, stranger.ln, Policy{App: "shop"}); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("a stranger registered: %v", err)
	}
	if _, err := w.client.List(t.Context()); err != nil {
		t.Errorf("the node itself was turned away: %v", err)
	}
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	packet, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	connected, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	stream, err := connected.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, f := range map[string]*os.File{"UDP": packet, "connected": stream, "file": file} {
		if err := w.client.Register(t.Context(), w.build, f, Policy{App: "shop"}); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.client.Register(t.Context(), w.build, w.ln, Policy{}); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Errorf("a policy of no app: %v", err)
	}
	// A policy that is not sealed could change after it was read.
	if _, _, err := w.client.call(t.Context(), request{Verb: verbRegister, Build: w.build}, w.ln, file); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Errorf("an unsealed policy: %v", err)
	}
	if _, _, err := w.client.call(t.Context(), request{Verb: "sing"}); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Errorf("an unknown order: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.client.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled order: %v", err)
	}
	// A message that does not read ends the connection, not the process.
	conn, err := fdpass.Dial(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Send([]string{"not", "an", "order"})
	if _, err := conn.Receive(new(response)); err == nil {
		t.Error("it was answered")
	}
	if _, err := w.client.List(t.Context()); err != nil {
		t.Error(err)
	}
}

// A builder that asks for ever new names fills neither the memory nor the report.
func TestLedgerIsBounded(t *testing.T) {
	l := newLedger()
	for i := range maxEntries + 100 {
		f := l.begin()
		f.host, f.port = fmt.Sprintf("h%d.example.org", i), 443
		f.address = netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		f.end(Refused, Unlisted)
		l.close(f)
	}
	entries, lost := l.snapshot()
	if len(entries) != maxEntries || lost != 100 {
		t.Errorf("%d entries, %d lost", len(entries), lost)
	}
	f := l.begin()
	f.end(Reached, "")
	f.end(Refused, TooManyBytes)
	f.end(Failed, NotConnected)
	if f.verdict != Refused || f.reason != TooManyBytes {
		t.Errorf("the first cause did not stay: %s %s", f.verdict, f.reason)
	}
}

// The host's own reading of its networks holds the addresses that it has.
func TestHostSubnets(t *testing.T) {
	subnets, err := hostSubnets()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range subnets {
		found = found || p.Contains(netip.MustParseAddr("127.0.0.1"))
	}
	if !found {
		t.Errorf("the loopback is not among %v", subnets)
	}
}
