package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// client issues a client's certificate.
func (a *authority) client(t testing.TB, name string, until time.Time) tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pem() bulwark.ClientCA {
	return bulwark.ClientCA(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// showing is a client that shows a certificate.
func (r *rig) showing(h2 bool, certs ...tls.Certificate) *http.Client {
	c := r.client(h2)
	c.Transport.(*http.Transport).TLSClientConfig.Certificates = certs
	return c
}

// An app that asks for certificates lets in who shows one of its authority's, whatever they try.
func TestClientCertificates(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		echo := func(w http.ResponseWriter, q *http.Request) {
			io.WriteString(w, strings.Join(q.Header["Client-Cert"], "|")+"|"+strings.Join(q.Header["X-Ssl-Client-Verify"], ""))
		}
		app := r.serve("a.example.org", backend(t, echo))
		r.serve("b.example.org", backend(t, echo))
		early := r.client(h2) // has a connection from before
		get(t, early, "https://a.example.org/")
		mine, other := newAuthority(t), newAuthority(t)
		r.shield(app, bulwark.Shield{ClientCA: mine.pem()})

		ann := mine.client(t, "ann", time.Now().Add(time.Hour))
		req, _ := http.NewRequest("GET", "https://a.example.org/", nil)
		req.Header.Set("Client-Cert", ":bWFsbG9yeQ==:")
		req.Header.Set("X-Ssl-Client-Verify", "SUCCESS")
		resp, err := r.showing(h2, ann).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if want := ":" + base64.StdEncoding.EncodeToString(ann.Certificate[0]) + ":|"; resp.StatusCode != 200 || string(b) != want {
			t.Errorf("%s %s, want %s", resp.Status, b, want)
		}
		if resp, body := get(t, r.client(h2), "https://a.example.org/"); resp.StatusCode != 403 || !strings.Contains(body, "certificate") {
			t.Error("without a certificate:", resp.Status, body)
		}
		r.stats(app, bulwark.RefusedCertificate, 1)
		if resp, _ := get(t, early, "https://a.example.org/"); resp.StatusCode != 421 {
			t.Error("by a connection from before:", resp.Status)
		}
		for name, c := range map[string]tls.Certificate{"another authority's": other.client(t, "ann", time.Now().Add(time.Hour)), "one that ended": mine.client(t, "ann", time.Now().Add(-time.Minute))} {
			if resp, err := r.showing(h2, c).Get("https://a.example.org/"); err == nil {
				t.Error(name, "is taken:", resp.Status)
			}
		}
		// A certificate for servers is none for clients.
		server := mine.issue(t, "", "a.example.org")
		pair, _ := tls.X509KeyPair(server.Chain, server.Key)
		if resp, err := r.showing(h2, pair).Get("https://a.example.org/"); err == nil {
			t.Error("a server's is taken:", resp.Status)
		}
		// The other app asks for none, and learns of none.
		if _, body := get(t, r.showing(h2, ann), "https://b.example.org/"); body != "|" {
			t.Error("b:", body)
		}
		// Allowed networks are those that no limit is about; a certificate they need.
		r.shield(app, bulwark.Shield{ClientCA: mine.pem(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		if resp, _ := get(t, r.client(h2), "https://a.example.org/"); resp.StatusCode != 403 {
			t.Error("from an allowed network, without:", resp.Status)
		}
		// Another authority's turn: the old one's are out, by connections that stand, too.
		c := r.showing(h2, ann)
		get(t, c, "https://a.example.org/")
		r.shield(app, bulwark.Shield{ClientCA: other.pem(), TLS: bulwark.TLSModern})
		if resp, _ := get(t, c, "https://a.example.org/"); resp.StatusCode != 421 {
			t.Error("of the authority before:", resp.Status)
		}
		if resp, _ := get(t, r.showing(h2, other.client(t, "ann", time.Now().Add(time.Hour))), "https://a.example.org/"); resp.StatusCode != 200 {
			t.Error("of the new one:", resp.Status)
		}
	})
}

// A browser uses a connection for all names of its certificate: one that was made for the app next door, which asks for no certificate or for one of its own
// authority's, opens no door here.
func TestHoleClientCertificateOfTheAppNextDoor(t *testing.T) {
	r := newRig(t, nil)
	ok := func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, q.Host) }
	a, b := r.serve("a.example.org", backend(t, ok)), r.serve("b.example.org", backend(t, ok))
	mine, theirs := newAuthority(t), newAuthority(t)
	shields := []bulwark.Shielded{{App: a, Hosts: testHosts[:1], Shield: bulwark.Shield{ClientCA: mine.pem()}}}
	if err := r.certs.PutShields(t.Context(), shields); err != nil {
		t.Fatal(err)
	}
	// ask sends a request for host over a connection that was made for sni.
	ask := func(sni, host string, certs ...tls.Certificate) int {
		c := r.showing(false, certs...)
		c.Transport.(*http.Transport).TLSClientConfig.ServerName = sni
		req, _ := http.NewRequest("GET", "https://"+sni+"/", nil)
		req.Host = host
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := ask("b.example.org", "a.example.org"); got != 421 {
		t.Error("by the open app's connection:", got)
	}
	if got := ask("b.example.org", "a.example.org", mine.client(t, "ann", time.Now().Add(time.Hour))); got != 421 {
		t.Error("nobody asked for the certificate there, so nobody saw it:", got)
	}
	shields = append(shields, bulwark.Shielded{App: b, Hosts: testHosts[1:2], Shield: bulwark.Shield{ClientCA: theirs.pem()}})
	if err := r.certs.PutShields(t.Context(), shields); err != nil {
		t.Fatal(err)
	}
	eve := theirs.client(t, "eve", time.Now().Add(time.Hour))
	if got := ask("b.example.org", "b.example.org", eve); got != 200 {
		t.Fatal("b:", got)
	}
	if got := ask("b.example.org", "a.example.org", eve); got != 421 {
		t.Error("by the certificate of the app next door:", got)
	}
}

// elsewhere has connections look as if they came from outside the machine.
type elsewhere struct{ net.Listener }

func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return elsewhereConn{c}, nil
}

type elsewhereConn struct{ net.Conn }

func (elsewhereConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 4321}
}

// An origin that is locked by its upstreams' certificate speaks to nobody else, whatever name they ask for; to the machine itself it does.
func TestLockedOrigin(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		ca, other := newAuthority(t), newAuthority(t)
		echo := func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") }
		r := newRig(t, func(c *Config) {
			c.HTTPS = elsewhere{c.HTTPS}
			c.Upstreams = Upstreams{CA: ca.pem()}
		})
		app := r.serve("a.example.org", backend(t, echo))
		modern := r.serve("b.example.org", backend(t, echo))
		r.shield(modern, bulwark.Shield{TLS: bulwark.TLSModern})
		own := newAuthority(t)
		upstream := ca.client(t, "upstream", time.Now().Add(time.Hour))
		for _, host := range []string{"a.example.org", "b.example.org"} {
			if _, b := get(t, r.showing(h2, upstream), "https://"+host+"/"); b != "ok" {
				t.Error(host, b)
			}
			for name, c := range map[string]*http.Client{"nobody": r.client(h2), "somebody else": r.showing(h2, other.client(t, "x", time.Now().Add(time.Hour))),
				"who was an upstream": r.showing(h2, ca.client(t, "old", time.Now().Add(-time.Minute)))} {
				if resp, err := c.Get("https://" + host + "/"); err == nil {
					t.Error(host, "answers", name, resp.Status)
				}
			}
		}
		// Not even a name that no app has tells anything.
		if c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, ServerName: "nobody.example.org"}); err == nil {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || !strings.Contains(err.Error(), "certificate required") {
				t.Error("a handshake without a certificate is done:", n, err)
			}
			c.Close()
		}
		// What an app asks its clients for ends at the upstream.
		r.shield(app, bulwark.Shield{ClientCA: own.pem()})
		if resp, _ := get(t, r.showing(h2, upstream), "https://a.example.org/"); resp.StatusCode == 200 {
			t.Error("an upstream's certificate is taken for a client's")
		}
	})
	ca := newAuthority(t)
	r := newRig(t, func(c *Config) { c.Upstreams = Upstreams{CA: ca.pem()} })
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") }))
	if _, b := get(t, r.client(true), "https://a.example.org/"); b != "ok" {
		t.Error("the machine itself is not let in:", b)
	}
}
