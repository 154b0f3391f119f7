package waf

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestViews(t *testing.T) {
	for _, c := range []struct {
		of   func(string) string
		in   string
		want string
	}{
		{fromBase64, "PHNjcmlwdD4", "<script>"}, {fromBase64, "PHNjcmlwdD4=", "<script>"}, {fromBase64, "password", ""},
		{fromBase64, "short", ""}, {fromBase64, "not base64!", ""}, {fromBase64, "Pj4+Pj4+", ">>>>>>"}, {fromBase64, "Pj4 Pj4 ", ">>>>>>"}, {fromBase64, "Pj4-Pj4-", ">>>>>>"},
		{fromPercent, "%27or", "'or"}, {fromPercent, "100%", ""}, {fromPercent, "plain", ""}, {fromPercent, "a+b", ""},
		{tagless, "o<x>nfocus=alert<x>(1)", "onfocus=alert(1)"}, {tagless, "a <b>bold</b>", ""}, {tagless, "x<y", ""}, {tagless, "", ""},
	} {
		if got := c.of(c.in); got != c.want {
			t.Errorf("%q becomes %q, not %q", c.in, got, c.want)
		}
	}
}

// What is found in what a text decodes to stands under the name by which it came, and a rule can be told to leave that alone.
func TestViewNames(t *testing.T) {
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	attack := "KCYodWlkPWFkbWluKSghKCYoMT0wKSh1c2VyUGFzc3dvcmQ9cSkpKSk" // LDAP
	for where, q := range map[string]*Request{
		"ARGS:Note": {ID: "x", Client: "192.0.2.1", Method: "GET", Target: "/?Note=" + attack, Proto: "HTTP/1.1", Host: "a", Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}}},
		"ARGS:x-to": {ID: "x", Client: "192.0.2.1", Method: "GET", Target: "/", Proto: "HTTP/1.1", Host: "a", Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}, "X-To": {"(&(uid=admin)(!(&(1=0))))"}}},
		"ARGS:path": {ID: "x", Client: "192.0.2.1", Method: "GET", Target: "/" + url.PathEscape("(&(uid=admin)(!(&(1=0))))"), Proto: "HTTP/1.1", Host: "a", Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}}},
	} {
		v := f.Look(q, nil)
		found := ""
		for _, r := range v.Rules {
			if r.ID == 80100 {
				found = r.Where
			}
		}
		if !v.Attack || found != where {
			t.Errorf("%+v, not in %s", v, where)
		}
	}
	plain := &Request{ID: "x", Client: "192.0.2.1", Method: "GET", Target: "/?note=aGVsbG8gd29ybGQ", Proto: "HTTP/1.1", Host: "a", Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}}}
	if v := f.Look(plain, nil); v.Attack {
		t.Errorf("what is harmless: %+v", v)
	}
}

// An attacker sends arguments that use up all views, so that none was left for the path and the headers.
func TestHoleNoRoomForHeaders(t *testing.T) {
	f, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	var form strings.Builder
	for i := range mostViews/viewDepth + 10 {
		fmt.Fprintf(&form, "a%d=%%25252541&", i)
	}
	v := f.Look(&Request{ID: "x", Client: "192.0.2.1", Method: "POST", Target: "/", Proto: "HTTP/1.1", Host: "a", Body: []byte(form.String()),
		Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}, "Content-Type": {"application/x-www-form-urlencoded"}, "X-To": {"(&(uid=admin)(!(&(1=0))))"}}}, nil)
	for _, r := range v.Rules {
		if r.ID == 80100 && r.Where == "ARGS:x-to" {
			return
		}
	}
	t.Errorf("%+v, without the header", v)
}

func FuzzViews(f *testing.F) {
	for _, s := range []string{"PHNjcmlwdD4", "%2527or", "o<x>nfocus", "<", "a<b", "=", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := fromBase64(s); len(d) > len(s) {
			t.Errorf("%q grows to %q", s, d)
		}
		if d := fromPercent(s); len(d) > len(s) {
			t.Errorf("%q grows to %q", s, d)
		}
		if d := tagless(s); len(d) > len(s) {
			t.Errorf("%q grows to %q", s, d)
		}
	})
}
