package schema

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

const shop = `{"openapi":"3.0.3","info":{"title":"Shop","version":"1.2"},"servers":[{"url":"https://shop.example.org/v1"},{"url":"{scheme}://other/{stage}","variables":{"scheme":{"default":"https"},"stage":{"default":"beta","enum":["beta","test"]}}}],
"paths":{
 "/items":{
  "get":{"parameters":[
    {"name":"limit","in":"query","schema":{"type":"integer","minimum":1,"maximum":100}},
    {"name":"sort","in":"query","schema":{"type":"string","enum":["price","name"]}},
    {"name":"tag","in":"query","schema":{"type":"array","items":{"type":"string","maxLength":10}}},
    {"name":"X-Shop","in":"header","schema":{"type":"string","pattern":"^[a-z]+$"}},
    {"name":"any","in":"query","schema":{}},
    {"name":"basket","in":"cookie","schema":{"type":"integer"}}],"responses":{"200":{"description":"ok"}}},
  "post":{"security":[{"key":[]}],"requestBody":{"required":true,"content":{
    "application/json":{"schema":{"$ref":"#/components/schemas/Order"}},
    "application/x-www-form-urlencoded":{"schema":{"type":"object","additionalProperties":false,"required":["name"],"properties":{"name":{"type":"string","maxLength":5},"n":{"type":"integer"}}}},
    "image/png":{"schema":{"type":"string","format":"binary"}}}},"responses":{"200":{"description":"ok"}}}},
 "/items/{id}":{"parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"integer"}}],
  "get":{"responses":{"200":{"description":"ok"}}},"delete":{"parameters":[{"name":"sure","in":"query","required":true,"schema":{"type":"boolean"}}],"responses":{"200":{"description":"ok"}}}},
 "/items/new":{"get":{"responses":{"200":{"description":"ok"}}}},
 "/files/{name}.{kind}":{"get":{"parameters":[{"name":"name","in":"path","required":true,"schema":{"type":"string"}},{"name":"kind","in":"path","required":true,"schema":{"type":"string","enum":["png"]}}],"responses":{"200":{"description":"ok"}}}}
},
"components":{"securitySchemes":{"key":{"type":"apiKey","in":"header","name":"X-Key"}},"schemas":{
 "Order":{"type":"object","required":["items"],"additionalProperties":false,"properties":{
   "items":{"type":"array","minItems":1,"items":{"type":"object","required":["price"],"properties":{"price":{"type":"number","minimum":0},"name":{"type":"string"}}}},
   "id":{"type":"integer","readOnly":true},"notes":{"type":"object","additionalProperties":{"type":"string","maxLength":3}},"gift":{"type":"boolean","nullable":true},"day":{"type":"string","format":"date"}}}}}}`

const tree = `{"openapi":"3.1.0","info":{"title":"Tree","version":"1"},"paths":{
 "/find":{"post":{"requestBody":{"required":true,"content":{"application/json":{"schema":{"$ref":"#/components/schemas/Filter"}}}},"responses":{"200":{"description":"ok"}}}},
 "/const":{"post":{"requestBody":{"content":{"application/json":{"schema":{"type":"object","properties":{"kind":{"const":"a"},"n":{"type":["integer","null"]}},"patternProperties":{"^x-":{"type":"integer"}},"unevaluatedProperties":false}}}},"responses":{"200":{"description":"ok"}}}},
 "/null":{"post":{"requestBody":{"content":{"application/json":{"schema":{"type":"object","properties":{"n":{"type":["integer","null"],"exclusiveMinimum":3}}}}}},"responses":{"200":{"description":"ok"}}}}},
"components":{"schemas":{"Filter":{"oneOf":[{"type":"object","required":["and"],"properties":{"and":{"type":"array","items":{"$ref":"#/components/schemas/Filter"}}}},
  {"type":"object","required":["and"],"properties":{"and":{"type":"array","items":{"$ref":"#/components/schemas/Filter"}},"x":{"type":"integer"}}},{"type":"string"}]}}}}`

func compile(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Compile(bulwark.Schema(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var jsonKind = http.Header{"Content-Type": {"application/json"}}

func TestCheck(t *testing.T) {
	s := compile(t, shop)
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	order := `{"items":[{"price":1.5,"name":"x"}]}`
	for _, c := range []struct {
		method, target string
		header         http.Header
		body           string
		want           string // empty: it fits
	}{
		{"GET", "/v1/items", nil, "", ""},
		{"GET", "/v1/items?limit=7&sort=price&tag=a&tag=b&utm=x&any=1", http.Header{"X-Shop": {"abc"}, "Cookie": {"basket=5; other=x"}}, "", ""},
		{"HEAD", "/v1/items", nil, "", ""},
		{"HEAD", "/v1/items?limit=x", nil, "", "query:limit is of another type"},
		{"OPTIONS", "/v1/items", nil, "", ""},
		{"OPTIONS", "/v1/nothing", nil, "", "path is not declared"},
		{"OPTIONS", "/v1/items", nil, "x", "body is not declared"},
		{"GET", "/beta/items", nil, "", ""},
		{"GET", "/test/items", nil, "", ""},
		{"GET", "/items", nil, "", "path is not declared"},
		{"GET", "/v1/items/", nil, "", "path is not declared"},
		{"GET", "/v1//items", nil, "", "path is not declared"},
		{"GET", "/v1/Items", nil, "", "path is not declared"},
		{"GET", "/v1/%69tems", nil, "", ""},
		{"GET", "/v1/items/7", nil, "", ""},
		{"GET", "/v1/items/new", nil, "", ""},
		{"GET", "/v1/items/other", nil, "", "path:id is of another type"},
		{"GET", "/v1/items%2F7", nil, "", "path has two readings"},
		{"GET", "/v1/items/7%2Fadmin", nil, "", "path has two readings"},
		{"GET", "/v1/x/%2e%2e/items", nil, "", "path has two readings"},
		{"GET", "/v1/x/../items", nil, "", "path has two readings"},
		{"GET", "/v1/items/%zz", nil, "", "path is not well formed"},
		{"GET", "/v1/files/a.png", nil, "", ""},
		{"GET", "/v1/files/a.exe", nil, "", "path:kind is none of the values that are declared"},
		{"GET", "/v1/files/.png", nil, "", "path is not declared"},
		{"DELETE", "/v1/items/7?sure=true", nil, "", ""},
		{"DELETE", "/v1/items/7", nil, "", "query:sure is missing"},
		{"DELETE", "/v1/items/7?sure=true", nil, "{}", "body is not declared"},
		{"DELETE", "/v1/items/new?sure=true", nil, "", "path:id is of another type"},
		{"PATCH", "/v1/items/7", nil, "", "method is not declared at this path"},
		{"GET", "/v1/items?limit=0", nil, "", "query:limit is too small"},
		{"GET", "/v1/items?limit=1&limit=0", nil, "", "query:limit is given more than once"},
		{"GET", "/v1/items?limit=", nil, "", "query:limit is empty"},
		{"GET", "/v1/items?limit=1;drop", nil, "", "query is not well formed"},
		{"GET", "/v1/items?%zz=1", nil, "", "query is not well formed"},
		{"GET", "/v1/items?sort=secret", nil, "", "query:sort is none of the values that are declared"},
		{"GET", "/v1/items?tag=verylongsecret", nil, "", "query:tag is too long"},
		{"GET", "/v1/items?_method=DELETE", nil, "", "query:_method is not declared, and could make it another method"},
		{"GET", "/v1/items", http.Header{"X-Http-Method-Override": {"DELETE"}}, "", "header:X-Http-Method-Override is not declared, and could make it another method"},
		{"GET", "/v1/items", http.Header{"X-Shop": {"ABC"}}, "", "header:X-Shop has not the form that is declared"},
		{"GET", "/v1/items", http.Header{"X-Shop": {"abc", "ABC"}}, "", "header:X-Shop is given more than once"},
		{"GET", "/v1/items", http.Header{"Cookie": {"basket=x"}}, "", "cookie:basket is of another type"},
		{"GET", "/v1/items", http.Header{"Cookie": {"basket=1; basket=x"}}, "", "cookie:basket is given more than once"},
		{"POST", "/v1/items", jsonKind, order, ""},
		{"POST", "/v1/items", http.Header{"Content-Type": {"Application/JSON; charset=utf-8"}}, order, ""},
		{"POST", "/v1/items", http.Header{"Content-Type": {"application/json; charset=utf-7"}}, order, "header:Content-Type says another charset than UTF-8"},
		{"POST", "/v1/items", http.Header{"Content-Type": {"text/plain"}}, order, "header:Content-Type is none that is declared"},
		{"POST", "/v1/items", http.Header{"Content-Type": {"image/png", "application/json"}}, order, "header:Content-Type is given more than once"},
		{"POST", "/v1/items", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, order, "header:Content-Encoding hides what the body is"},
		{"POST", "/v1/items", nil, order, "header:Content-Type is none that is declared"},
		{"POST", "/v1/items", http.Header{"Content-Type": {"image/png"}}, "\x89PNG", ""},
		{"POST", "/v1/items", jsonKind, "", "body is missing"},
		{"POST", "/v1/items", jsonKind, "{", "body is no JSON"},
		{"POST", "/v1/items", jsonKind, order + order, "body is no JSON"},
		{"POST", "/v1/items", jsonKind, "{\"items\":[{\"price\":1,\"name\":\"\xff\"}]}", "body is no JSON"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1,"price":-1}]}`, "body has a property twice"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1e999999999}]}`, "body has a number that few can read"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1e-999999999}]}`, "body has a number that few can read"},
		{"POST", "/v1/items", jsonKind, strings.Repeat("[", 100) + strings.Repeat("]", 100), "body is nested too deep"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1},{"price":-1}]}`, "body:/items/1/price is too small"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":"secret"}]}`, "body:/items/0/price is of another type"},
		{"POST", "/v1/items", jsonKind, `{"items":[{}]}`, "body:/items/0/price is missing"},
		{"POST", "/v1/items", jsonKind, `{"items":[]}`, "body:/items has too few items"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1}],"secret":1}`, "body:/ has a property that is not declared"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1}],"id":1}`, "body:/id is not for clients to set"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1}],"notes":{"secret":"long one"}}`, "body:/notes/* is too long"},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1}],"gift":null}`, ""},
		{"POST", "/v1/items", jsonKind, `{"items":[{"price":1}],"day":"2026-13-01"}`, "body:/day has not the form that is declared"},
		{"POST", "/v1/items", form, "name=ann&n=3", ""},
		{"POST", "/v1/items", form, "name=annabella", "body:/name is too long"},
		{"POST", "/v1/items", form, "name=ann&name=eve", "body:/name is given more than once"},
		{"POST", "/v1/items", form, "name=ann&n=x", "body is no form as declared"},
		{"POST", "/v1/items", form, "name=ann&secret=x", "body:/ has a property that is not declared"},
		{"POST", "/v1/items", form, "name=ann&_method=PUT", "body:/_method is not declared, and could make it another method"},
		{"POST", "/v1/items", form, "n=3", "body:/name is missing"},
	} {
		got := fmt.Sprint(s.Check(Request{Method: c.method, Target: c.target, Header: c.header, Body: []byte(c.body)}))
		if want := "[" + c.want + "]"; got != want {
			t.Errorf("%s %s %v %.60q: %s, want %s", c.method, c.target, c.header, c.body, got, want)
		}
	}
	for extent, want := range map[Extent]string{Cut: "[body is longer than what is looked at]", Unseen: "[]"} {
		if got := fmt.Sprint(s.Check(Request{Method: "POST", Target: "/v1/items", Header: jsonKind, Body: []byte(order[:5]), Extent: extent})); got != want {
			t.Error(extent, got)
		}
	}
	if got := s.Check(Request{Method: "POST", Target: "/v1/items", Header: http.Header{"Content-Type": {"image/png"}}, Body: []byte("x"), Extent: Cut}); got != nil {
		t.Error("a large picture:", got)
	}
	if got := s.Check(Request{Method: "POST", Target: "/v1/items", Extent: Unseen}); got != nil {
		t.Error("a body that nobody took:", got)
	}
	if got := Broken().Check(Request{Method: "GET", Target: "/"}); len(got) != 1 {
		t.Error("a broken document lets through:", got)
	}
}

func TestCheckOf31(t *testing.T) {
	s := compile(t, tree)
	deep := func(n int) string { return strings.Repeat(`{"and":[`, n) + `"x"` + strings.Repeat(`]}`, n) }
	for _, c := range []struct{ path, body, want string }{
		{"/find", `"x"`, ""},
		{"/find", `7`, "body:/ fits none of the alternatives, or several"},
		{"/find", deep(31), "body takes too long to check"},
		{"/find", deep(33), "body is nested too deep"},
		{"/find", deep(6), "body:/ fits none of the alternatives, or several"}, // it comes to an end
		{"/find", strings.Replace(deep(6), `"x"`, `"x"`+strings.Repeat(`,"x"`, 500), 1), "body:/ fits none of the alternatives, or several"},
		{"/find", strings.Replace(deep(6), `"x"`, `"x"`+strings.Repeat(`,"x"`, 5000), 1), "body takes too long to check"},
		{"/const", `{"kind":"a","n":null,"x-a":3}`, ""},
		{"/const", `{"kind":"secret"}`, "body:/kind is not the value that is declared"},
		{"/const", `{"secret":1}`, "body:/* does not fit"},
		{"/const", `{"x-a":"secret"}`, "body:/* is of another type"},
		{"/null", `{"n":null}`, ""},
		{"/null", `{"n":3}`, "body:/n is too small"},
	} {
		got := fmt.Sprint(s.Check(Request{Method: "POST", Target: c.path, Header: jsonKind, Body: []byte(c.body)}))
		if want := "[" + c.want + "]"; got != want {
			t.Errorf("%s %.60s: %s, want %s", c.path, c.body, got, want)
		}
	}
}

// What is wrong with a document is told, and none has the edge look beyond it.
func TestCompile(t *testing.T) {
	with := func(paths, more string) string {
		return `{"openapi":"3.1.0","info":{"title":"x","version":"1"},"paths":` + paths + more + `}`
	}
	body := func(schema string) string {
		return with(`{"/a":{"post":{"requestBody":{"content":{"application/json":{"schema":`+schema+`}}},"responses":{"200":{"description":"ok"}}}}}`, "")
	}
	for text, want := range map[string]string{
		"":               "no OpenAPI document",
		"openapi: 3.0.0": "no OpenAPI document",
		strings.Replace(tree, "3.1.0", "3.2.0", 1):                                 "version \"3.2.0\"",
		`{"swagger":"2.0"}`:                                                        "version \"\"",
		with(`{}`, ""):                                                             "no paths",
		with(`{"/a":{}}`, ""):                                                      "no path with a method",
		body(`{"type":"nonsense"}`):                                                "nonsense",
		body(`{"$ref":"other.json#/a"}`):                                           "leads out of the document",
		body(`{"$ref":"file:///etc/passwd"}`):                                      "leads out of the document",
		body(`{"type":"object","$schema":"file:///dev/zero"}`):                     "$schema",
		body(`{"type":"object","$dynamicRef":"http://example.org/"}`):              "$dynamicRef",
		body(`{"$ref":"#/components/schemas/None"}`):                               "None",
		body(`{"type":"string","pattern":"(?=x)"}`):                                "(?=",
		with(`{"/a/{id}":{"get":{"responses":{"200":{"description":"ok"}}}}}`, ""): "id",
		body(strings.Repeat(`{"items":`, 300) + `{}` + strings.Repeat(`}`, 300)):   "nested too deep",
		`{"openapi":"3.0.0","x":"` + strings.Repeat("x", bulwark.MaxSchema) + `"}`: "more than 96 KB",
	} {
		if _, err := Compile(bulwark.Schema(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

// Nothing that a client sends trips the check over, or comes back in what it says.
func FuzzCheck(f *testing.F) {
	f.Add("GET", "/v1/items?limit=1&sort=x", "application/json", "", "{}")
	f.Add("POST", "/v1/items", "application/json", "x", `{"items":[{"price":"q9z9q"}],"q9z9q":{"q9z9q":1}}`)
	f.Add("POST", "/const", "application/json", "x", `{"kind":"q9z9q","x-q9z9q":"a"}`)
	f.Add("POST", "/find", "application/json", "x", `{"and":[{"and":["q9z9q"]}]}`)
	f.Add("POST", "/v1/items", "application/x-www-form-urlencoded", "x", `name=q9z9q&n=q9z9q&q9z9q=1&q9z9q=2`)
	f.Add("DELETE", "/v1/items/q9z9q?sure=q9z9q&tag=q9z9qq9z9q", "q9z9q", "q9z9q", "")
	both := []*Schema{compile(f, shop), compile(f, tree)}
	f.Fuzz(func(t *testing.T, method, target, kind, header, body string) {
		for _, s := range both {
			for _, extent := range []Extent{Whole, Cut, Unseen} {
				h := http.Header{"Content-Type": {kind}, "X-Shop": {header}, "Cookie": {"basket=" + header}}
				for _, v := range s.Check(Request{Method: method, Target: target, Header: h, Body: []byte(body), Extent: extent}) {
					if strings.Contains(v.String(), "q9z9q") {
						t.Errorf("it says what the client sent: %s", v)
					}
					if v.Where == "request" {
						t.Errorf("it tripped over %q %q %q %q", method, target, kind, body)
					}
				}
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	body := `{"items":[` + strings.Repeat(`{"price":12.5,"name":"a good thing"},`, 55) + `{"price":1}]}`
	s := compile(b, shop)
	b.Run("json of 2 KB", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := s.Check(Request{Method: "POST", Target: "/v1/items", Header: jsonKind, Body: []byte(body)}); v != nil {
				b.Fatal(v, len(body))
			}
		}
	})
	b.Run("parameters", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := s.Check(Request{Method: "GET", Target: "/v1/items?limit=7&sort=price"}); v != nil {
				b.Fatal(v)
			}
		}
	})
	heavy := compile(b, tree)
	b.Run("what JSON Schema 2020-12 alone says", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := heavy.Check(Request{Method: "POST", Target: "/const", Header: jsonKind, Body: []byte(`{"kind":"a","n":null,"x-a":3}`)}); v != nil {
				b.Fatal(v)
			}
		}
	})
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			compile(b, shop)
		}
	})
}
