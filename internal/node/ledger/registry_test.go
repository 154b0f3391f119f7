package ledger_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// What a host opens is what its owner signed for, each form once, and a second word about it takes the first one's place.
func TestRegistries(t *testing.T) {
	b := open(t)
	p := b.enrol()
	ca, leaf := certificate(t, true), certificate(t, false)
	b.must(p, statement.KindRegistryAllow, "", statement.Registry{Host: "registry.internal:5000", CA: ca + ca})
	b.must(p, statement.KindRegistryAllow, "", statement.Registry{Host: "*.cdn.example.org", Packages: true})
	b.must(p, statement.KindRegistryAllow, "", statement.Registry{Host: "10.1.2.3:5000"})
	for host, body := range map[string]statement.Registry{
		"two spellings":             {Host: "Registry.Internal:5000"},
		"a port that goes unsaid":   {Host: "registry.example.org:443"},
		"many hosts":                {Host: "*.example.org"},
		"a range":                   {Host: "10.0.0.0/8", Packages: true},
		"the builder itself":        {Host: "localhost:5000"},
		"the metadata service":      {Host: "169.254.169.254", Packages: true},
		"no host":                   {},
		"an authority for packages": {Host: "npm.internal", Packages: true, CA: ca},
		"no authority":              {Host: "a.example", CA: leaf},
		"no certificate":            {Host: "a.example", CA: "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"},
		"something behind":          {Host: "a.example", CA: ca + "more"},
		"no PEM":                    {Host: "a.example", CA: "x"},
	} {
		t.Run(host, func(t *testing.T) { b.refused(p, bulwark.KindInvalid, statement.KindRegistryAllow, "", body) })
	}
	b.refused(p, bulwark.KindTooLarge, statement.KindRegistryAllow, "", statement.Registry{Host: "a.example", CA: strings.Repeat(ca, 200)})
	if got, want := b.registries(), "*.cdn.example.org packages; 10.1.2.3/32:5000; registry.internal:5000 own CA"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
	b.must(p, statement.KindRegistryAllow, "", statement.Registry{Host: "registry.internal:5000"})
	b.must(p, statement.KindRegistryRemove, "", statement.RegistryRemove{Host: "*.cdn.example.org"})
	b.refused(p, bulwark.KindNotFound, statement.KindRegistryRemove, "", statement.RegistryRemove{Host: "*.cdn.example.org"})
	b.refused(p, bulwark.KindNotFound, statement.KindRegistryRemove, "", statement.RegistryRemove{Host: "registry.internal"})
	if got, want := b.registries(), "10.1.2.3/32:5000; registry.internal:5000"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
	for i := range 98 {
		b.must(p, statement.KindRegistryAllow, "", statement.Registry{Host: fmt.Sprintf("r%d.example.org", i)})
	}
	b.refused(p, bulwark.KindTooLarge, statement.KindRegistryAllow, "", statement.Registry{Host: "one.too.many.example.org"})
	b.must(p, statement.KindRegistryAllow, "", statement.Registry{Host: "r7.example.org", CA: ca}) // no more than there were
}

func (b *book) registries() string {
	b.t.Helper()
	all, err := b.Registries(b.ctx())
	ok(b.t, err)
	var out []string
	for _, r := range all {
		s := r.To.String()
		if r.Packages {
			s += " packages"
		}
		if r.CA != "" {
			s += " own CA"
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

func certificate(t *testing.T, authority bool) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: authority, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	ok(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// The list of keys has those that still open something.
func TestKeys(t *testing.T) {
	b := open(t)
	p, q := b.enrol(), b.enrol()
	extra := newSSH(t)
	b.must(p, statement.KindKeyAdd, "", b.addSSH(p, extra))
	b.must(p, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(q.device)})
	all, err := b.Keys(b.ctx())
	ok(t, err)
	var got []string
	for _, k := range all {
		got = append(got, fmt.Sprintf("%s %v %v", k.Kind, k.Person == p.id, k.Fingerprint == fingerprint(p.device)))
	}
	if want := "[device true true ssh true false ssh false false ssh true false]"; fmt.Sprint(got) != want {
		t.Errorf("%v; want %s", got, want)
	}
}
