package certchain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

type made struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (m made) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})
}

func (m made) keyPEM(t *testing.T) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(m.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func issue(t *testing.T, by *made, key crypto.Signer, change func(*x509.Certificate)) made {
	t.Helper()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true}
	change(c)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made{cert, key}
}

func TestParse(t *testing.T) {
	ca := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject, c.IsCA, c.KeyUsage = pkix.Name{CommonName: name}, true, x509.KeyUsageCertSign
		}
	}
	root := issue(t, nil, nil, ca("root"))
	middle := issue(t, &root, nil, ca("middle"))
	server := func(change func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = []string{"www.example.org", "*.many.example.org"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			if change != nil {
				change(c)
			}
		}
	}
	leaf := issue(t, &middle, nil, server(nil))
	whole := append(leaf.pem(), middle.pem()...)
	for name, chain := range map[string][]byte{"leaf": leaf.pem(), "two": whole, "three": append(whole[:len(whole):len(whole)], root.pem()...)} {
		all, err := Parse(chain, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := Pair(chain, leaf.keyPEM(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for host, want := range map[bulwark.HostName]bool{"www.example.org": true, "a.many.example.org": true, "*.many.example.org": true, "many.example.org": false,
			"*.example.org": false, "a.b.many.example.org": false, "example.org": false} {
			if Covers(all[0], host) != want {
				t.Errorf("%s: %v", host, !want)
			}
		}
		if n, err := bulwark.ParseConfigName(string(Name(all[0]))); err != nil || n != Name(leaf.cert) {
			t.Error(n, err)
		}
	}
	if err := Pair(leaf.pem(), middle.keyPEM(t)); bulwark.KindOf(err) != bulwark.KindInvalid || strings.Contains(err.Error(), "PRIVATE") {
		t.Error(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	pems := func(all ...made) (out []byte) {
		for _, m := range all {
			out = append(out, m.pem()...)
		}
		return out
	}
	for name, c := range map[string]struct {
		chain []byte
		say   string
	}{
		"nothing":           {nil, "no certificate"},
		"text":              {[]byte("hello"), "not PEM"},
		"a key with it":     {append(leaf.pem(), leaf.keyPEM(t)...), "a private key"},
		"text behind":       {append(leaf.pem(), "trailing"...), "not PEM"},
		"an authority":      {pems(middle, root), "is an authority's"},
		"the wrong way":     {pems(leaf, root, middle), "is not signed by the next"},
		"another's":         {pems(leaf, issue(t, nil, nil, ca("middle"))), "is not signed by the next"},
		"no names":          {pems(issue(t, &middle, nil, server(func(c *x509.Certificate) { c.DNSNames = nil }))), "names no host"},
		"for clients":       {pems(issue(t, &middle, nil, server(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }))), "not for servers"},
		"over":              {pems(issue(t, &middle, nil, server(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }))), "ended on 2026-06-01"},
		"to come":           {pems(issue(t, &middle, nil, server(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }))), "begins on"},
		"a short key":       {pems(issue(t, &middle, small, server(nil))), "1024 bits"},
		"another curve":     {pems(issue(t, &middle, p521, server(nil))), "curve"},
		"another kind":      {pems(issue(t, &middle, ed, server(nil))), "Ed25519"},
		"too many":          {pems(leaf, leaf, leaf, leaf, leaf, leaf, leaf, leaf, leaf, leaf, leaf), "more than 10"},
		"too long":          {[]byte(strings.Repeat(" ", MaxBytes+1)), "bytes"},
		"not a certificate": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "cannot be read"},
		"its authority over": {pems(issue(t, func() *made {
			m := issue(t, &root, nil, func(c *x509.Certificate) { ca("old")(c); c.NotAfter = now.Add(-time.Hour / 2) })
			return &m
		}(), nil, server(nil))), ""},
	} {
		_, err := Parse(c.chain, now)
		if c.say == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err) // whom it leads to is not among what was given
			}
			continue
		}
		if k := bulwark.KindOf(err); k != bulwark.KindInvalid && k != bulwark.KindTooLarge || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, chain []byte) {
		if all, err := Parse(chain, now); err == nil {
			Covers(all[0], "www.example.org")
			if _, err := bulwark.ParseConfigName(string(Name(all[0]))); err != nil {
				t.Fatal(err)
			}
		}
	})
}
