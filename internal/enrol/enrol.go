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

// The prefixes of the other two: an invitation, which an owner sends somebody, and an access token, which is a person's program's.
const (
	invitationPrefix = "bulwark-invitation-"
	accessPrefix     = "bulwark-token-"
)

// FormatInvitation writes an invitation: the node's public key and the private half of the invitation's own.
func FormatInvitation(node ed25519.PublicKey, key ed25519.PrivateKey) string {
	return formatKey(invitationPrefix, node, key)
}

// ParseInvitation reads one; ok is false for what does not begin like one.
func ParseInvitation(s string) (node ed25519.PublicKey, key ed25519.PrivateKey, ok bool, err error) {
	return parseKey(invitationPrefix, "an invitation", s)
}

// FormatAccessToken writes an access token: the node's public key and the token's own private one.
func FormatAccessToken(node ed25519.PublicKey, key ed25519.PrivateKey) string {
	return formatKey(accessPrefix, node, key)
}

// ParseAccessToken reads one; ok is false for what does not begin like one.
func ParseAccessToken(s string) (node ed25519.PublicKey, key ed25519.PrivateKey, ok bool, err error) {
	return parseKey(accessPrefix, "an access token", s)
}

func formatKey(prefix string, node ed25519.PublicKey, key ed25519.PrivateKey) string {
	return prefix + strings.ToLower(encoding().EncodeToString(append(append([]byte{}, node...), key.Seed()...)))
}

func parseKey(prefix, what, s string) (ed25519.PublicKey, ed25519.PrivateKey, bool, error) {
	rest, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(s)), prefix)
	if !ok {
		return nil, nil, false, nil
	}
	b, err := encoding().DecodeString(strings.ToUpper(rest))
	if err != nil || strings.ContainsAny(rest, "\r\n") || len(b) != ed25519.PublicKeySize+ed25519.SeedSize {
		return nil, nil, true, bulwark.Invalid("That is not "+what+".", "Copy the whole of it, beginning with \""+prefix+"\".")
	}
	return b[:ed25519.PublicKeySize], ed25519.NewKeyFromSeed(b[ed25519.PublicKeySize:]), true, nil
}

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

// invited is what an invitation's key signs, before the device key: nothing else that it signs can be taken for it.
const invited = "bulwark invitation v1"

// Accept is the proof that an enrolment by invitation carries: it holds for this device key (in PKIX form) alone.
func Accept(invitation ed25519.PrivateKey, device []byte) []byte {
	return ed25519.Sign(invitation, append([]byte(invited), device...))
}

// Invited tells whether a proof was made by Accept with the private half of a key.
func Invited(invitation ed25519.PublicKey, device, proof []byte) bool {
	return ed25519.Verify(invitation, append([]byte(invited), device...), proof)
}

// Proof is what an enrolment carries to show that its maker knows the token's secret: it holds for this device key (in
// PKIX form) alone, so whoever passes it on cannot put a key of their own in its place.
func Proof(secret, device []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("bulwark enrol v1"))
	mac.Write(device)
	return mac.Sum(nil)
}
