package edge

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// What was found harmless is not looked at again while it is the same; whatever differs is, and what was none is noted each time.
func TestAlike(t *testing.T) {
	var seen sync.Map // ids of requests that were looked at
	r := newRig(t, func(c *Config) {
		c.observe = func(id string, _ waf.Verdict) { seen.Store(id, true) }
		c.alikeFor = 1 << 62 // no end of it comes in between
	})
	answer := atomic.Pointer[string]{}
	answer.Store(new(string))
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, *answer.Load())
	}))
	c := r.client(true)
	ask := func(path string, headers ...string) (id string) {
		t.Helper()
		resp := fetch(t, c, "https://a.example.org"+path, headers...)
		_, _ = io.ReadAll(resp.Body)
		return resp.Header.Get("X-Request-Id")
	}
	// looked asks, and tells whether somebody looked. Looks come after the answers, in their order, so another request's, of which there is only one, comes last.
	n := 0
	looked := func(path string, headers ...string) bool {
		t.Helper()
		id := ask(path, headers...)
		n++
		last := ask("/last?n=" + strconv.Itoa(n))
		until(t, func() bool { _, done := seen.Load(last); return done })
		_, done := seen.Load(id)
		return done
	}
	if !looked("/") {
		t.Fatal("nobody looked")
	}
	for range 3 {
		if looked("/") {
			t.Error("the same is looked at again")
		}
	}
	for _, v := range []struct {
		path    string
		headers []string
	}{{"/?a=1", nil}, {"/", []string{"Accept: text/html"}}, {"/", []string{"Accept: text/plain"}}, {"/", []string{"A: cept", "Accept: text/plain"}}, {"/", []string{"Cookie: a=b"}}} {
		if !looked(v.path, v.headers...) {
			t.Errorf("%v is not looked at", v)
		}
		if looked(v.path, v.headers...) {
			t.Errorf("%v is looked at again", v)
		}
	}
	other := "another answer"
	answer.Store(&other)
	if !looked("/") {
		t.Error("another answer is not looked at")
	}
	for range 3 {
		if !looked("/?id=1%27%20or%20%271%27=%271%20union%20select%20password%20from%20users--") {
			t.Error("an attack is not looked at again")
		}
	}
	r.stats(app, bulwark.NotedWAF, 3)
	if looked("/") {
		t.Error("the same is looked at again")
	}
	r.shield(app, bulwark.Shield{TLS: bulwark.TLSModern})
	if !looked("/") {
		t.Error("it is not looked at by what people chose")
	}
}

// What is not known to be alike was taken for what was seen, once anything had been seen: no body was looked at any more.
func TestHoleBodiesAreAlike(t *testing.T) {
	r := newRig(t, nil)
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		io.WriteString(w, "ok")
	}))
	c := r.client(true)
	get(t, c, "https://a.example.org/") // harmless
	for n := range 3 {
		resp, err := c.Post("https://a.example.org/", "application/x-www-form-urlencoded", strings.NewReader("id=1' or '1'='1 union select password from users--"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		r.stats(app, bulwark.NotedWAF, n+1)
	}
}
