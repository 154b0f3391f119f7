package bulwark_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func TestParseSchema(t *testing.T) {
	const doc = `{"openapi":"3.1.0","info":{"title":"My\u0000 shop","version":"2"},"paths":{"/a":{},"/b":{}},"x-secret":"hunter2"}`
	s, err := bulwark.ParseSchema(doc)
	if err != nil || string(s) != doc || s.Paths() != 2 || s.String() != "My shop 2" {
		t.Error(s, err)
	}
	// Records and messages have its name.
	if got := (bulwark.ShieldChange{Schema: s}).String(); got != "schema My shop 2" {
		t.Error(got)
	}
	if got := fmt.Sprintf("%s %v", s, bulwark.ShieldChange{Schema: bulwark.SchemaOff}); strings.Contains(got, "hunter2") || !strings.HasSuffix(got, "schema off") {
		t.Error(got)
	}
	large := func(n int, of string) string {
		return doc[:len(doc)-9] + strings.Repeat(of, (n-len(doc)-8)/len(of)) + `"}`
	}
	if _, err := bulwark.ParseSchema(large(bulwark.MaxSchema, "x")); err != nil {
		t.Error("one that is just small enough:", err)
	}
	for name, text := range map[string]string{
		"nothing": "", "a list": "[]", "YAML": "openapi: 3.0.0", "version 2": `{"swagger":"2.0","paths":{"/":{}}}`, "version 3.2": strings.Replace(doc, "3.1.0", "3.2.0", 1),
		"no paths": `{"openapi":"3.0.0","info":{}}`, "no UTF-8": strings.Replace(doc, "hunter2", "\xff", 1), "off": "off",
		"a large one": large(bulwark.MaxSchema+100, "x"), "what is large when it is escaped": large(bulwark.MaxSchema, `<`),
	} {
		if _, err := bulwark.ParseSchema(text); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	shield, err := bulwark.Shield{}.With(bulwark.ShieldChange{Schema: s})
	if err != nil || shield.Schema != s || shield.IsDefault() {
		t.Fatal(shield, err)
	}
	b, _ := json.Marshal(shield)
	var back bulwark.Shield
	if err := json.Unmarshal(b, &back); err != nil || back.Schema != s {
		t.Error(err)
	}
	if next, err := shield.With(bulwark.ShieldChange{WAF: bulwark.WAFBlock}); err != nil || next.Schema != s {
		t.Error("it goes with another change:", err)
	}
	if next, err := shield.With(bulwark.ShieldChange{Schema: bulwark.SchemaOff}); err != nil || !next.IsDefault() {
		t.Error(next, err)
	}
	if _, err := shield.With(bulwark.ShieldChange{Schema: "{}"}); err == nil {
		t.Error("no document is taken for one")
	}
}

func FuzzParseSchema(f *testing.F) {
	f.Add(`{"openapi":"3.0.0","info":{"title":"x"},"paths":{"/":{}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := bulwark.ParseSchema(text)
		if err == nil && (s.Paths() == 0 || len(s.String()) > 600) {
			t.Errorf("%q is %s with %d paths", text, s, s.Paths())
		}
	})
}
