package edge

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

// An app may make the headers stricter; what is looser is replaced, until its people say otherwise.
func TestAppsMayTighten(t *testing.T) {
	r := newRig(t, nil)
	var say http.Header
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		for k, v := range say {
			w.Header()[k] = v
		}
		if say["Content-Type"] == nil {
			w.Header().Set("Content-Type", "text/html")
		}
		io.WriteString(w, "x")
	}))
	c := r.client(true)
	ask := func(name string, values ...string) string {
		say = http.Header{name: values}
		resp, _ := get(t, c, "https://a.example.org/")
		return strings.Join(resp.Header[name], " | ")
	}
	const perm = "camera=(), microphone=(), geolocation=(), payment=(), usb=()"
	for _, v := range []struct {
		name, app, strict, loose string
	}{
		{"Strict-Transport-Security", "max-age=0", hstsOn, "max-age=0"},
		{"Strict-Transport-Security", "max-age=63072000", hstsOn, "max-age=63072000"},
		{"Strict-Transport-Security", "max-age=1; max-age=99999999; includeSubDomains", hstsOn, ""},
		{"Strict-Transport-Security", `max-age="99999999"; includeSubDomains; preload`, `max-age="99999999"; includeSubDomains; preload`, ""},
		{"X-Content-Type-Options", "none", "nosniff", "none"},
		{"X-Frame-Options", "ALLOWALL", "SAMEORIGIN", "ALLOWALL"},
		{"X-Frame-Options", "deny", "deny", "deny"},
		{"X-Frame-Options", "DENY, ALLOWALL", "SAMEORIGIN", ""},
		{"Referrer-Policy", "unsafe-url", "strict-origin-when-cross-origin", "unsafe-url"},
		{"Referrer-Policy", "no-referrer", "no-referrer", "no-referrer"},
		{"Referrer-Policy", "no-referrer, unsafe-url", "strict-origin-when-cross-origin", ""},
		{"Referrer-Policy", "", "strict-origin-when-cross-origin", ""},
		{"Permissions-Policy", "camera=*", "camera=* | " + perm, "camera=*"},
		{"Permissions-Policy", `fullscreen=(self "https://b.example.org"), usb=()`, `fullscreen=(self "https://b.example.org"), usb=() | ` + perm, ""},
		{"Permissions-Policy", "camera=(", perm, "camera=("},
		{"Content-Security-Policy", "default-src 'self'", "default-src 'self' | frame-ancestors 'self'", ""},
		{"Content-Security-Policy", "frame-ancestors *", "frame-ancestors * | frame-ancestors 'self'", ""},
	} {
		r.shield(app, bulwark.Shield{})
		if got := ask(v.name, v.app); got != v.strict {
			t.Errorf("%s: %q becomes %q, want %q", v.name, v.app, got, v.strict)
		}
		if v.loose == "" {
			continue
		}
		h, err := bulwark.ParseSecurityHeader(v.name)
		if err != nil {
			t.Fatal(err)
		}
		r.shield(app, bulwark.Shield{Loosened: []bulwark.SecurityHeader{h}})
		if got := ask(v.name, v.app); got != v.loose {
			t.Errorf("%s, loosened: %q becomes %q", v.name, v.app, got)
		}
	}
	// Loosened frames are so whichever of the two headers speaks of them, and what the app does not say stays ours.
	r.shield(app, bulwark.Shield{Loosened: []bulwark.SecurityHeader{bulwark.HeaderFrame}})
	if got := ask("Content-Security-Policy", "frame-ancestors https://b.example.org"); got != "frame-ancestors https://b.example.org" {
		t.Error(got)
	}
	say = nil
	if resp, _ := get(t, c, "https://a.example.org/"); resp.Header.Get("X-Frame-Options") != "SAMEORIGIN" {
		t.Error(resp.Header)
	}
}

func TestHeadersThatPeopleChoose(t *testing.T) {
	r := newRig(t, nil)
	kind := "text/html"
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", kind)
		if q.URL.Path == "/own" {
			w.Header().Set("Content-Security-Policy", "script-src 'none'")
		}
		io.WriteString(w, "x")
	}))
	c := r.client(true)
	ask := func(path, name string) string {
		resp, _ := get(t, c, "https://a.example.org"+path)
		return strings.Join(resp.Header[name], " | ")
	}
	for hsts, want := range map[bulwark.HSTSPolicy]string{bulwark.HSTSOff: "max-age=0", bulwark.HSTSPreload: hstsPreload, bulwark.HSTSOn: hstsOn} {
		r.shield(app, bulwark.Shield{HSTS: hsts})
		if got := ask("/", "Strict-Transport-Security"); got != want {
			t.Error(hsts, got)
		}
		r.shield(app, bulwark.Shield{HSTS: hsts, Maintenance: bulwark.MaintenanceOn})
		if got := ask("/", "Strict-Transport-Security"); got != want {
			t.Error("page of ours:", hsts, got)
		}
	}
	const policy = "default-src 'self'"
	r.shield(app, bulwark.Shield{CSP: policy})
	if got := ask("/", "Content-Security-Policy"); got != policy+" | frame-ancestors 'self'" {
		t.Error(got)
	}
	if got := ask("/own", "Content-Security-Policy"); got != "script-src 'none' | "+policy+" | frame-ancestors 'self'" {
		t.Error(got)
	}
	for k, want := range map[string]string{"application/json": dataPolicy, "Text/Plain; charset=utf-8": dataPolicy, "image/png": frameOwn, "application/xml": frameOwn} {
		kind = k
		if got := ask("/", "Content-Security-Policy"); got != want {
			t.Errorf("%s: %q", k, got)
		}
	}
}

// What browsers tell becomes a policy; what anybody tells can make the edge keep no more than so much, and nothing that breaks out of it.
func TestReports(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "the app's "+q.URL.Path)
		}))
		c := r.client(h2)
		if _, body := get(t, c, "https://a.example.org"+reportPath); !strings.HasPrefix(body, "the app's") {
			t.Error("the path is taken without need:", body)
		}
		r.shield(app, bulwark.Shield{CSP: bulwark.CSPReport})
		resp, _ := get(t, c, "https://a.example.org/")
		if got := resp.Header.Get("Content-Security-Policy-Report-Only"); !strings.Contains(got, "report-uri "+reportPath) || resp.Header.Get("Content-Security-Policy") != frameOwn {
			t.Fatal(resp.Header)
		}
		tell := func(body string, want int) {
			t.Helper()
			resp, err := c.Post("https://a.example.org"+reportPath, "application/csp-report", strings.NewReader(body))
			if err != nil || resp.StatusCode != want {
				t.Errorf("%.100s: %v %v", body, resp, err)
			}
		}
		report := func(directive, blocked string) string {
			return fmt.Sprintf(`{"csp-report":{"document-uri":"https://a.example.org/x?secret=1","effective-directive":%q,"blocked-uri":%q}}`, directive, blocked)
		}
		tell(report("script-src-elem", "https://cdn.example.net/lib.js?key=secret"), 204)
		tell(report("style-src-attr", "inline"), 204)
		tell(report("img-src", "https://a.example.org/logo.png"), 204)
		tell(report("img-src", "data"), 204)
		tell(report("img-src", "data"), 204)
		for _, bad := range []string{"", "{", `{"csp-report":{}}`, report("script-src; report-uri https://evil", "inline"), report("script-src", "https://a b"), report("script-src", "https://x;y"),
			report("script-src", "javascript:1"), strings.Replace(report("img-src", "https://c.example.org"), "a.example.org", "b.example.org", 1), report("default-src", "inline"),
			report("img-src", "https://"+strings.Repeat("x", 300)+".org"), report("img-src", "https://x\x1b[2J.org")} {
			if bad == "" {
				tell(bad, 400)
			} else {
				tell(bad, 204)
			}
		}
		tell(strings.Repeat("x", reportBytes+1), 400)
		s, err := r.control.Shield(t.Context(), app)
		if err != nil {
			t.Fatal(err)
		}
		const want = "default-src 'none'; img-src 'self' data:; script-src-elem https://cdn.example.net; style-src-attr 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
		if got := bulwark.ProposeCSP(s.CSP); string(got) != want {
			t.Errorf("%s, want\n%s", got, want)
		}
		if _, err := bulwark.ParseCSPolicy(string(bulwark.ProposeCSP(s.CSP))); err != nil {
			t.Error("it is not taken back:", err)
		}
		for i := range 2 * reportsMost {
			tell(report("img-src", fmt.Sprintf("https://n%d.example.org/", i)), 204)
		}
		if s, err = r.control.Shield(t.Context(), app); err != nil || len(s.CSP) != reportsMost {
			t.Error(len(s.CSP), err)
		}
	})
}

func FuzzReported(f *testing.F) {
	f.Add([]byte(`{"csp-report":{"document-uri":"https://a.example.org/","effective-directive":"img-src","blocked-uri":"https://x.org"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := reported(b, "a.example.org"); ok {
			if _, err := bulwark.ParseCSPolicy(string(bulwark.ProposeCSP([]bulwark.CSPSource{s}))); err != nil {
				t.Error(s, err)
			}
		}
	})
}
