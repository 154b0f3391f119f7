package statement_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// envelope is DSSE's, in the open, so that a test can write any.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) statement.Key {
	return statement.NewKey(k.Public().(ed25519.PublicKey))
}

func sample(t testing.TB) *statement.Statement {
	t.Helper()
	const app = bulwark.AppID("app_1dqh34q0qp9qbp7b9jr3v635tg")
	s, err := statement.New("SHA256:node", statement.KindDomainAdd, app, statement.Domain{Host: "www.example.net"}, time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	s.ID = "st_spp6e6jzvn5jdjrykps3n0gtkg" // the same in every process of a fuzz run
	return s
}

func sealed(t testing.TB, payloadType string, v any, k ed25519.PrivateKey) []byte {
	t.Helper()
	env, err := statement.Seal(payloadType, v, k)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func change(t testing.TB, env []byte, f func(*envelope)) []byte {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(env, &e); err != nil {
		t.Fatal(err)
	}
	f(&e)
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What is verified was signed, byte for byte, by the key that is named, as a statement.
func TestVerify(t *testing.T) {
	mine, other := key(1), key(2)
	s := sample(t)
	good := sealed(t, statement.PayloadType, s, mine)
	foreign := sealed(t, statement.PayloadType, s, other)
	var theirs envelope
	if err := json.Unmarshal(foreign, &theirs); err != nil {
		t.Fatal(err)
	}
	payload := func(text string) func(*envelope) {
		return func(e *envelope) { e.Payload = base64.StdEncoding.EncodeToString([]byte(text)) }
	}
	without := func(f func(*statement.Statement)) []byte {
		c := *s
		f(&c)
		return sealed(t, statement.PayloadType, c, mine)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  []byte
		want bulwark.Kind // "" means that it verifies
	}{
		"as signed":                              {good, ""},
		"in other white space":                   {append([]byte(" \n"), append(bytes.Clone(good), "\n"...)...), ""},
		"signed by somebody else":                {foreign, bulwark.KindForbidden},
		"signed by somebody else in my name":     {change(t, foreign, func(e *envelope) { e.Signatures[0].KeyID = public(mine).Fingerprint }), bulwark.KindForbidden},
		"mine under somebody else's name":        {change(t, good, func(e *envelope) { e.Signatures[0].KeyID = public(other).Fingerprint }), bulwark.KindForbidden},
		"with another's signature beside mine":   {change(t, good, func(e *envelope) { e.Signatures = append(e.Signatures, theirs.Signatures...) }), bulwark.KindInvalid},
		"with mine twice":                        {change(t, good, func(e *envelope) { e.Signatures = append(e.Signatures, e.Signatures...) }), bulwark.KindInvalid},
		"with no signature":                      {change(t, good, func(e *envelope) { e.Signatures = nil }), bulwark.KindInvalid},
		"with an empty signature":                {change(t, good, func(e *envelope) { e.Signatures[0].Sig = "" }), bulwark.KindForbidden},
		"with a signature that is no base64":     {change(t, good, func(e *envelope) { e.Signatures[0].Sig = "!" }), bulwark.KindForbidden},
		"with another payload":                   {change(t, good, payload(strings.Replace(string(raw), "www", "evi", 1))), bulwark.KindForbidden},
		"with a payload that is no base64":       {change(t, good, func(e *envelope) { e.Payload = "!" }), bulwark.KindForbidden},
		"with an empty payload":                  {change(t, good, func(e *envelope) { e.Payload = "" }), bulwark.KindForbidden},
		"with another payload type":              {change(t, good, func(e *envelope) { e.PayloadType = statement.ReleasePayloadType }), bulwark.KindForbidden},
		"a release's type, signed":               {sealed(t, statement.ReleasePayloadType, s, mine), bulwark.KindForbidden},
		"a release's type, signed, then renamed": {change(t, sealed(t, statement.ReleasePayloadType, s, mine), func(e *envelope) { e.PayloadType = statement.PayloadType }), bulwark.KindForbidden},
		"cut short":                              {good[:len(good)-1], bulwark.KindInvalid},
		"with something behind it":               {append(bytes.Clone(good), good...), bulwark.KindInvalid},
		"with a field of the envelope's own":     {bytes.Replace(good, []byte(`{"payload`), []byte(`{"x":1,"payload`), 1), bulwark.KindInvalid},
		"with a field of the payload's own":      {sealed(t, statement.PayloadType, json.RawMessage(strings.Replace(string(raw), "{", `{"x":1,`, 1)), mine), bulwark.KindInvalid},
		"of version 2":                           {without(func(s *statement.Statement) { s.Version = 2 }), bulwark.KindInvalid},
		"without an id":                          {sealed(t, statement.PayloadType, json.RawMessage(strings.Replace(string(raw), `"id":"`+string(s.ID)+`",`, "", 1)), mine), bulwark.KindInvalid},
		"without a kind":                         {without(func(s *statement.Statement) { s.Kind = "" }), bulwark.KindInvalid},
		"without a time":                         {without(func(s *statement.Statement) { s.Time = time.Time{} }), bulwark.KindInvalid},
		"with an id that is none":                {without(func(s *statement.Statement) { s.ID = "st_../../etc" }), bulwark.KindInvalid},
		"about an app that has no id's form":     {without(func(s *statement.Statement) { s.App = "app_.." }), bulwark.KindInvalid},
		"an array":                               {[]byte(`[]`), bulwark.KindInvalid},
		"null":                                   {[]byte(`null`), bulwark.KindInvalid},
		"nothing":                                {nil, bulwark.KindInvalid},
		"too much":                               {bytes.Repeat([]byte(" "), statement.MaxSize+1), bulwark.KindTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := statement.Verify(c.env, public(mine))
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "" && (got.ID != s.ID || got.App != s.App || got.Node != s.Node):
				t.Fatalf("it came back as %+v", got)
			case c.want != "" && err == nil:
				t.Fatal("it verified")
			case c.want != "" && bulwark.KindOf(err) != c.want:
				t.Fatalf("refused as %s (%v), want %s", bulwark.KindOf(err), err, c.want)
			}
		})
	}
}

// No bit of a payload, of its type or of the signature can be another.
func TestVerifyEveryBit(t *testing.T) {
	k := key(1)
	good := sealed(t, statement.PayloadType, sample(t), k)
	flip := func(text string, i int, bit byte) string {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		b[i%len(b)] ^= bit
		return base64.StdEncoding.EncodeToString(b)
	}
	for i := range 300 {
		for _, bit := range []byte{1, 0x80} {
			for name, f := range map[string]func(*envelope){
				"payload":   func(e *envelope) { e.Payload = flip(e.Payload, i, bit) },
				"signature": func(e *envelope) { e.Signatures[0].Sig = flip(e.Signatures[0].Sig, i, bit) },
			} {
				if _, err := statement.Verify(change(t, good, f), public(k)); err == nil {
					t.Fatalf("it verified with bit %#x of byte %d of the %s another", bit, i, name)
				}
			}
		}
	}
}

// Signer says what an envelope claims, to look the key up, and refuses what could claim two things.
func TestSigner(t *testing.T) {
	k := key(1)
	good := sealed(t, statement.PayloadType, sample(t), k)
	if got, err := statement.Signer(good); err != nil || got != public(k).Fingerprint {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := statement.Signer(change(t, good, func(e *envelope) { e.Signatures = append(e.Signatures, e.Signatures...) })); err == nil {
		t.Fatal("two signers were one")
	}
}

// A device key is an Ed25519 key in PKIX form and nothing else.
func TestParseKey(t *testing.T) {
	k := public(key(1))
	if got, err := statement.ParseKey(k.PKIX()); err != nil || got.Fingerprint != k.Fingerprint || !got.Ed25519.Equal(k.Ed25519) {
		t.Fatalf("%+v, %v", got, err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"another kind": der, "nothing": nil, "garbage": []byte("x"), "cut": k.PKIX()[:40], "with more": append(k.PKIX(), 0)} {
		if _, err := statement.ParseKey(b); bulwark.KindOf(err) != bulwark.KindInvalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bundle holds together only as a whole: each part names the others by digest, under the node's signature.
func TestOpenRelease(t *testing.T) {
	node := key(1)
	app := bulwark.NewAppID()
	cause, origin := []byte("a rollback"), []byte("the push of long ago")
	image := bulwark.Sum([]byte("image"))
	prov := func(f func(*statement.Provenance)) []byte {
		p := statement.Provenance{Type: statement.InTotoType, PredicateType: statement.SLSAType,
			Subject: []statement.Subject{{Name: "shop", Digest: map[string]string{"sha256": image.Hex()}}}}
		p.Predicate.BuildDefinition.ExternalParameters = statement.ExternalParameters{Node: "SHA256:n", App: app, Name: "shop",
			Cause: statement.Cause{Kind: statement.KindPush, Person: bulwark.NewPersonID(), Digest: bulwark.Sum(origin)}}
		f(&p)
		return sealed(t, statement.ProvenancePayloadType, p, node)
	}
	plain := prov(func(*statement.Provenance) {})
	make := func(provenance []byte, f func(*statement.Release)) statement.Bundle {
		r := statement.Release{Version: 1, Node: "SHA256:n", App: app, Name: "shop", Project: bulwark.NewProjectID(), Generation: 7, Image: image,
			Provenance: bulwark.Sum(provenance), Cause: statement.Cause{Kind: statement.KindRollback, Person: bulwark.NewPersonID(), Digest: bulwark.Sum(cause)}}
		f(&r)
		return statement.Bundle{Release: sealed(t, statement.ReleasePayloadType, r, node), Provenance: provenance, Cause: cause, Origin: origin}
	}
	nothing := func(*statement.Release) {}
	good := make(plain, nothing)
	with := func(f func(*statement.Bundle)) statement.Bundle {
		b := good
		f(&b)
		return b
	}
	for name, c := range map[string]struct {
		bundle statement.Bundle
		ok     bool
	}{
		"whole":                       {good, true},
		"of another version":          {make(plain, func(r *statement.Release) { r.Version = 2 }), false},
		"of another image":            {make(plain, func(r *statement.Release) { r.Image = bulwark.Sum([]byte("evil")) }), false},
		"of another app":              {make(plain, func(r *statement.Release) { r.App = bulwark.NewAppID() }), false},
		"of another node":             {make(plain, func(r *statement.Release) { r.Node = "SHA256:other" }), false},
		"with a cause that is not it": {with(func(b *statement.Bundle) { b.Cause = origin }), false},
		"without its origin":          {with(func(b *statement.Bundle) { b.Origin = nil }), false},
		"with another origin":         {with(func(b *statement.Bundle) { b.Origin = []byte("x") }), false},
		"with another provenance": {with(func(b *statement.Bundle) {
			b.Provenance = prov(func(p *statement.Provenance) { p.Predicate.RunDetails.Builder.ID = "x" })
		}), false},
		"built for two images": {make(prov(func(p *statement.Provenance) { p.Subject = append(p.Subject, p.Subject...) }), nothing), false},
		"built for none":       {make(prov(func(p *statement.Provenance) { p.Subject = nil }), nothing), false},
		"signed by another node": {with(func(b *statement.Bundle) {
			var r statement.Release
			if err := statement.Open(good.Release, statement.ReleasePayloadType, public(node), &r); err != nil {
				t.Fatal(err)
			}
			b.Release = sealed(t, statement.ReleasePayloadType, r, key(2))
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := statement.OpenRelease(c.bundle, public(node)); (err == nil) != c.ok {
				t.Fatal(err)
			}
		})
	}
}

// The node's release code cannot sign a release that says nothing.
func TestSealRelease(t *testing.T) {
	whole := statement.Release{Generation: 1, Image: bulwark.Sum(nil), Cause: statement.Cause{Digest: bulwark.Sum(nil)}}
	if _, err := statement.SealRelease(&whole, key(1)); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(*statement.Release){
		"generation": func(r *statement.Release) { r.Generation = 0 },
		"image":      func(r *statement.Release) { r.Image = "" },
		"cause":      func(r *statement.Release) { r.Cause.Digest = "" },
	} {
		r := whole
		f(&r)
		if _, err := statement.SealRelease(&r, key(1)); err == nil {
			t.Errorf("a release without its %s was signed", name)
		}
	}
}

// Whatever bytes come, what verifies is the payload that was signed.
func FuzzVerify(f *testing.F) {
	k := key(1)
	s := sample(f)
	good := sealed(f, statement.PayloadType, s, k)
	want, err := json.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"payloadType":"` + statement.PayloadType + `","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, env []byte) {
		got, err := statement.Verify(env, public(k))
		if err != nil {
			return
		}
		if b, err := json.Marshal(got); err != nil || !bytes.Equal(b, want) {
			t.Fatalf("%q verified as %s", env, b)
		}
	})
}
