// Package enrol is what the node and a person's machine agree on before they know each other: the form of a login token
// and the proof that an enrolment carries.
//
// It promises that a token which was read names one node by its whole public key, so that whoever holds it can tell that
// node from everybody else; and that a proof shows the knowledge of a token's secret without showing the secret. It does
// no input or output and keeps no state.
//
// Whoever owns a token that was not used yet can become a person of the installation.
package enrol

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// SecretSize is the length in bytes of a token's secret.
const SecretSize = 20

// prefix begins each token, so that people and secret scanners know one when they see it.
const prefix = "bulwark-"

func encoding() *base32.Encoding { return base32.StdEncoding.WithPadding(base32.NoPadding) }

// FormatToken writes a login token: the node's public key, by which the person's machine knows whom it speaks to, and a
// secret of SecretSize bytes, by which the node knows the person.
func FormatToken(node ed25519.PublicKey, secret []byte) string {
	return prefix + strings.ToLower(encoding().EncodeToString(append(append([]byte{}, node...), secret...)))
}

// ParseToken reads a login token. White space around it is no part of it, and the case of its letters does not matter.
func ParseToken(s string) (node ed25519.PublicKey, secret []byte, err error) {
	rest, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(s)), prefix)
	if strings.ContainsAny(rest, "\r\n") { // which the decoder would pass over
		ok = false
	}
	b, err := encoding().DecodeString(strings.ToUpper(rest))
	if !ok || err != nil || len(b) != ed25519.PublicKeySize+SecretSize {
		return nil, nil, bulwark.Invalid("That is not a login token.", "Copy the whole of it, beginning with \"bulwark-\".")
	}
	return b[:ed25519.PublicKeySize], b[ed25519.PublicKeySize:], nil
}

// Proof is what an enrolment carries to show that its maker knows the token's secret: it holds for this device key (in
// PKIX form) alone, so whoever passes it on cannot put a key of their own in its place.
func Proof(secret, device []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("bulwark enrol v1"))
	mac.Write(device)
	return mac.Sum(nil)
}
