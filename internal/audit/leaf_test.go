package audit_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark/internal/audit"
)

// The vectors of docs/audit.md.
var vectors = map[string]audit.Record{
	`{"action":"app.create","actor":"p_00000000000000000000000008","chain":{"hash":"sha256:49887fe73095352cf0a2a26b41f7715037fd5eb2f8f0bfcb0ff219de53d423c4","seq":7},"document":"sha256:ae1894eb0c09dc5c56783e73e9745a7e9118470cc664cd4026bd99e4e6ae78a7","from":"192.0.2.7","key":"SHA256:R96ljqAPrpQX7hnXZ1W/72kImQIRMu/7BP4fnk8MgFk","outcome":"done","project":"prj_00000000000000000000000000","resource":"app:shop","seq":12,"time":"2026-01-02T03:04:05.678Z","v":1}`: {
		Seq: 12, Time: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC),
		Entry: audit.Entry{Project: "prj_00000000000000000000000000", Actor: "p_00000000000000000000000008", Key: "SHA256:R96ljqAPrpQX7hnXZ1W/72kImQIRMu/7BP4fnk8MgFk",
			From: "192.0.2.7", Action: "app.create", Resource: "app:shop", Outcome: audit.Done,
			Document: "sha256:ae1894eb0c09dc5c56783e73e9745a7e9118470cc664cd4026bd99e4e6ae78a7",
			Chain:    &audit.Place{Seq: 7, Hash: "sha256:49887fe73095352cf0a2a26b41f7715037fd5eb2f8f0bfcb0ff219de53d423c4"}}},
	`{"action":"self.read","detail":"<& \"\\\t\u2028 é 日本 \u0000>","from":"2001:db8::1","outcome":"refused","resource":"platform","seq":13,"time":"2026-01-02T03:04:06Z","v":1}`: {
		Seq: 13, Time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
		Entry: audit.Entry{From: "2001:db8::1", Action: "self.read", Resource: "platform", Outcome: audit.Refused, Detail: "<& \"\\\t\u2028 é 日本 \x00>"}},
}

func TestLeafVectors(t *testing.T) {
	for want, r := range vectors {
		b, err := r.Leaf()
		if err != nil || string(b) != want {
			t.Errorf("the leaf is\n%s, not\n%s %v", b, want, err)
		}
		back, err := audit.ParseLeaf(b)
		if err != nil {
			t.Fatal(err)
		}
		if b2, err := back.Leaf(); err != nil || !bytes.Equal(b, b2) {
			t.Errorf("it came back as %s %v", b2, err)
		}
	}
}

// Nothing but the one encoding is read.
func TestLeafOtherEncodings(t *testing.T) {
	const good = `{"action":"a","outcome":"done","resource":"platform","seq":1,"time":"2026-01-02T03:04:05Z","v":1}`
	if _, err := audit.ParseLeaf([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"white space":       strings.Replace(good, ",", ", ", 1),
		"another order":     `{"v":1,"action":"a","outcome":"done","resource":"platform","seq":1,"time":"2026-01-02T03:04:05Z"}`,
		"twice":             strings.Replace(good, `"seq":1`, `"seq":2,"seq":1`, 1),
		"capitals":          strings.Replace(good, `"seq"`, `"Seq"`, 1),
		"an unknown field":  strings.Replace(good, `"seq":1`, `"seq":1,"size":2`, 1),
		"an empty field":    strings.Replace(good, `"outcome"`, `"actor":"","outcome"`, 1),
		"another escape":    strings.Replace(good, `"a"`, `"\u0061"`, 1),
		"an escaped <":      strings.Replace(good, `"a"`, `"\u003c"`, 1),
		"another number":    strings.Replace(good, `"seq":1`, `"seq":1.0`, 1),
		"another version":   strings.Replace(good, `"v":1`, `"v":2`, 1),
		"another time":      strings.Replace(good, `05Z`, `05.000Z`, 1),
		"another zone":      strings.Replace(good, `05Z`, `05+00:00`, 1),
		"no time":           strings.Replace(good, `"time":"2026-01-02T03:04:05Z",`, ``, 1),
		"something behind":  good + "{}",
		"a line end behind": good + "\n",
		"nothing":           "",
		"null":              "null",
		"no UTF-8":          strings.Replace(good, `"a"`, "\"\xff\"", 1),
		"too much":          strings.Replace(good, `"a"`, `"`+strings.Repeat("a", 1<<16)+`"`, 1),
	} {
		if r, err := audit.ParseLeaf([]byte(bad)); err == nil {
			t.Errorf("%s is taken as %+v", name, r)
		}
	}
}

func FuzzParseLeaf(f *testing.F) {
	for v := range vectors {
		f.Add([]byte(v))
	}
	f.Add([]byte(`{"chain":null,"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := audit.ParseLeaf(b)
		if err != nil {
			return
		}
		if again, err := r.Leaf(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q is read and becomes %q (%v)", b, again, err)
		}
	})
}
