package ledger_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certchain"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// brought makes a certificate that somebody brings, and its key.
func (b *book) brought(life time.Duration, names ...string) (chain, key []byte, name bulwark.ConfigName) {
	b.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(b.t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotBefore: b.clock.Add(-time.Hour), NotAfter: b.clock.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	ok(b.t, err)
	leaf, err := x509.ParseCertificate(der)
	ok(b.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	ok(b.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), certchain.Name(leaf)
}

func (b *book) certificates() []ledger.Brought {
	b.t.Helper()
	all, err := b.Certificates(b.ctx())
	ok(b.t, err)
	return all
}

// A certificate is taken with its key, sealed, for names that the app has claimed. One that serves nothing any more goes when another comes, what is sealed
// follows the project's key, and all of it goes with the app.
func TestBroughtCertificates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	b := openAt(t, path)
	p := b.enrol()
	shop, blog := b.app(p, "shop"), b.app(p, "blog")
	for host, app := range map[bulwark.HostName]bulwark.AppID{"www.example.net": shop, "*.example.com": shop, "blog.example.net": blog} {
		b.must(p, statement.KindDomainAdd, app, statement.Domain{Host: host})
	}
	add := func(app bulwark.AppID, chain, key []byte, name bulwark.ConfigName) statement.CertAdd {
		return statement.CertAdd{Chain: chain, Key: statement.ConfigSet{Set: map[bulwark.ConfigName][]byte{name: b.value(app, seal.UseCert, name, string(key))}}}
	}
	chain, key, name := b.brought(48*time.Hour, "www.example.net", "blog.example.net")
	_, other, _ := b.brought(time.Hour, "www.example.net")
	b.refused(p, bulwark.KindInvalid, statement.KindCertAdd, shop, statement.CertAdd{Chain: chain})
	b.refused(p, bulwark.KindInvalid, statement.KindCertAdd, shop, add(shop, chain, other, name))
	b.refused(p, bulwark.KindInvalid, statement.KindCertAdd, shop, add(shop, chain, key, "CERTIFICATE_OF_ANOTHER"))
	b.refused(p, bulwark.KindForbidden, statement.KindCertAdd, shop, add(blog, chain, key, name)) // sealed for another app
	for _, names := range [][]string{{"shop.apps.example.org"}, {"mail.example.net"}, {"example.com"}} {
		c, k, n := b.brought(time.Hour, names...)
		b.refused(p, bulwark.KindInvalid, statement.KindCertAdd, shop, add(shop, c, k, n))
	}
	c, k, n := b.brought(-time.Minute, "www.example.net")
	b.refused(p, bulwark.KindInvalid, statement.KindCertAdd, shop, add(shop, c, k, n))

	b.must(p, statement.KindCertAdd, shop, add(shop, chain, key, name))
	if got := b.certificates(); len(got) != 1 || string(got[0].Key) != string(key) || !slices.Equal(got[0].Hosts, []bulwark.HostName{"www.example.net"}) {
		t.Fatalf("%+v", got)
	}
	wild, wildKey, wildName := b.brought(time.Hour, "*.example.com")
	b.must(p, statement.KindCertAdd, shop, add(shop, wild, wildKey, wildName))
	b.must(p, statement.KindProjectRotate, "", statement.ProjectRotate{Project: bulwark.FirstProject})
	if got := b.certificates(); len(got) != 2 || string(got[0].Key) != string(key) || string(got[1].Key) != string(wildKey) || got[1].Hosts[0] != "*.example.com" {
		t.Fatalf("after a rotation: %+v", got)
	}
	b.refused(p, bulwark.KindStale, statement.KindCertAdd, shop, add(shop, chain, key, name)) // sealed to the key before
	next, nextKey, nextName := b.brought(96*time.Hour, "www.example.net")
	body := add(shop, next, nextKey, nextName)
	body.Key.Key = 2
	b.must(p, statement.KindCertAdd, shop, body)
	if got := b.certificates(); len(got) != 2 || string(got[1].Key) != string(nextKey) {
		t.Fatalf("after the next one: %+v", got)
	}
	d, err := sql.Open("sqlite", path)
	ok(t, err)
	defer d.Close()
	var sealed int
	ok(t, d.QueryRow(`SELECT count(*) FROM certificate WHERE instr(sealed, ?) > 0`, nextKey[40:80]).Scan(&sealed))
	if sealed > 0 {
		t.Fatal("the key is there in the clear")
	}
	b.refused(p, bulwark.KindNotFound, statement.KindCertRemove, shop, statement.CertRemove{Host: "mail.example.net"})
	b.must(p, statement.KindCertRemove, shop, statement.CertRemove{Host: "*.example.com"})
	// A host that is given up is not served with it any more, and the one that takes it over has none of it.
	b.must(p, statement.KindDomainRemove, shop, statement.Domain{Host: "www.example.net"})
	if got := b.certificates(); len(got) != 1 || len(got[0].Hosts) != 0 {
		t.Fatalf("after it was given up: %+v", got)
	}
	b.must(p, statement.KindAppDestroy, shop, statement.AppDestroy{Name: "shop"})
	if got := b.certificates(); len(got) != 0 {
		t.Fatalf("after the end: %+v", got)
	}
}
