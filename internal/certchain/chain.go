// Package certchain checks certificates that people bring themselves. It promises that what it lets through can be served as it is: a key that is the
// certificate's and strong enough, a chain in its order, a time that has begun and goes on, algorithms that browsers take. It does not say whom to
// trust: a private authority is as good as a public one. It holds nothing; what it parses is its caller's user's.
package certchain

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Bounds of what is taken.
const (
	MaxCertificates = 10
	MaxBytes        = 16 << 10
	minRSA          = 2048 // bits; more than maxRSA takes a server long for each handshake
	maxRSA          = 4096
)

// Parse reads a chain in PEM, the leaf first, and checks it as far as it can without its key.
func Parse(chain []byte, now time.Time) ([]*x509.Certificate, error) {
	if len(chain) > MaxBytes {
		return nil, bulwark.Failf(bulwark.KindTooLarge, "The chain has %d bytes; at most %d are taken.", len(chain), MaxBytes)
	}
	var all []*x509.Certificate
	for rest := chain; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			what := "something that is not PEM"
			if block != nil {
				what = "a " + strings.ToLower(block.Type)
			}
			return nil, bulwark.Invalid(fmt.Sprintf("Among the certificates is %s.", what), "Give a file of certificates in PEM and nothing else: the one for the host names first, then those that lead to its authority.")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("Certificate %d of the chain cannot be read: %v.", len(all)+1, err), "", err)
		}
		if all = append(all, c); len(all) > MaxCertificates {
			return nil, bulwark.Failf(bulwark.KindTooLarge, "The chain has more than %d certificates.", MaxCertificates)
		}
	}
	if len(all) == 0 {
		return nil, bulwark.Invalid("There is no certificate in the chain.", "Give a file in PEM.")
	}
	return all, check(all, now)
}

func check(all []*x509.Certificate, now time.Time) error {
	leaf := all[0]
	switch {
	case leaf.IsCA:
		return bulwark.Invalid(fmt.Sprintf("The first certificate, %s, is an authority's.", subject(leaf)), "The one for the host names comes first, then those that lead to its authority.")
	case len(leaf.DNSNames) == 0:
		return bulwark.Invalid("The certificate names no host.", "It needs subject alternative names; browsers do not read the common name.")
	case len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return bulwark.Invalid("The certificate is not for servers.", "It needs the extended key usage serverAuth.")
	}
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return bulwark.Invalid(fmt.Sprintf("The certificate's key is of RSA with %d bits.", n), fmt.Sprintf("Make one of P-256, or of RSA with %d to %d bits.", minRSA, maxRSA))
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return bulwark.Invalid("The certificate's key is of a curve that browsers do not all take.", "Make one of P-256.")
		}
	default:
		return bulwark.Invalid(fmt.Sprintf("The certificate's key is of a kind that browsers do not all take: %s.", leaf.PublicKeyAlgorithm), "Make one of P-256 (ECDSA), or of RSA.")
	}
	for i, c := range all {
		switch {
		case now.After(c.NotAfter):
			return bulwark.Invalid(fmt.Sprintf("The certificate %s ended on %s.", subject(c), c.NotAfter.UTC().Format(time.DateOnly)), "Have it renewed.")
		case now.Before(c.NotBefore):
			return bulwark.Invalid(fmt.Sprintf("The certificate %s begins on %s.", subject(c), c.NotBefore.UTC().Format(time.DateTime)), "Bring it then; or set this machine's clock.")
		}
		if i+1 < len(all) {
			if err := c.CheckSignatureFrom(all[i+1]); err != nil {
				return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("Certificate %d of the chain, %s, is not signed by the next, %s.", i+1, subject(c), subject(all[i+1])),
					"The one for the host names comes first, then the one that signed it, and so on.", err)
			}
		} else if s := c.SignatureAlgorithm; !bytes.Equal(c.RawIssuer, c.RawSubject) && (s == x509.SHA1WithRSA || s == x509.ECDSAWithSHA1 || s == x509.MD5WithRSA) {
			return bulwark.Invalid(fmt.Sprintf("The certificate %s is signed with %s, which browsers do not take.", subject(c), s), "Have it signed anew.")
		}
	}
	return nil
}

// Pair checks that a key in PEM is that of a chain that Parse took. What it says has nothing of the key.
func Pair(chain, key []byte) error {
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		return bulwark.Invalid("The key is not the certificate's, or is none.", "Give the private key that the certificate was made for, in PEM and without a passphrase.")
	}
	return nil
}

// Covers tells whether a certificate is good for a host name, or for all names of a pattern.
func Covers(leaf *x509.Certificate, host bulwark.HostName) bool {
	if _, is := host.Wildcard(); is {
		return slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, string(host)) })
	}
	return leaf.VerifyHostname(string(host)) == nil
}

// Name is how the key of a leaf is called where it is sealed.
func Name(leaf *x509.Certificate) bulwark.ConfigName {
	sum := sha256.Sum256(leaf.Raw)
	return bulwark.ConfigName("CERTIFICATE_" + strings.ToUpper(hex.EncodeToString(sum[:8])))
}

func subject(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return fmt.Sprintf("of %q", c.DNSNames[0])
	}
	return fmt.Sprintf("%q", c.Subject.String())
}
