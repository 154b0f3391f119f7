package bulwark_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func certificate(t testing.TB, ca bool, usage x509.KeyUsage, until time.Time) (cert, key string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "people"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: usage}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kb, _ := x509.MarshalPKCS8PrivateKey(k)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb}))
}

func TestParseClientCA(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	good, key := certificate(t, true, x509.KeyUsageCertSign, soon)
	leaf, _ := certificate(t, false, x509.KeyUsageDigitalSignature, soon)
	weak, _ := certificate(t, true, x509.KeyUsageDigitalSignature, soon)
	ended, _ := certificate(t, true, x509.KeyUsageCertSign, time.Now().Add(-time.Hour))
	for _, s := range []string{good, good + "\n" + good, strings.Repeat(good, 10)} {
		if _, err := bulwark.ParseClientCA(s); err != nil {
			t.Error(err)
		}
	}
	for name, s := range map[string]string{
		"nothing": "", "space": " \n", "no PEM": "hello", "rest": good + "hello", "a key": good + key, "a client's": leaf, "one that may not sign": weak, "one that ended": ended,
		"too many": strings.Repeat(good, 11), "too large": strings.Repeat(" ", 25<<10) + good, "damaged": strings.Replace(good, "M", "A", 3),
	} {
		if a, err := bulwark.ParseClientCA(s); err == nil {
			t.Errorf("%s is taken: %s", name, a)
		} else if strings.Contains(err.Error(), "PRIVATE") && strings.Contains(err.Error(), "MIG") {
			t.Errorf("the error has a key in it: %v", err)
		}
	}
	s, err := bulwark.Shield{}.With(bulwark.ShieldChange{ClientCA: bulwark.ClientCA(good)})
	if err != nil || s.ClientCA != bulwark.ClientCA(good) || s.ClientCA.String() != "CN=people" {
		t.Fatal(s, err)
	}
	if _, err := s.With(bulwark.ShieldChange{ClientCA: bulwark.ClientCA(leaf)}); err == nil {
		t.Error("a client's own certificate is taken")
	}
	if s, err = s.With(bulwark.ShieldChange{ClientCA: bulwark.ClientCAOff}); err != nil || !s.IsDefault() {
		t.Error(s, err)
	}
}

func FuzzParseClientCA(f *testing.F) {
	good, key := certificate(f, true, x509.KeyUsageCertSign, time.Now().Add(time.Hour))
	f.Add(good)
	f.Add(good + key)
	f.Add("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----")
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := bulwark.ParseClientCA(s); err == nil {
			if _, err := bulwark.ParseClientCA(string(a)); err != nil {
				t.Error(err)
			}
		}
	})
}
