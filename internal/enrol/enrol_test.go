package enrol_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/enrol"
)

func node() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
}

func TestTokenRoundTrip(t *testing.T) {
	secret := bytes.Repeat([]byte{9}, enrol.SecretSize)
	token := enrol.FormatToken(node(), secret)
	for _, text := range []string{token, "  " + token + "\n", strings.ToUpper(token)} {
		gotNode, gotSecret, err := enrol.ParseToken(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if !gotNode.Equal(node()) || !bytes.Equal(gotSecret, secret) {
			t.Fatalf("%q came back as another token", text)
		}
	}
}

func TestTokenRefused(t *testing.T) {
	token := enrol.FormatToken(node(), bytes.Repeat([]byte{9}, enrol.SecretSize))
	for name, text := range map[string]string{
		"empty":          "",
		"prefix alone":   "bulwark-",
		"no prefix":      strings.TrimPrefix(token, "bulwark-"),
		"cut":            token[:len(token)-1],
		"longer":         token + "a",
		"another sign":   strings.Replace(token, token[20:21], "!", 1),
		"a line inside":  token[:30] + "\n" + token[30:],
		"a space inside": token[:30] + " " + token[30:],
		"padding":        token + "====",
		"short secret":   enrol.FormatToken(node(), make([]byte, enrol.SecretSize-1)),
	} {
		if _, _, err := enrol.ParseToken(text); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The vector is HMAC-SHA256 as openssl computes it:
// printf 'bulwark enrol v1device' | openssl dgst -sha256 -hmac secret
func TestProofVector(t *testing.T) {
	const want = "6469f4ae4ee52993f8232090d735f293c413cfb5f3dd1860d02ce058a0d3a8fd"
	if got := hex.EncodeToString(enrol.Proof([]byte("secret"), []byte("device"))); got != want {
		t.Fatalf("Proof = %s, want %s", got, want)
	}
	if bytes.Equal(enrol.Proof([]byte("secret"), []byte("device")), enrol.Proof([]byte("secret"), []byte("devicf"))) {
		t.Fatal("the proof does not depend on the device")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(enrol.FormatToken(node(), make([]byte, enrol.SecretSize)))
	f.Add("bulwark-")
	f.Fuzz(func(t *testing.T, text string) {
		n, s, err := enrol.ParseToken(text)
		if err != nil {
			return
		}
		// Each token has one spelling beside case and the white space around it, but for the unused bits of its end.
		n2, s2, err := enrol.ParseToken(enrol.FormatToken(n, s))
		if err != nil || !n.Equal(n2) || !bytes.Equal(s, s2) {
			t.Fatalf("%q does not come back", text)
		}
	})
}
