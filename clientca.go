package bulwark

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// ClientCA are the authorities, as PEM, whose certificates clients of an app need; empty: they need none.
type ClientCA string

// ClientCAOff in a ShieldChange takes them away.
const ClientCAOff ClientCA = "off"

// Bounds of a ClientCA.
const (
	maxClientCAs     = 10
	maxClientCABytes = 24 << 10
)

// ParseClientCA checks s: one or more certificates of authorities, none of which has ended.
func ParseClientCA(s string) (ClientCA, error) {
	certs, err := ClientCA(s).Certificates()
	if err != nil {
		return "", err
	}
	for _, c := range certs {
		name := quote(c.Subject.String())
		switch {
		case !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return "", Invalid(fmt.Sprintf("The certificate %s is not an authority's.", name), "Give the one by which clients' certificates are signed, not a client's.")
		case time.Now().After(c.NotAfter):
			return "", Invalid(fmt.Sprintf("The certificate %s ended on %s.", name, c.NotAfter.UTC().Format(time.DateOnly)), "Give one that is valid.")
		}
	}
	return ClientCA(s), nil
}

// Certificates reads them.
func (a ClientCA) Certificates() ([]*x509.Certificate, error) {
	if len(a) > maxClientCABytes {
		return nil, Fail(KindTooLarge, fmt.Sprintf("The authorities of clients take more than %d KB.", maxClientCABytes>>10), "Give those alone that are needed.", nil)
	}
	var out []*x509.Certificate
	rest := []byte(a)
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, Invalid("The authorities of clients are not in PEM.", "Give a file that begins with -----BEGIN CERTIFICATE-----.")
		}
		if block.Type != "CERTIFICATE" {
			return nil, Invalid(fmt.Sprintf("The authorities of clients have a %s with them.", strings.ToLower(quote(block.Type))), "Give certificates alone; keep keys to yourself.")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, Fail(KindInvalid, "A certificate of the authorities of clients cannot be read.", "", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 || len(out) > maxClientCAs {
		return nil, Invalid(fmt.Sprintf("There have to be one to %d authorities of clients.", maxClientCAs), "")
	}
	return out, nil
}

// String names them for people.
func (a ClientCA) String() string {
	if a == ClientCAOff {
		return string(a)
	}
	certs, err := a.Certificates()
	if err != nil {
		return "none that can be read"
	}
	var names []string
	for _, c := range certs {
		names = append(names, c.Subject.String())
	}
	return strings.Join(names, "; ")
}
