package edge

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// rig is a running edge with everything around it.
type rig struct {
	t       testing.TB
	dir     string
	parts   *parts // as the supervisor holds them
	cfg     Config
	control *edgecontrol.Client
	certs   *edgecontrol.Client
	issued  *edgecontrol.Client
	dial    *fakeDial
	pool    *x509.CertPool
	addr    string
	plain   string
	cancel  context.CancelFunc
	done    chan error
	log     *lockedBuffer
	keeper  *keeper
	gen     uint64
	table   bulwark.Table
}

// lockedBuffer is a log that a test may read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// keeper is a supervisor's descriptor store.
type keeper struct {
	mu    sync.Mutex
	files map[string][]*os.File
	fail  bool
	said  []string
}

func (k *keeper) NotifyStore(name string, f *os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail {
		return os.ErrClosed
	}
	b, err := fdpass.ReadSealed(f, maxStored)
	if err != nil {
		return err
	}
	dup, err := fdpass.Sealed(name, b)
	if err != nil {
		return err
	}
	k.files[name] = append(k.files[name], dup)
	return nil
}

func (k *keeper) NotifyRemove(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	fdpass.CloseAll(k.files[name])
	delete(k.files, name)
	return nil
}

func (k *keeper) Notify(state string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.said = append(k.said, state)
	return nil
}

// take gives all files to a successor.
func (k *keeper) take() map[string][]*os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string][]*os.File{}
	for n, list := range k.files {
		for _, f := range list {
			b, _ := fdpass.ReadSealed(f, maxStored)
			dup, _ := fdpass.Sealed(n, b)
			out[n] = append(out[n], dup)
		}
	}
	return out
}

// fakeDial is dial without namespaces: an instance is a TCP address.
type fakeDial struct {
	path  string
	stop  func()
	mu    sync.Mutex
	where map[bulwark.InstanceID]string
	made  atomic.Int64
}

func (d *fakeDial) start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	go d.follow(ctx)
}

func (d *fakeDial) restart() {
	d.stop()
	d.start()
}

func (d *fakeDial) set(id bulwark.InstanceID, addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.where[id] = addr
}

func (d *fakeDial) follow(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := fdpass.Dial(d.path)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
			continue
		}
		taken := make(chan struct{})
		go d.serve(ctx, c, sync.OnceFunc(func() { close(taken) }))
		<-taken
	}
}

func (d *fakeDial) serve(ctx context.Context, c *fdpass.Conn, taken func()) {
	defer taken()
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for {
		var req bulwark.DialRequest
		if _, err := c.Receive(&req); err != nil {
			return
		}
		if req.Taken {
			taken()
			continue
		}
		d.mu.Lock()
		addr, ok := d.where[req.Instance]
		d.mu.Unlock()
		go func() {
			if !ok {
				c.Send(bulwark.DialReply{ID: req.ID, Error: bulwark.DialUnknown})
				return
			}
			up, err := net.Dial("tcp", addr)
			if err != nil {
				c.Send(bulwark.DialReply{ID: req.ID, Error: bulwark.DialRefused})
				return
			}
			f, _ := up.(*net.TCPConn).File()
			up.Close()
			d.made.Add(1)
			c.Send(bulwark.DialReply{ID: req.ID}, f)
			f.Close()
		}()
	}
}

// authority issues certificates for tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(365 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{key, cert}
}

func (a *authority) issue(t testing.TB, wildcard bulwark.HostName, names ...bulwark.HostName) bulwark.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	tmpl := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		tmpl.DNSNames = append(tmpl.DNSNames, string(n))
	}
	if wildcard != "" {
		tmpl.DNSNames = append(tmpl.DNSNames, "*."+string(wildcard))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pk, _ := x509.MarshalPKCS8PrivateKey(key)
	return bulwark.Certificate{Names: names, Wildcard: wildcard, Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk})}
}

func tcp(t testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// unixSocket listens, and keeps a copy open as the supervisor does, so that a successor can serve it.
func unixSocket(t testing.TB, kind, path string) *net.UnixListener {
	l, err := net.ListenUnix(kind, &net.UnixAddr{Name: path, Net: kind})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l
}

func dup[L interface{ File() (*os.File, error) }](t testing.TB, l L) net.Listener {
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// parts are what the supervisor holds.
type parts struct {
	https, plain                 net.Listener
	control, certs, issued, dial *net.UnixListener
}

func (p *parts) config(t testing.TB) Config {
	return Config{HTTPS: dup(t, p.https.(*net.TCPListener)), HTTP: dup(t, p.plain.(*net.TCPListener)), Control: dup(t, p.control).(*net.UnixListener),
		Certs: dup(t, p.certs).(*net.UnixListener), Issued: dup(t, p.issued).(*net.UnixListener), Dial: dup(t, p.dial).(*net.UnixListener)}
}

func newParts(t testing.TB, dir string) *parts {
	return &parts{tcp(t), tcp(t), unixSocket(t, "unix", filepath.Join(dir, "control")), unixSocket(t, "unix", filepath.Join(dir, "certs")),
		unixSocket(t, "unix", filepath.Join(dir, "issued")), unixSocket(t, "unixpacket", filepath.Join(dir, "dial"))}
}

// stockFirewall is one for all tests: to read the rules takes a while.
var stockFirewall = sync.OnceValue(func() *waf.Firewall {
	f, err := waf.New(waf.Config{})
	if err != nil {
		panic(err)
	}
	return f
})

var testHosts = []bulwark.HostName{"a.example.org", "b.example.org"}

// newRig starts an edge that serves a.example.org, b.example.org and *.wild.example.org with certificates, and no app.
func newRig(t testing.TB, change func(*Config)) *rig {
	dir := t.TempDir()
	p := newParts(t, dir)
	r := &rig{t: t, dir: dir, parts: p, log: &lockedBuffer{}, keeper: &keeper{files: map[string][]*os.File{}}, addr: p.https.Addr().String(),
		plain: p.plain.Addr().String(), dial: &fakeDial{path: filepath.Join(dir, "dial"), where: map[bulwark.InstanceID]string{}}}
	r.control, r.certs = edgecontrol.New(filepath.Join(dir, "control")), edgecontrol.New(filepath.Join(dir, "certs"))
	r.issued = edgecontrol.New(filepath.Join(dir, "issued"))
	r.cfg = p.config(t)
	r.cfg.Firewall = stockFirewall()
	r.cfg.Keeper, r.cfg.AccessLog, r.cfg.Grace = r.keeper, r.log, 5*time.Second
	if change != nil {
		change(&r.cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan error, 1)
	go func() { r.done <- Run(ctx, r.cfg) }()
	r.dial.start()
	t.Cleanup(func() { r.stop(); r.dial.stop(); r.control.Close(); r.certs.Close(); r.issued.Close() })
	r.trust(newAuthority(t))
	r.table = bulwark.Table{Routes: map[bulwark.HostName]bulwark.AppID{}, Apps: map[bulwark.AppID]bulwark.Upstream{}}
	return r
}

// trust gives the edge certificates for the test's names.
func (r *rig) trust(ca *authority) {
	r.t.Helper()
	r.pool = x509.NewCertPool()
	r.pool.AddCert(ca.cert)
	if err := r.certs.PutCertificates(context.Background(), []bulwark.Certificate{ca.issue(r.t, "", testHosts...), ca.issue(r.t, "wild.example.org"),
		ca.issue(r.t, "", "lonely.example.org")}); err != nil {
		r.t.Fatal(err)
	}
	// Without the node's word nothing is let through.
	if err := errors.Join(r.certs.PutShields(context.Background(), nil), r.certs.PutPatches(context.Background(), nil)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stop() {
	if r.cancel == nil {
		return
	}
	r.control.Close()
	r.certs.Close()
	r.issued.Close()
	r.cancel()
	r.cancel = nil
	if err := <-r.done; err != nil {
		r.t.Error("Run:", err)
	}
}

// put sends the table with the next generation.
func (r *rig) put(force ...bulwark.AppID) {
	r.t.Helper()
	r.gen++
	r.table.Generation = r.gen
	if err := r.control.PutTable(context.Background(), r.table, force...); err != nil {
		r.t.Fatal(err)
	}
}

// serve adds an app for host, whose instances are at the addresses.
func (r *rig) serve(host bulwark.HostName, addrs ...string) bulwark.AppID {
	r.t.Helper()
	app := bulwark.NewAppID()
	up := bulwark.Upstream{Name: "shop"}
	for _, a := range addrs {
		up.Instances = append(up.Instances, r.instance(a))
	}
	r.table.Routes[host], r.table.Apps[app] = app, up
	r.put()
	return app
}

func (r *rig) instance(addr string) bulwark.InstanceID {
	id := bulwark.NewInstanceID()
	if addr != "" {
		r.dial.set(id, addr)
	}
	return id
}

// backend starts an HTTP server as an instance.
func backend(t testing.TB, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// client returns an HTTP client that reaches the edge whatever the host is.
func (r *rig) client(h2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2)
	tr := &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{RootCAs: r.pool}, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", r.addr)
		}, MaxIdleConnsPerHost: 100, ExpectContinueTimeout: 5 * time.Second}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// conn opens a bare TLS connection to the edge.
func (r *rig) conn(sni string, protos ...string) *tls.Conn {
	return r.connFor(r.t, sni, protos...)
}

func (r *rig) connFor(t testing.TB, sni string, protos ...string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.pool, ServerName: sni, NextProtos: protos})
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c
}

func get(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}
