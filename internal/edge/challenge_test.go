package edge

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

// plainGet asks on the port for http, as an authority does.
func (r *rig) plainGet(method, host, path string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.plain+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = host
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(b)
}

// An authority is answered by what the certs process said, on every host, also one that has no app; an app never is.
func TestChallenges(t *testing.T) {
	r := newRig(t, nil)
	asked := make(chan string, 100)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { asked <- q.URL.Path; fmt.Fprint(w, "mine") }))
	put := func(c bulwark.Challenges) {
		t.Helper()
		if err := r.issued.PutChallenges(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	put(bulwark.Challenges{HTTP: []bulwark.HTTPChallenge{{Host: "a.example.org", Token: "tok", Says: "tok.thumb"}, {Host: "new.example.org", Token: "other", Says: "other.thumb"}}})
	for _, c := range []struct {
		host, path, want string
		status           int
	}{
		{"a.example.org", challengePath + "tok", "tok.thumb", 200},
		{"A.Example.ORG:80", challengePath + "tok", "tok.thumb", 200},
		{"new.example.org", challengePath + "other", "other.thumb", 200},
		{"a.example.org", challengePath + "other", "", 404},
		{"new.example.org", challengePath + "tok", "", 404},
		{"a.example.org", challengePath, "", 404},
		{"a.example.org", challengePath + "tok?x", "", 404},
		{"a.example.org", challengePath + "tok/", "", 404},
	} {
		res, body := r.plainGet("GET", c.host, c.path)
		if res.StatusCode != c.status || c.want != "" && body != c.want || res.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s%s: %d %q", c.host, c.path, res.StatusCode, body)
		}
	}
	if res, body := r.plainGet("HEAD", "a.example.org", challengePath+"tok"); res.StatusCode != 200 || body != "" {
		t.Error(res.Status, body)
	}
	if res, _ := r.plainGet("POST", "a.example.org", challengePath+"tok"); res.StatusCode != 404 {
		t.Error(res.Status)
	}
	// The app gets no request for the path, however it is asked for.
	for _, path := range []string{challengePath + "tok", challengePath + "x?y", challengePath} {
		if res, body := get(t, r.client(true), "https://a.example.org"+path); res.StatusCode != 404 || strings.Contains(body, "mine") {
			t.Errorf("%s: %d %q", path, res.StatusCode, body)
		}
	}
	select {
	case path := <-asked:
		t.Errorf("the app was asked for %s", path)
	default:
	}
	// The next set replaces it.
	put(bulwark.Challenges{})
	if res, _ := r.plainGet("GET", "a.example.org", challengePath+"tok"); res.StatusCode != 404 {
		t.Error("a challenge that is over is answered")
	}
	if err := r.issued.PutChallenges(t.Context(), bulwark.Challenges{HTTP: []bulwark.HTTPChallenge{{Host: "a.example.org", Token: "a/b"}}}); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Error(err)
	}
	// The node's socket takes none: who makes certificates of one kind does not answer for the other.
	if err := r.certs.PutChallenges(t.Context(), bulwark.Challenges{}); err == nil {
		t.Error("challenges are taken from another")
	}
}

// An authority's handshake gets the certificate that was made for it, and nobody else's does.
func TestChallengeInHandshake(t *testing.T) {
	r := newRig(t, nil)
	ca := newAuthority(t)
	c := ca.issue(t, "", "a.example.org")
	if err := r.issued.PutChallenges(t.Context(), bulwark.Challenges{ALPN: []bulwark.Certificate{c}}); err != nil {
		t.Fatal(err)
	}
	served := func(sni string, protos ...string) (string, error) {
		conn, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, ServerName: sni, NextProtos: protos})
		if err != nil {
			return "", err
		}
		defer conn.Close()
		s := conn.ConnectionState()
		return fmt.Sprintf("%x %s", sha256.Sum256(s.PeerCertificates[0].Raw), s.NegotiatedProtocol), nil
	}
	want, err := tls.X509KeyPair(c.Chain, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	theirs := fmt.Sprintf("%x", sha256.Sum256(want.Leaf.Raw))
	if got, err := served("a.example.org", protocolACME); err != nil || got != theirs+" "+protocolACME {
		t.Errorf("an authority gets %s, %v", got, err)
	}
	for _, protos := range [][]string{nil, {"h2", "http/1.1"}, {"h2", protocolACME}} {
		if got, err := served("a.example.org", protos...); err != nil || strings.HasPrefix(got, theirs) {
			t.Errorf("somebody who offers %q gets %s, %v", protos, got, err)
		}
	}
	if got, err := served("b.example.org", protocolACME); err == nil {
		t.Errorf("a name without a challenge gets %s", got)
	}
}

// What an authority issued goes before what the node made because there was none, stays over a restart, and gives way when it is taken back. The
// installation's own names are the node's: whoever owns the certs process has no say about them.
func TestIssuedFirst(t *testing.T) {
	r := newRig(t, nil)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	public := newAuthority(t)
	c := public.issue(t, "", "a.example.org")
	if err := r.issued.PutCertificates(t.Context(), []bulwark.Certificate{c}); err != nil {
		t.Fatal(err)
	}
	verify := func(when string) {
		t.Helper()
		pool := x509.NewCertPool()
		pool.AddCert(public.cert)
		conn, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: pool, ServerName: "a.example.org"})
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		conn.Close()
	}
	if conn, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.pool, ServerName: "a.example.org"}); err != nil {
		t.Fatalf("a name of the node's own: %v", err)
	} else {
		conn.Close()
	}
	renew := func() {
		ca := newAuthority(t)
		c := ca.issue(t, "", "a.example.org")
		c.Fallback = true
		if err := r.certs.PutCertificates(t.Context(), []bulwark.Certificate{c}); err != nil {
			t.Fatal(err)
		}
	}
	renew()
	verify("at once")
	renew()
	verify("after the node's renewal")
	stop := r.successor()
	r.stop()
	verify("after a restart")
	defer stop()
	if err := r.issued.PutCertificates(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(public.cert)
	if conn, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: pool, ServerName: "a.example.org"}); err == nil {
		conn.Close()
		t.Error("what was taken back is served")
	}
}

// What does not change is not made anew, so a change among thousands costs little.
func TestCertificatesAreKept(t *testing.T) {
	ca := newAuthority(t)
	list := []bulwark.Certificate{ca.issue(t, "", "a.example.org"), ca.issue(t, "wild.example.org")}
	first, err := newCertSet(list, &certSet{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := newCertSet(append(slices.Clone(list), ca.issue(t, "", "b.example.org")), first)
	if err != nil {
		t.Fatal(err)
	}
	if first.exact["a.example.org"] != second.exact["a.example.org"] || second.exact["b.example.org"] == nil || second.wildcards["wild.example.org"] == nil {
		t.Error("a certificate was made anew, or is missing")
	}
	again := ca.issue(t, "", "a.example.org") // the same name, another certificate
	third, err := newCertSet([]bulwark.Certificate{again}, second)
	if err != nil {
		t.Fatal(err)
	}
	if third.exact["a.example.org"] == second.exact["a.example.org"] || third.exact["b.example.org"] != nil {
		t.Error("an old certificate stayed")
	}
}
