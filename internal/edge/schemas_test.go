package edge

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/schema"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

const shopSchema bulwark.Schema = `{"openapi":"3.0.3","info":{"title":"Shop","version":"1"},"paths":{
"/items":{"get":{"parameters":[{"name":"limit","in":"query","schema":{"type":"integer","maximum":100}}],"responses":{"200":{"description":"ok"}}},
 "post":{"requestBody":{"required":true,"content":{"application/json":{"schema":{"type":"object","additionalProperties":false,"required":["price"],"properties":{"price":{"type":"number","minimum":0},"note":{"type":"string"}}}},
   "application/octet-stream":{}}},"responses":{"200":{"description":"ok"}}}},
"/items/{id}":{"get":{"parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"integer"}}],"responses":{"200":{"description":"ok"}}}}}}`

// misfitting are requests that do not fit shopSchema, with what is told of each.
var misfitting = []struct {
	name, method, path, body, kind string
	chunked                        bool
	header                         http.Header
	want                           string
}{
	{name: "an unknown path", method: "GET", path: "/admin", want: "path is not declared"},
	{name: "an unknown method", method: "DELETE", path: "/items", want: "method is not declared at this path"},
	{name: "an ill-typed parameter", method: "GET", path: "/items?limit=hunter2", want: "query:limit is of another type"},
	{name: "a second parameter", method: "GET", path: "/items?limit=1&limit=1000", want: "query:limit is given more than once"},
	{name: "an encoded slash", method: "GET", path: "/items%2F7", want: "path has two readings"},
	{name: "a trailing slash", method: "GET", path: "/items/", want: "path is not declared"},
	{name: "another method by a header", method: "POST", path: "/items", body: `{"price":1}`, header: http.Header{"X-Http-Method-Override": {"DELETE"}}, want: "header:X-Http-Method-Override is not declared, and could make it another method"},
	{name: "a value", method: "POST", path: "/items", body: `{"price":-1}`, want: "body:/price is too small"},
	{name: "a value in chunks", method: "POST", path: "/items", body: `{"price":-1}`, chunked: true, want: "body:/price is too small"},
	{name: "a property", method: "POST", path: "/items", body: `{"price":1,"hunter2":true}`, want: "body:/ has a property that is not declared"},
	{name: "a property twice", method: "POST", path: "/items", body: `{"price":1,"price":-1}`, want: "body has a property twice"},
	{name: "no body", method: "POST", path: "/items", want: "body is missing"},
	{name: "another type", method: "POST", path: "/items", kind: "text/plain", body: `{"price":1}`, want: "header:Content-Type is none that is declared"},
	{name: "a body where none is", method: "GET", path: "/items", body: `{}`, want: "body is not declared"},
	{name: "a long body", method: "POST", path: "/items", body: `{"price":1,"note":"` + strings.Repeat("word ", 40_000) + `"}`, want: "body is longer than what is looked at"},
}

func sendMisfit(t *testing.T, c *http.Client, i int) (*http.Response, string) {
	m := misfitting[i]
	header := http.Header{"Content-Type": {"application/json"}}
	if m.kind != "" {
		header.Set("Content-Type", m.kind)
	}
	for k, v := range m.header {
		header[k] = v
	}
	var body io.Reader
	if m.body != "" {
		body = strings.NewReader(m.body)
		if m.chunked {
			body = struct{ io.Reader }{body}
		}
	}
	return send(t, c, m.method, m.path, header, body)
}

// What does not fit is refused before the app sees a byte of it; what fits arrives whole. The same requests pass where they are only noted.
func TestSchema(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		got := make(chan string, 100)
		app := shielded(t, r, bulwark.Shield{WAF: bulwark.WAFBlock, Schema: shopSchema}, func(w http.ResponseWriter, q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			got <- q.Method + " " + q.RequestURI + " " + string(b)
		})
		c := r.client(h2)
		for i, m := range misfitting {
			if resp, page := sendMisfit(t, c, i); resp.StatusCode != 403 || !strings.Contains(page, "does not fit") || strings.Contains(page, "hunter2") {
				t.Errorf("%s: %d %s", m.name, resp.StatusCode, page)
			}
			s := r.stats(app, bulwark.RefusedSchema, i+1)
			if x := s.Examples[0]; x.Reason != bulwark.RefusedSchema || !slices.Equal(x.Schema, []string{m.want}) || len(x.Rules) > 0 {
				t.Errorf("%s: %+v", m.name, x)
			}
		}
		select {
		case v := <-got:
			t.Errorf("the app got %.100q", v)
		default:
		}
		kind := http.Header{"Content-Type": {"application/json"}}
		file := strings.Repeat("data", 100_000)
		for _, m := range []struct {
			method, path, body string
			header             http.Header
		}{{"GET", "/items?limit=7&utm=x", "", nil}, {"HEAD", "/items", "", nil}, {"OPTIONS", "/items", "", nil}, {"GET", "/items/7", "", nil}, {"GET", powPath, "", nil},
			{"POST", "/items", `{"price":1.5}`, kind}, {"POST", "/items", file, http.Header{"Content-Type": {"application/octet-stream"}}}} {
			for _, chunked := range []bool{false, true} {
				var body io.Reader
				if m.body != "" {
					if body = strings.NewReader(m.body); chunked {
						body = struct{ io.Reader }{body}
					}
				}
				if resp, page := send(t, c, m.method, m.path, m.header, body); resp.StatusCode != 200 {
					t.Errorf("%s %s: %d %s %+v", m.method, m.path, resp.StatusCode, page, r.stats(app, bulwark.RefusedSchema, 1).Examples[0])
				} else if v := <-got; v != m.method+" "+m.path+" "+m.body {
					t.Errorf("the app got %.100q", v)
				}
			}
		}
		// What fits may be an attack.
		if resp, _ := send(t, c, "POST", "/items", kind, strings.NewReader(`{"price":1,"note":"<script>alert(document.cookie)</script>"}`)); resp.StatusCode != 403 {
			t.Error("an attack that fits:", resp.StatusCode)
		}
		r.stats(app, bulwark.RefusedWAF, 1)

		// Nobody looks where the firewall is off.
		r.shield(app, bulwark.Shield{WAF: bulwark.WAFOff, Schema: shopSchema})
		if resp, _ := send(t, c, "GET", "/admin", nil, nil); resp.StatusCode != 200 {
			t.Error("though the firewall is off:", resp.StatusCode)
		}
		<-got
		// One that the edge cannot read lets nothing through.
		r.shield(app, bulwark.Shield{WAF: bulwark.WAFBlock, Schema: `{"openapi":"3.0.3"}`})
		if resp, _ := send(t, c, "GET", "/items", nil, nil); resp.StatusCode != 403 {
			t.Error("by no document:", resp.StatusCode)
		}
		n := len(misfitting) + 1
		if s := r.stats(app, bulwark.RefusedSchema, n); s.Counts[bulwark.RefusedSchema] != n || s.Counts[bulwark.NotedSchema] != 0 || !strings.HasPrefix(s.Examples[0].Schema[0], "document ") {
			t.Errorf("%+v", s)
		}
	})
}

func TestSchemaIsNoted(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, func(c *Config) { c.alikeFor = 1 << 62 })
		app := shielded(t, r, bulwark.Shield{Schema: shopSchema}, func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.Copy(io.Discard, q.Body)
		})
		c := r.client(h2)
		for i, m := range misfitting {
			if resp, page := sendMisfit(t, c, i); resp.StatusCode != 200 {
				t.Errorf("%s: %d %s", m.name, resp.StatusCode, page)
			}
			s := r.stats(app, bulwark.NotedSchema, i+1)
			at := slices.IndexFunc(s.Examples, func(x bulwark.ShieldExample) bool { return x.Reason == bulwark.NotedSchema })
			if x := s.Examples[at]; !slices.Equal(x.Schema, []string{m.want}) {
				t.Errorf("%s: %+v", m.name, x)
			}
		}
		n := len(misfitting)
		// The same again is noted again: it is not among what was found harmless.
		for range 3 {
			n++
			send(t, c, "GET", "/admin", nil, nil)
			r.stats(app, bulwark.NotedSchema, n)
		}
		// What fits is not noted. Looks come in the order of answers, so the last one tells of all.
		send(t, c, "GET", "/items?limit=7", nil, nil)
		send(t, c, "POST", "/items", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(`{"price":1}`))
		send(t, c, "GET", "/admin", nil, nil)
		n++
		if s := r.stats(app, bulwark.NotedSchema, n); s.Counts[bulwark.NotedSchema] != n || s.Counts[bulwark.RefusedSchema] != 0 {
			t.Errorf("%+v", s.Counts)
		}
		// One request may be both.
		attacks := r.stats(app, bulwark.NotedSchema, n).Counts[bulwark.NotedWAF]
		send(t, c, "GET", "/admin"+attackQuery, nil, nil)
		r.stats(app, bulwark.NotedSchema, n+1)
		r.stats(app, bulwark.NotedWAF, attacks+1)
	})
}

// A body that an app left lying is not taken for one that does not fit.
func TestExtentSeen(t *testing.T) {
	for name, c := range map[string]struct {
		framing framing
		length  int64
		body    *firstBytes
		want    schema.Extent
	}{
		"none":                    {noBody, 0, nil, schema.Whole},
		"of which none was kept":  {chunked, -1, nil, schema.Unseen},
		"whole by its length":     {fixedLength, 4, &firstBytes{kept: make([]byte, 4)}, schema.Whole},
		"whole by its end":        {chunked, -1, &firstBytes{kept: make([]byte, 4), ended: true}, schema.Whole},
		"left lying":              {fixedLength, 10, &firstBytes{kept: make([]byte, 4)}, schema.Unseen},
		"left lying, in chunks":   {chunked, -1, &firstBytes{kept: make([]byte, 4)}, schema.Unseen},
		"longer than what's kept": {chunked, -1, &firstBytes{kept: make([]byte, waf.MaxBody), ended: true}, schema.Cut},
		"just what is kept":       {fixedLength, waf.MaxBody, &firstBytes{kept: make([]byte, waf.MaxBody)}, schema.Whole},
	} {
		x := &exchange{r: &http.Request{ContentLength: c.length}, framing: c.framing}
		if got := x.extentSeen(c.body); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// A document is made ready once, however often the node says the same.
func TestSchemaIsKept(t *testing.T) {
	g := newGuards(1, policies{})
	first := g.choose(bulwark.Shield{Schema: shopSchema}, nil)
	if again := g.choose(bulwark.Shield{Schema: shopSchema, TLS: bulwark.TLSModern}, first); again.schema != first.schema {
		t.Error("it is read again")
	}
	if other := g.choose(bulwark.Shield{Schema: shopSchema + " "}, first); other.schema == first.schema {
		t.Error("another is taken for it")
	}
	if none := g.choose(bulwark.Shield{}, first); none.schema != nil {
		t.Error("it stays")
	}
}
