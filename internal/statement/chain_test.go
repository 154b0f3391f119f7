package statement_test

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The vectors of docs/audit.md.
func TestChainVectors(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	name := statement.NewKey(key.Public().(ed25519.PublicKey)).Fingerprint
	s, vkey, err := statement.LogSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "verifier key", vkey, "bulwark.dev/audit/fd110d301d2f077de1414b8f99f441b1403fab207b2052fbd2c065e4ee8e7dc2+4a7b3950+AQg6mlsb6BB9EHhm5go7YyH7v4048V1G5NcmhaNRBrwI")
	at := statement.ChainStart(name)
	same(t, "start", string(at.Hash), "sha256:89b539ebea40fd15b5767146fe44b30057f827c7700e3000bce4645ed13fb4e2")
	link, err := statement.Link{Version: 1, Seq: 1, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Kind: statement.KindAppCreate, Person: "p_00000000000000000000000008",
		Key: "SHA256:R96ljqAPrpQX7hnXZ1W/72kImQIRMu/7BP4fnk8MgFk", App: "app_00000000000000000000000004",
		Document: "sha256:ae1894eb0c09dc5c56783e73e9745a7e9118470cc664cd4026bd99e4e6ae78a7"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "link", string(link), `{"v":1,"seq":1,"time":"2026-01-02T03:04:05Z","kind":"app.create","person":"p_00000000000000000000000008","key":"SHA256:R96ljqAPrpQX7hnXZ1W/72kImQIRMu/7BP4fnk8MgFk","app":"app_00000000000000000000000004","document":"sha256:ae1894eb0c09dc5c56783e73e9745a7e9118470cc664cd4026bd99e4e6ae78a7"}`)
	if at, err = at.Next(link); err != nil || at.Seq != 1 {
		t.Fatal(at, err)
	}
	same(t, "hash", string(at.Hash), "sha256:bd7dda18e205590a5d0dffa8bae43ae145310edb4add3e3ba96023b9037edab2")
	// The key is derived from the node's and is not it: what signs checkpoints signs no document.
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	text := statement.CheckpointText(s.Name(), 1, make([]byte, 32))
	signed, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
		t.Error(err)
	}
	if v.Verify([]byte(text), ed25519.Sign(key, []byte(text))) {
		t.Error("the node's own key signs checkpoints")
	}
	if _, err := (statement.ChainRef{Hash: "sha256:zz"}).Next(link); err == nil {
		t.Error("a hash that is none is chained")
	}
	for _, bad := range []string{"", "SHA256:", "SHA256:a+b", name + "A"} {
		if o, err := statement.LogOrigin(bad); err == nil {
			t.Errorf("%q is a node: %s", bad, o)
		}
	}
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("the %s is\n%s, not\n%s", what, got, want)
	}
}
