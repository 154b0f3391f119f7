package schema

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// The edge is everybody's: a document that one app's people made takes nobody's time.
func TestCompileTwistedDocument(t *testing.T) {
	doc := func(parameter bool, schemas string) bulwark.Schema {
		q := ""
		if parameter {
			q = `{"name":"q","in":"query","schema":{"$ref":"#/components/schemas/S0"}}`
		}
		return bulwark.Schema(`{"openapi":"3.0.3","info":{"title":"x","version":"1"},"paths":{"/a":{"post":{"parameters":[` + q + `],` +
			`"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/S0"}},"application/x-www-form-urlencoded":{"schema":{"$ref":"#/components/schemas/S0"}}}},"responses":{"200":{"description":"ok"}}}}},"components":{"schemas":{` + schemas + `}}}`)
	}
	chain := func(parameter bool, n int, each string) bulwark.Schema {
		var list []string
		for i := range n {
			next := fmt.Sprintf(`{"$ref":"#/components/schemas/S%d"}`, i+1)
			list = append(list, fmt.Sprintf(`"S%d":{%s}`, i, strings.ReplaceAll(each, "NEXT", next)))
		}
		return doc(parameter, strings.Join(append(list, fmt.Sprintf(`"S%d":{"type":"object"}`, n)), ","))
	}
	for name, each := range map[string]string{
		"allOf": `"allOf":[NEXT,NEXT,NEXT]`, "oneOf": `"oneOf":[NEXT,NEXT]`, "properties": `"properties":{"a":NEXT,"b":NEXT,"c":NEXT}`, "items": `"items":NEXT,"additionalProperties":NEXT`, "not": `"not":NEXT,"anyOf":[NEXT]`, "objects": `"type":"object","allOf":[NEXT,NEXT,NEXT]`, "itself": `"type":"object","anyOf":[{"$ref":"#/components/schemas/S0"},NEXT]`,
	} {
		if name == "allOf" {
			each = `"allOf":[` + strings.TrimSuffix(strings.Repeat("NEXT,", 50), ",") + `]`
		}
		for _, n := range []int{3, 10, 24} {
			if _, err := Compile(chain(true, n, each)); err == nil && n > 9 {
				t.Errorf("%s %d is taken for a parameter", name, n)
			}
			began := time.Now()
			s, err := Compile(chain(false, n, each))
			took := time.Since(began)
			t.Log(name, n, took, err)
			if took > 20*time.Second {
				t.Errorf("%s %d: %s", name, n, took)
			}
			if err != nil {
				continue
			}
			began = time.Now()
			s.Check(Request{Method: "POST", Target: "/a?q=1", Header: jsonKind, Body: []byte(`{"a":{"a":{"a":{}}}}`)})
			s.Check(Request{Method: "POST", Target: "/a?q=1", Header: jsonKind, Body: []byte(`null`)})
			s.Check(Request{Method: "POST", Target: "/a?q=1", Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, Body: []byte(`a=b&c[d]=e`)})
			t.Log("checks", time.Since(began))
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("%s %d: a check takes %s", name, n, took)
			}
		}
	}
}

// Patterns hold beside formats, by either of the library's validators, and are not kept when the document is gone.
func TestPatterns(t *testing.T) {
	const doc = `{"openapi":"3.1.0","info":{"title":"x","version":"1"},"paths":{"/a":{"post":{
"parameters":[{"name":"filter","in":"query","content":{"application/json":{"schema":{"type":"object","required":["a"],"properties":{"a":{"type":"string","pattern":"^x+$"}}}}}},{"name":"any","in":"query","schema":{"pattern":"^\\u0061+$"}}],
"requestBody":{"content":{"application/json":{"schema":{"type":"object","properties":{"day":{"type":"string","format":"date","pattern":"^2026"},"n":{"type":"integer","format":"int32","pattern":"^x"},"s":{"pattern":"^x$"}}KIND}}}},"responses":{"200":{"description":"ok"}}}}}}`
	for _, kind := range []string{"", `,"patternProperties":{"^x-":{"type":"string"}}`} {
		s := compile(t, strings.Replace(doc, "KIND", kind, 1))
		for _, c := range []struct{ query, body, want string }{
			{"", `{"day":"2026-01-01","n":3,"s":"x"}`, ""},
			{"", `{"s":7}`, ""},
			{"", `{"day":"2025-01-01"}`, "body:/day has not the form that is declared"},
			{"", `{"day":"2026-13-01"}`, "body:/day has not the form that is declared"},
			{"", `{"n":9999999999}`, "body:/n has not the form that is declared"},
			{"", `{"s":"y"}`, "body:/s has not the form that is declared"},
			{"?any=aa&filter=%7B%22a%22:%22xx%22%7D", `{}`, ""},
			{"?any=b", `{}`, "query:any has not the form that is declared"},
			{"?filter=%7B%22a%22:%22y%22%7D", `{}`, "query:filter has not the form that is declared"},
			{"?filter=%7B%7D", `{}`, "query:filter is missing"},
			{"?filter=%7B%22a%22:%22x%22,%22a%22:%22y%22%7D", `{}`, "query:filter has a property twice"},
			{"?filter=x", `{}`, "query:filter is no JSON"},
		} {
			got := fmt.Sprint(s.Check(Request{Method: "POST", Target: "/a" + c.query, Header: jsonKind, Body: []byte(c.body)}))
			if want := "[" + c.want + "]"; got != want {
				t.Errorf("%s %s%s: %s, want %s", kind, c.query, c.body, got, want)
			}
		}
	}
	var list []string
	for i := range 30 {
		list = append(list, fmt.Sprintf(`"p%d":{"type":"string","pattern":"x{1000}"}`, i))
	}
	text := `{"openapi":"3.0.0","info":{"title":"x","version":"1"},"paths":{"/a":{"get":{"responses":{"200":{"description":"ok"}}}}},"components":{"schemas":{` + strings.Join(list, ",") + `}}}`
	if _, err := Compile(bulwark.Schema(text)); err == nil || !strings.Contains(err.Error(), "patterns take too much") {
		t.Error("patterns that take much are taken:", err)
	}
}
