package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func testKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return k
}

// Who trusts the installation's authority trusts it for its own domain and for this machine, and for nothing else.
func TestAuthorityIsConstrained(t *testing.T) {
	dir := t.TempDir()
	a, err := openAuthority(dir, "apps.example.org")
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	leaf := func(c bulwark.Certificate) *x509.Certificate {
		t.Helper()
		pair, err := tls.X509KeyPair(c.Chain, c.Key)
		must(t, err)
		return pair.Leaf
	}
	evil, err := a.issue("", "", []string{"www.bank.example"}, nil) // whoever stole the key
	must(t, err)
	deep, err := a.issue("", "", []string{"shop.apps.example.org.evil.example"}, nil)
	must(t, err)
	for name, c := range map[string]struct {
		cert bulwark.Certificate
		host string
		ok   bool
	}{
		"an app":                    {a.leaf, "shop.apps.example.org", true},
		"the domain itself":         {a.leaf, "apps.example.org", true},
		"two labels below":          {a.leaf, "a.b.apps.example.org", false},
		"another domain":            {a.leaf, "shop.example.org", false},
		"the API on this machine":   {*a.api.Load(), "localhost", true},
		"the API by address":        {*a.api.Load(), "127.0.0.1", true},
		"an app, by the API's":      {*a.api.Load(), "shop.apps.example.org", false},
		"a bank, by the stolen key": {evil, "www.bank.example", false},
		"a domain that looks alike": {deep, "shop.apps.example.org.evil.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := leaf(c.cert).Verify(x509.VerifyOptions{Roots: roots, DNSName: c.host})
			if (err == nil) != c.ok {
				t.Fatal(err)
			}
		})
	}
	again, err := openAuthority(dir, "apps.example.org")
	must(t, err)
	if !again.cert.Equal(a.cert) {
		t.Fatal("the authority is another after a restart")
	}
}

// Certificates are made anew when the clock says that they are not good, whichever way it was set.
func TestAuthorityFollowsTheClock(t *testing.T) {
	a, err := openAuthority(t.TempDir(), "apps.example.org")
	must(t, err)
	pair, err := tls.X509KeyPair(a.leaf.Chain, a.leaf.Key)
	must(t, err)
	if year := time.Now().AddDate(-1, 0, 0); a.cert.NotBefore.After(year) {
		t.Errorf("the root begins at %s, so no certificate of a year ago is good", a.cert.NotBefore)
	}
	for by, want := range map[time.Duration]bool{0: false, 24 * time.Hour: false, 365 * 24 * time.Hour: true, 31 * 24 * time.Hour: true,
		-time.Minute: false, -40 * time.Minute: true, -365 * 24 * time.Hour: true} {
		now := time.Now().Add(by)
		if a.stale(now) != want {
			t.Errorf("after the clock was set by %s, stale is %v", by, !want)
		}
		if !want && (now.Before(pair.Leaf.NotBefore) || now.After(pair.Leaf.NotAfter)) {
			t.Errorf("after the clock was set by %s, a certificate is kept that is not good", by)
		}
	}
}
