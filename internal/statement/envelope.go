package statement

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/bulwark-paas/bulwark"
)

// Key is an Ed25519 public key with its fingerprint.
type Key struct {
	Ed25519     ed25519.PublicKey
	Fingerprint string // "SHA256:" and the unpadded base64 of SHA-256 over the PKIX form
}

// NewKey returns the Key of pub.
func NewKey(pub ed25519.PublicKey) Key {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic("statement: an Ed25519 key always has a PKIX form: " + err.Error())
	}
	sum := sha256.Sum256(der)
	return Key{Ed25519: pub, Fingerprint: "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])}
}

// ParseKey reads a PKIX public key; only Ed25519 is taken.
func ParseKey(der []byte) (Key, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Key{}, bulwark.Fail(bulwark.KindInvalid, "The device key cannot be read.", "", err)
	}
	ed, ok := pub.(ed25519.PublicKey)
	if !ok {
		return Key{}, bulwark.Invalid("The device key is not an Ed25519 key.", "Sign in again with bulwark login.")
	}
	return NewKey(ed), nil
}

// PKIX returns the key in the form that ParseKey reads.
func (k Key) PKIX() []byte {
	der, err := x509.MarshalPKIXPublicKey(k.Ed25519)
	if err != nil {
		panic("statement: an Ed25519 key always has a PKIX form: " + err.Error())
	}
	return der
}

// KeyID implements [dsse.Verifier].
func (k Key) KeyID() (string, error) { return k.Fingerprint, nil }

// Verify implements [dsse.Verifier].
func (k Key) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(k.Ed25519, data, sig) {
		return fmt.Errorf("the signature does not match key %s", k.Fingerprint)
	}
	return nil
}

// signer signs with a private key.
type signer struct{ private ed25519.PrivateKey }

// KeyID implements [dsse.Signer].
func (s signer) KeyID() (string, error) {
	return NewKey(s.private.Public().(ed25519.PublicKey)).Fingerprint, nil
}

// Sign implements [dsse.Signer].
func (s signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(s.private, data), nil
}

// Seal encodes v as JSON and signs it under a payload type. The result is a DSSE envelope in JSON.
func Seal(payloadType string, v any, key ed25519.PrivateKey) ([]byte, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	es, err := dsse.NewEnvelopeSigner(signer{key})
	if err != nil {
		return nil, err
	}
	env, err := es.SignPayload(context.Background(), payloadType, payload)
	if err != nil {
		return nil, err
	}
	return json.Marshal(env)
}

// Signer returns the fingerprint that an envelope names as its signer, unverified: it serves to look the key up.
func Signer(envelope []byte) (string, error) {
	env, err := parse(envelope)
	if err != nil {
		return "", err
	}
	return env.Signatures[0].KeyID, nil
}

// Open verifies that key signed the envelope as payloadType and decodes the payload strictly into dst.
func Open(envelope []byte, payloadType string, key Key, dst any) error {
	env, err := parse(envelope)
	if err != nil {
		return err
	}
	if env.PayloadType != payloadType {
		return forged(fmt.Errorf("the payload type is %q, not %q", env.PayloadType, payloadType))
	}
	ev, err := dsse.NewEnvelopeVerifier(key)
	if err != nil {
		return err
	}
	if _, err := ev.Verify(context.Background(), env); err != nil {
		return forged(err)
	}
	payload, err := env.DecodeB64Payload()
	if err != nil {
		return malformed(err)
	}
	return Strict(payload, dst)
}

// Verify is Open for a person's statement.
func Verify(envelope []byte, key Key) (*Statement, error) {
	var s Statement
	if err := Open(envelope, PayloadType, key, &s); err != nil {
		return nil, err
	}
	if s.Version != 1 || s.ID == "" || s.Kind == "" || s.Time.IsZero() {
		return nil, malformed(fmt.Errorf("version, id, kind and time are compulsory"))
	}
	return &s, nil
}

// parse reads an envelope with exactly one signature: several would leave open whose word it is.
func parse(envelope []byte) (*dsse.Envelope, error) {
	if len(envelope) > MaxSize {
		return nil, bulwark.Failf(bulwark.KindTooLarge, "The statement is larger than %d MiB.", MaxSize>>20)
	}
	var env dsse.Envelope
	if err := Strict(envelope, &env); err != nil {
		return nil, err
	}
	if len(env.Signatures) != 1 {
		return nil, malformed(fmt.Errorf("%d signatures in place of one", len(env.Signatures)))
	}
	return &env, nil
}

func forged(err error) error {
	return bulwark.Fail(bulwark.KindForbidden, "The statement's signature does not verify.",
		"Sign in again with bulwark login, or ask an owner to register this key.", err)
}

// Public implements [dsse.Verifier].
func (k Key) Public() crypto.PublicKey { return k.Ed25519 }
