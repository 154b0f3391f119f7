package edge

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

// What people's own requests meet is learned, by rule, place and argument; what one attacker sends is told from it.
func TestLearns(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Upstreams = Upstreams{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	})
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/search" {
			w.WriteHeader(400)
		}
		io.WriteString(w, "ok")
	}))
	ask := func(client, path string) {
		t.Helper()
		resp := fetch(t, r.client(true), "https://a.example.org"+path, "X-Forwarded-For: "+client)
		_, _ = io.ReadAll(resp.Body)
	}
	const script = "<script>alert(1)</script>"
	clients := []string{"192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:1:2::2"} // of two networks
	for n := range 6 {
		clients = append(clients, fmt.Sprintf("203.0.%d.7", n))
	}
	for _, client := range clients {
		ask(client, "/?q="+script)
		ask(client, "/notes/17/edit?text="+script)
		ask(client, "/search?q="+script)
	}
	for range 5 {
		ask("198.51.100.9", "/login?user="+script)
	}
	s := r.stats(app, bulwark.NotedWAF, 35)
	find := func(path string) bulwark.LearnedExclusion {
		t.Helper()
		i := slices.IndexFunc(s.Learned, func(l bulwark.LearnedExclusion) bool { return l.Path == path && l.Rule == 941100 })
		if i < 0 {
			t.Fatalf("nothing learned of %s: %+v", path, s.Learned)
		}
		return s.Learned[i]
	}
	if l := find("/notes"); l.Arg != "text" || l.Requests != 10 || l.Clients != 8 || l.Answered != 10 || !l.Ordinary() {
		t.Errorf("%+v", l)
	}
	if l := find("/"); l.Clients != 8 || l.Ordinary() {
		t.Errorf("what opens all of the app is taken for ordinary: %+v", l)
	}
	if l := find("/login"); l.Clients != 1 || l.Ordinary() {
		t.Errorf("one client's is taken for ordinary: %+v", l)
	}
	if l := find("/search"); l.Answered != 0 || l.Ordinary() {
		t.Errorf("what the app refuses is taken for ordinary: %+v", l)
	}
	// Accepted, the rules leave those alone in block, and nothing else.
	shield := bulwark.Shield{WAF: bulwark.WAFBlock}
	for _, l := range s.Learned {
		if l.Ordinary() {
			shield.Exclude = append(shield.Exclude, l.Exclusion)
		}
	}
	if _, err := (bulwark.Shield{}).With(bulwark.ShieldChange{Exclude: shield.Exclude}); err != nil {
		t.Fatal(err)
	}
	r.shield(app, shield)
	for path, want := range map[string]int{"/notes/9?text=" + script: 200, "/notes?other=" + script: 403, "/login?user=" + script: 403} {
		if resp := fetch(t, r.client(true), "https://a.example.org"+path); resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	after, err := r.control.Shield(t.Context(), app)
	if err != nil || slices.ContainsFunc(after.Learned, func(l bulwark.LearnedExclusion) bool { return l.Path == "/notes" && l.Arg == "text" }) {
		t.Error("what was accepted is proposed again", err)
	}
}

func TestPrefixOf(t *testing.T) {
	for p, want := range map[string]string{"/": "/", "": "", "*": "", "/a/b": "/a/b", "/notes/17/edit": "/notes", "/a//b": "/a", "/a/../b": "/a", "/a%2fb": "/", "/" + strings.Repeat("x", 50): "/", "/é": "/"} {
		if got := prefixOf(p); got != want {
			t.Errorf("%q: %q, want %q", p, got, want)
		}
	}
}
