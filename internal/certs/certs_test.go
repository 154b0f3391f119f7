package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/acmetest"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/edge"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/node/certkeep"
)

// bed is an authority, an edge, the node's side, and this process, on the loopback.
type bed struct {
	t          *testing.T
	dir        string
	ca         *acmetest.CA
	keep       *certkeep.Keeper
	edge       *edgecontrol.Client
	https      string
	plain      uint16
	log        *lockedLog
	served     *http.Server
	pace       Pace
	challenges []string

	stop func() // this process; nil if it does not run
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func tcp(t *testing.T) net.Listener { return must(net.Listen("tcp", "127.0.0.1:0"))(t) }

func unixListener(t *testing.T, path, kind string) *net.UnixListener {
	return must(net.ListenUnix(kind, &net.UnixAddr{Name: path, Net: kind}))(t)
}

func newBed(t *testing.T, change func(*acmetest.Config)) *bed {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir(), log: &lockedLog{}, pace: Pace{First: 200 * time.Millisecond, Last: 2 * time.Second, Limited: time.Second,
		Renew: 300 * time.Millisecond, Tell: 20 * time.Millisecond}}
	https, plain := tcp(t), tcp(t)
	b.https = https.Addr().String()
	c := acmetest.Config{Dir: b.dir, HTTPPort: plain.Addr().(*net.TCPAddr).AddrPort().Port(), TLSPort: https.Addr().(*net.TCPAddr).AddrPort().Port()}
	if change != nil {
		change(&c)
	}
	b.plain = c.HTTPPort
	b.ca = must(acmetest.Start(c))(t)
	t.Cleanup(func() { b.ca.Stop() })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := edge.Config{HTTPS: https, HTTP: plain, Control: unixListener(t, filepath.Join(b.dir, "control"), "unix"), Certs: unixListener(t, filepath.Join(b.dir, "certs"), "unix"),
		Issued: unixListener(t, filepath.Join(b.dir, "issued"), "unix"), Dial: unixListener(t, filepath.Join(b.dir, "dial"), "unixpacket"), Grace: time.Second}
	go func() { done <- edge.Run(ctx, cfg) }()
	t.Cleanup(func() { cancel(); <-done })
	b.edge = edgecontrol.New(filepath.Join(b.dir, "issued"))
	b.keep = must(certkeep.Open(t.Context(), filepath.Join(b.dir, "certs.db"), bytes.Repeat([]byte{7}, 32)))(t)
	t.Cleanup(func() { b.keep.Close() })
	b.served = &http.Server{Handler: b.keep.Handler()}
	go b.served.Serve(unixListener(t, filepath.Join(b.dir, "node"), "unix"))
	t.Cleanup(func() { b.served.Close() })
	t.Cleanup(func() {
		if b.stop != nil {
			b.stop()
		}
		if t.Failed() {
			pebble, _ := os.ReadFile(b.ca.Log)
			t.Logf("--- certs\n%s--- pebble\n%s", b.log, pebble[max(0, len(pebble)-6000):])
		}
	})
	return b
}

// run starts this process.
func (b *bed) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Node: filepath.Join(b.dir, "node"), Edge: b.edge, Log: slog.New(slog.NewTextHandler(b.log, nil)), Pace: b.pace, Challenges: b.challenges}, func() {})
	}()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		b.stop = nil
	}
}

func (b *bed) order(hosts ...bulwark.HostName) {
	b.t.Helper()
	b.orderFrom([]certsapi.Authority{{Directory: b.ca.Directory, Roots: b.ca.Roots}}, hosts...)
}

func (b *bed) orderFrom(from []certsapi.Authority, hosts ...bulwark.HostName) {
	b.t.Helper()
	if err := b.keep.Order(certsapi.Orders{Hosts: hosts, Authorities: from, Email: "ops@example.org"}); err != nil {
		b.t.Fatal(err)
	}
}

// shown is the certificate that the edge shows for a name, if it is one of the authority's.
func (b *bed) shown(host bulwark.HostName) (*x509.Certificate, error) {
	root, err := b.ca.Root()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", b.https, &tls.Config{RootCAs: roots, ServerName: string(host)})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

// until waits until something holds.
func (b *bed) until(what string, within time.Duration, f func() error) {
	b.t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	b.t.Fatalf("%s: %v", what, err)
}

func (b *bed) serves(host bulwark.HostName) func() error {
	return func() error { _, err := b.shown(host); return err }
}

func (b *bed) status(host bulwark.HostName) (certsapi.Status, error) {
	for _, s := range b.keep.Status() {
		if s.Host == host {
			return s, nil
		}
	}
	return certsapi.Status{}, errors.New("nothing is said of " + string(host))
}

// A name that is ordered gets a certificate and is served, by either challenge; one that is ordered no more is served no more.
func TestIssue(t *testing.T) {
	for challenge, seen := range map[string]string{"http-01": "validate w/ HTTP", "tls-alpn-01": ""} {
		t.Run(challenge, func(t *testing.T) { issue(t, challenge, seen) })
	}
}

func issue(t *testing.T, challenge, seen string) {
	b := newBed(t, nil)
	b.challenges = []string{challenge}
	b.run()
	var hosts []bulwark.HostName
	for i := range 6 {
		hosts = append(hosts, bulwark.HostName(fmt.Sprintf("h%d.example.org", i)))
	}
	b.order(append(slices.Clone(hosts), "app.bulwark.localhost")...)
	for _, h := range hosts {
		b.until(string(h), time.Minute, b.serves(h))
	}
	b.until("status", 10*time.Second, func() error {
		s, err := b.status(hosts[0])
		if err != nil || s.Stage != certsapi.Issued || !strings.Contains(s.Issuer, "Pebble") || s.RenewAt.Before(time.Now()) || s.NotAfter.Before(s.RenewAt) {
			return fmt.Errorf("%+v %w", s, err)
		}
		s, err = b.status("app.bulwark.localhost")
		if err != nil || s.Stage != certsapi.Foreign {
			return fmt.Errorf("%+v %w", s, err)
		}
		return nil
	})
	log := must(os.ReadFile(b.ca.Log))(t)
	if got := bytes.Contains(log, []byte("validate w/ HTTP")); got != (seen != "") {
		t.Errorf("proven over HTTP: %t", got)
	}
	b.order(hosts[1:]...)
	b.until("the first is gone", 10*time.Second, func() error {
		if _, err := b.shown(hosts[0]); err == nil {
			return errors.New("it is served")
		}
		return nil
	})
	if _, err := b.shown(hosts[1]); err != nil {
		t.Error(err)
	}
}

// After a restart nothing is asked for again: certificates and account are what they were.
func TestRestart(t *testing.T) {
	b := newBed(t, nil)
	b.run()
	b.order("a.example.org")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	first := must(b.shown("a.example.org"))(t)
	b.stop()
	if err := b.edge.PutCertificates(t.Context(), nil); err != nil { // the edge lost them
		t.Fatal(err)
	}
	b.run()
	b.until("served again", 10*time.Second, b.serves("a.example.org"))
	if again := must(b.shown("a.example.org"))(t); !again.Equal(first) {
		t.Error("it has another certificate")
	}
	b.order("a.example.org", "b.example.org")
	b.until("another", time.Minute, b.serves("b.example.org"))
	log := must(os.ReadFile(b.ca.Log))(t)
	if n := bytes.Count(log, []byte("accounts in memory")); n != 1 {
		t.Errorf("%d accounts were made", n)
	}
}

// An authority that lost everything is told anew, with the same key, and issues again.
func TestAuthorityForgets(t *testing.T) {
	b := newBed(t, nil)
	b.run()
	b.order("a.example.org")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	if err := b.ca.Restart(); err != nil {
		t.Fatal(err)
	}
	b.order("a.example.org", "b.example.org")
	b.until("issued by the one that knows nobody", time.Minute, b.serves("b.example.org"))
}

// Certificates are renewed before they end.
func TestRenew(t *testing.T) {
	b := newBed(t, func(c *acmetest.Config) { c.Validity = 15 * time.Second })
	b.run()
	b.order("a.example.org")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	first := must(b.shown("a.example.org"))(t)
	b.until("renewed", 30*time.Second, func() error {
		c, err := b.shown("a.example.org")
		if err == nil && c.Equal(first) {
			err = errors.New("it is the same")
		}
		return err
	})
	if !time.Now().Before(first.NotAfter) {
		t.Error("it was renewed after its end")
	}
}

// The first authority that issues is enough; an account may have to be bound; a name that none issues for says why, and is in no other's way.
func TestAuthorities(t *testing.T) {
	const id, mac = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	b := newBed(t, func(c *acmetest.Config) {
		c.EAB = map[string]string{id: mac}
		c.Blocked = []string{"blocked.example.org"}
	})
	b.run()
	away := tcp(t)
	at := fmt.Sprintf("https://%s/dir", away.Addr())
	away.Close()
	b.orderFrom([]certsapi.Authority{{Directory: at}, {Directory: b.ca.Directory, Roots: b.ca.Roots, EAB: &certsapi.EAB{KeyID: id, MACKey: mac}}},
		"blocked.example.org", "a.example.org")
	b.until("issued by the second", time.Minute, b.serves("a.example.org"))
	b.until("why not", time.Minute, func() error {
		s, err := b.status("blocked.example.org")
		if err == nil && (!strings.Contains(s.Error, "rejectedIdentifier") || s.Next.IsZero() || s.Failures == 0) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	// Without the binding there is no account, and it is said why.
	b.orderFrom([]certsapi.Authority{{Directory: b.ca.Directory + "?other", Roots: b.ca.Roots}}, "c.example.org")
	b.until("refused", time.Minute, func() error {
		s, err := b.status("c.example.org")
		if err == nil && !strings.Contains(s.Error, "externalAccountRequired") {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	if log := b.log.String(); strings.Contains(log, mac) || strings.Contains(log, "PRIVATE") {
		t.Error("a secret is in the log")
	}
}

// With other authorities, or none, what those before issued is served on, until it is renewed.
func TestOtherAuthorities(t *testing.T) {
	b := newBed(t, nil)
	b.run()
	b.order("a.example.org")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	first := must(b.shown("a.example.org"))(t)
	dir := t.TempDir()
	_, https, err := net.SplitHostPort(b.https)
	if err != nil {
		t.Fatal(err)
	}
	port := must(strconv.ParseUint(https, 10, 16))(t)
	second := must(acmetest.Start(acmetest.Config{Dir: dir, HTTPPort: b.plain, TLSPort: uint16(port)}))(t)
	defer second.Stop()
	gone := make(chan error, 1)
	watch, stop := context.WithCancel(t.Context())
	go func() { // it is never without the first one's
		defer close(gone)
		for watch.Err() == nil {
			if c, err := b.shown("a.example.org"); err != nil || !c.Equal(first) {
				gone <- fmt.Errorf("%v", err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	b.orderFrom([]certsapi.Authority{{Directory: second.Directory, Roots: second.Roots}}, "a.example.org", "b.example.org")
	b.until("the second issues", time.Minute, func() error {
		if !b.certified("b.example.org") {
			return errors.New("it does not")
		}
		return nil
	})
	b.orderFrom(nil, "a.example.org", "b.example.org", "c.example.org")
	b.until("none is asked", 10*time.Second, func() error {
		s, err := b.status("c.example.org")
		if err == nil && s.Stage != certsapi.Foreign {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	if s, err := b.status("a.example.org"); err != nil || s.Stage != certsapi.Issued {
		t.Errorf("%+v %v", s, err)
	}
	if !b.certified("b.example.org") {
		t.Error("what the second issued is not served any more")
	}
	stop()
	if err := <-gone; err != nil {
		t.Errorf("the certificate of the first was away: %v", err)
	}
}

// Who was killed between keeping a certificate and its key left a pair that does not fit: another takes its place.
func TestHalfKept(t *testing.T) {
	b := newBed(t, nil)
	b.run()
	b.order("a.example.org", "b.example.org")
	b.until("issued", time.Minute, b.serves("a.example.org"))
	b.until("issued", time.Minute, b.serves("b.example.org"))
	first := must(b.shown("a.example.org"))(t)
	b.stop()
	n := newNode(filepath.Join(b.dir, "node"))
	var kept []string
	for _, name := range must(n.List(t.Context(), certificatesAt, true))(t) {
		if strings.HasSuffix(name, ".key") {
			kept = append(kept, name)
		}
	}
	if len(kept) != 2 {
		t.Fatalf("%q", kept)
	}
	other := must(n.Load(t.Context(), kept[1]))(t)
	if err := n.Store(t.Context(), kept[0], other); err != nil {
		t.Fatal(err)
	}
	if err := b.edge.PutCertificates(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	b.run()
	b.until("issued again", time.Minute, b.serves("a.example.org"))
	b.until("the other is served", 10*time.Second, b.serves("b.example.org"))
	if again := must(b.shown("a.example.org"))(t); again.Equal(first) {
		t.Error("a certificate whose key is gone is served")
	}
}

// certmagic asks how a certificate is managed while it holds its cache, which is looked at below the manager's lock: the answer must not wait
// for that lock, or both wait for ever.
func TestNoDeadlock(t *testing.T) {
	b := newBed(t, nil)
	m := &manager{c: Config{Edge: b.edge, Log: slog.New(slog.NewTextHandler(b.log, nil)), Pace: DefaultPace()}, node: newNode(filepath.Join(b.dir, "node")),
		slots: make(chan struct{}, atOnce), changed: make(chan struct{}, 1), hosts: map[bulwark.HostName]*host{}, why: map[string]error{}}
	m.answers = newAnswers(b.edge, m.c.Log)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	err := m.follow(ctx, &certsapi.Orders{}, certsapi.Orders{Version: "1", Hosts: []bulwark.HostName{"a.example.org"},
		Authorities: []certsapi.Authority{{Directory: b.ca.Directory, Roots: b.ca.Roots}}})
	if err != nil {
		t.Fatal(err)
	}
	b.until("issued", time.Minute, func() error {
		if list, _, _ := m.picture(); len(list) != 1 {
			return errors.New("it is not")
		}
		return nil
	})
	done := make(chan error, 1)
	m.mu.Lock()
	go func() { done <- m.cache.RenewManagedCertificates(ctx) }()
	select {
	case err = <-done:
	case <-time.After(10 * time.Second):
		err = errors.New("it waits for the manager")
	}
	m.mu.Unlock()
	if err != nil {
		t.Error(err)
	}
}

// A pattern takes records of the DNS; where none can be set that is said, and nobody is asked for it.
func TestPatternWithoutRecords(t *testing.T) {
	b := newBed(t, nil)
	b.run()
	b.order("*.example.org", "www.example.org")
	b.until("a name", time.Minute, b.serves("www.example.org"))
	b.until("why not", 10*time.Second, func() error {
		s, err := b.status("*.example.org")
		if err == nil && (!strings.Contains(s.Error, "--acme-dns") || s.Stage != certsapi.Waiting || s.Failures > 0) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	if _, err := b.shown("other.example.org"); err == nil {
		t.Error("it is served")
	}
}
