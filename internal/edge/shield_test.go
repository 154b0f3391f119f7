package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/astable"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

const attackQuery = "?id=1%27%20or%20%271%27=%271%20union%20select%20password%20from%20users--"

// shielded serves an app at the first test host by h, with a shield.
func shielded(t *testing.T, r *rig, s bulwark.Shield, h http.HandlerFunc) bulwark.AppID {
	app := r.serve(testHosts[0], backend(t, h))
	r.shield(app, s)
	return app
}

func (r *rig) shield(app bulwark.AppID, s bulwark.Shield) {
	r.t.Helper()
	if err := r.certs.PutShields(context.Background(), []bulwark.Shielded{{App: app, Hosts: testHosts[:1], Shield: s}}); err != nil {
		r.t.Fatal(err)
	}
}

// stats waits until the edge has counted so many of a reason.
func (r *rig) stats(app bulwark.AppID, why bulwark.Refusal, n int) bulwark.ShieldStats {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s, err := r.control.Shield(context.Background(), app)
		if err != nil {
			r.t.Fatal(err)
		}
		if s.Counts[why] >= n {
			return s
		}
		if time.Now().After(end) {
			r.t.Fatalf("%d of %s, want %d: %+v", s.Counts[why], why, n, s)
		}
	}
}

func send(t *testing.T, c *http.Client, method, path string, header http.Header, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, "https://a.example.org"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// Every app is looked after, whoever has chosen nothing too, and nobody waits for it.
func TestAttackIsNoted(t *testing.T) {
	r := newRig(t, nil)
	app := r.serve(testHosts[0], backend(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	for _, h2 := range []bool{false, true} {
		c := r.client(h2)
		if resp, _ := send(t, c, "GET", "/"+attackQuery, nil, nil); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
		body := `{"x":"<script>alert(document.cookie)</script>"}`
		if resp, got := send(t, c, "POST", "/", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(body)); resp.StatusCode != 200 || got != body {
			t.Errorf("status %d, %q", resp.StatusCode, got)
		}
	}
	s := r.stats(app, bulwark.NotedWAF, 4)
	if len(s.Counts) != 1 || len(s.Examples) != 4 || len(s.Examples[0].Rules) == 0 || s.Examples[0].Client != "127.0.0.1" {
		t.Errorf("%+v", s)
	}
}

// An attack is refused before the app sees a byte of it, wherever it stands; what is none arrives whole.
func TestAttackIsRefused(t *testing.T) {
	r := newRig(t, nil)
	got := make(chan string, 100)
	app := shielded(t, r, bulwark.Shield{WAF: bulwark.WAFBlock}, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.RequestURI + " " + string(b)
	})
	evil := "<script>alert(document.cookie)</script>"
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	large := strings.Repeat("word ", 200_000)
	for _, h2 := range []bool{false, true} {
		c := r.client(h2)
		for name, ask := range map[string]func() (*http.Response, string){
			"in the query": func() (*http.Response, string) { return send(t, c, "GET", "/"+attackQuery, nil, nil) },
			"in a header": func() (*http.Response, string) {
				return send(t, c, "GET", "/", http.Header{"Referer": {"http://x/?q=" + evil}}, nil)
			},
			"in a form": func() (*http.Response, string) { return send(t, c, "POST", "/", form, strings.NewReader("q="+evil)) },
			"in chunks": func() (*http.Response, string) {
				return send(t, c, "POST", "/", form, io.MultiReader(strings.NewReader("q="+evil[:5]), strings.NewReader(evil[5:])))
			},
			"behind more arguments than are looked at": func() (*http.Response, string) {
				return send(t, c, "POST", "/", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(`{"pad":[0`+strings.Repeat(",0", 1200)+`],"q":"`+evil+`"}`))
			},
			"behind more of the query than is looked at": func() (*http.Response, string) {
				return send(t, c, "GET", "/?"+strings.Repeat("a&", 1200)+attackQuery[1:], nil, nil)
			},
			"in a file": func() (*http.Response, string) {
				return send(t, c, "POST", "/", http.Header{"Content-Type": {"multipart/form-data; boundary=b"}},
					strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"q\"\r\n\r\n"+evil+"\r\n--b--\r\n"))
			},
		} {
			resp, page := ask()
			if resp.StatusCode != 403 || !strings.Contains(page, resp.Header.Get("X-Request-Id")) || strings.Contains(page, "script>alert") {
				t.Errorf("%s (h2 %t): %d %s", name, h2, resp.StatusCode, page)
			}
		}
		for name, body := range map[string]string{"small": "q=hello", "none": "", "large": "q=" + large, "just what is looked at": "q=" + large[:waf.MaxBody-2]} {
			for _, chunked := range []bool{false, true} {
				var b io.Reader = strings.NewReader(body)
				if chunked {
					b = struct{ io.Reader }{b}
				}
				if resp, page := send(t, c, "POST", "/x", form, b); resp.StatusCode != 200 {
					t.Errorf("%s (h2 %t): %d %s", name, h2, resp.StatusCode, page)
				} else if v := <-got; v != "/x "+body {
					t.Errorf("%s (h2 %t, chunked %t): the app got %d bytes, not %d", name, h2, chunked, len(v), len(body)+3)
				}
			}
		}
	}
	if s := r.stats(app, bulwark.RefusedWAF, 14); s.Counts[bulwark.RefusedWAF] != 14 || s.Counts[bulwark.NotedWAF] != 0 {
		t.Errorf("%+v", s.Counts)
	}
	select {
	case v := <-got:
		t.Errorf("the app got %.100q", v)
	default:
	}
	r.shield(app, bulwark.Shield{WAF: bulwark.WAFBlock, Exclude: []bulwark.Exclusion{{Rule: 942100, Path: "/search"}, {Rule: 942190, Path: "/search"}, {Rule: 942270, Path: "/search"}, {Rule: 942360, Path: "/search"}}})
	c := r.client(true)
	if resp, _ := send(t, c, "GET", "/search"+attackQuery, nil, nil); resp.StatusCode != 200 {
		t.Errorf("excluded: %d", resp.StatusCode)
	}
	if resp, _ := send(t, c, "GET", "/searching"+attackQuery, nil, nil); resp.StatusCode != 403 {
		t.Errorf("beside what is excluded: %d", resp.StatusCode)
	}
}

// An answer that gives away what went wrong inside is kept back; one that streams is not held up.
func TestLeakIsKeptBack(t *testing.T) {
	r := newRig(t, nil)
	next := make(chan bool)
	page := strings.Repeat("<p>hello</p>", 30_000)
	shielded(t, r, bulwark.Shield{WAF: bulwark.WAFBlock}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/leak", "/leak-chunked":
			w.Header().Set("Content-Type", "text/html")
			if r.URL.Path == "/leak-chunked" {
				w.(http.Flusher).Flush()
			}
			fmt.Fprint(w, "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version")
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, page)
		case "/events", "/text":
			w.Header().Set("Content-Type", map[string]string{"/events": "text/event-stream", "/text": "text/plain"}[r.URL.Path])
			fmt.Fprint(w, "first")
			w.(http.Flusher).Flush()
			<-next
			fmt.Fprint(w, " second")
		}
	})
	for _, h2 := range []bool{false, true} {
		c := r.client(h2)
		for _, path := range []string{"/leak", "/leak-chunked"} {
			if resp, text := send(t, c, "GET", path, nil, nil); resp.StatusCode != 403 || strings.Contains(text, "SQL") {
				t.Errorf("%s: %d %s", path, resp.StatusCode, text)
			}
		}
		if resp, text := send(t, c, "GET", "/page", nil, nil); resp.StatusCode != 200 || text != page {
			t.Errorf("a large page: %d, %d bytes", resp.StatusCode, len(text))
		}
		if resp, text := send(t, c, "HEAD", "/page", nil, nil); resp.StatusCode != 200 || text != "" {
			t.Errorf("HEAD: %d %q", resp.StatusCode, text)
		}
		for _, path := range []string{"/events", "/text"} {
			resp, err := c.Get("https://a.example.org" + path)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "first" {
				t.Errorf("%s: %q %v", path, b, err)
			}
			next <- true
			if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != " second" {
				t.Errorf("%s: %q %v", path, rest, err)
			}
			resp.Body.Close()
		}
	}
}

// What the node said of shields holds over a restart of the edge, and whoever has the server's socket cannot say it.
func TestShieldOutlivesTheEdge(t *testing.T) {
	r := newRig(t, nil)
	app := shielded(t, r, bulwark.Shield{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, func(http.ResponseWriter, *http.Request) {})
	if err := r.control.PutShields(context.Background(), nil); err == nil {
		t.Error("the server's socket takes shields")
	}
	if err := r.issued.PutShields(context.Background(), nil); err == nil {
		t.Error("the socket of the certs process takes shields")
	}
	stop := r.successor()
	r.stop()
	defer stop()
	if resp, _ := send(t, r.client(true), "GET", "/", nil, nil); resp.StatusCode != 403 {
		t.Errorf("after a restart: %d", resp.StatusCode)
	}
	// Whatever app the server says has the host.
	r.serve(testHosts[0], backend(t, func(http.ResponseWriter, *http.Request) {}))
	if resp, _ := send(t, r.client(true), "GET", "/", nil, nil); resp.StatusCode != 403 {
		t.Errorf("for another app: %d", resp.StatusCode)
	}
	if err := r.certs.PutShields(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if resp, _ := send(t, r.client(true), "GET", "/", nil, nil); resp.StatusCode != 200 {
		t.Errorf("without a shield: %d", resp.StatusCode)
	}
	_ = app
}

// Bodies that are kept for a look take memory that is bounded, whoever sends how many; what was kept is given back.
func TestKeptBodiesAreBounded(t *testing.T) {
	f := newFirewall(stockFirewall())
	var all []*firstBytes
	guards := []*guard{{}, {}, {}, {}, {}, {}}
	for i := range 3000 {
		b := &firstBytes{g: guards[i/500], ReadCloser: io.NopCloser(bytes.NewReader(make([]byte, 2*waf.MaxBody))), f: f}
		if _, err := io.Copy(io.Discard, b); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	kept := 0
	for _, b := range all {
		kept += cap(b.kept)
	}
	if kept > sightsBytes || int64(kept) != f.copied.Load() {
		t.Errorf("%d bytes are kept, %d counted", kept, f.copied.Load())
	}
	// No app takes the room of others.
	if held := guards[0].held.Load(); held > bytesOfApp || held == 0 || guards[3].held.Load() == 0 {
		t.Errorf("%d bytes are kept of the first app, %d of the fourth", held, guards[3].held.Load())
	}
}

// A limit lets through what it says and no more, for each client by itself, and those of one IPv6 network are one.
func TestMeters(t *testing.T) {
	m := newMeters()
	l := newLimiter(1, bulwark.RateLimit{Rate: bulwark.Rate{Requests: 50, Window: time.Second}, Per: bulwark.PerClient})
	a, b := network(netip.MustParseAddr("2001:db8::1")), network(netip.MustParseAddr("2001:db8::ffff:1"))
	if a != b || network(netip.MustParseAddr("2001:db8:0:1::1")) == a || network(netip.MustParseAddr("::ffff:192.0.2.1")) != netip.MustParseAddr("192.0.2.1") {
		t.Error("networks are not told apart")
	}
	passed := 0
	for now := time.Duration(0); now < 10*time.Second; now += time.Millisecond {
		if wait, _ := m.take(&l, a, now); wait == 0 {
			passed++
		}
	}
	if passed < 549 || passed > 551 { // those at once, and those of ten seconds
		t.Errorf("%d passed", passed)
	}
	if wait, _ := m.take(&l, netip.MustParseAddr("192.0.2.1"), 10*time.Second); wait != 0 {
		t.Error("another client has to wait")
	}
	for i := range 1_000_000 {
		m.take(&l, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 10*time.Second)
	}
	n := 0
	for i := range m.shards {
		n += len(m.shards[i].taken)
	}
	if n > meterShards*meterRoom {
		t.Errorf("%d clients are remembered", n)
	}
}

// Counts are of the last hour, whatever the clock does.
func TestTally(t *testing.T) {
	var ta tally
	now := time.Unix(1_700_000_000, 0)
	for i := range 100 {
		ta.note(bulwark.ShieldExample{Time: now.Add(time.Duration(i) * time.Minute), Reason: bulwark.RefusedDeny})
	}
	s := ta.stats(now.Add(99 * time.Minute))
	if s.Counts[bulwark.RefusedDeny] != 60 || len(s.Examples) != tallyExamples || !s.Examples[0].Time.After(s.Examples[1].Time) {
		t.Errorf("%+v", s)
	}
	if s := ta.stats(now.Add(-time.Hour)); s.Counts[bulwark.RefusedDeny] != 0 {
		t.Errorf("before it happened: %+v", s)
	}
	if s := ta.stats(now.Add(300 * time.Minute)); len(s.Counts)+len(s.Examples) != 0 {
		t.Errorf("hours later: %+v", s)
	}
}

// A patch is over all apps as soon as the edge has it, refuses before an app sees anything, counts, comes back with the edge, and ends.
func TestPatches(t *testing.T) {
	r := newRig(t, nil)
	got := make(chan string, 100)
	app := r.serve(testHosts[0], backend(t, func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		got <- q.RequestURI + " " + string(b)
	}))
	// What an app's people exclude is none of a patch's rules, though they have the same number.
	r.shield(app, bulwark.Shield{WAF: bulwark.WAFOff, Exclude: []bulwark.Exclusion{{Rule: 1000}, {Rule: 2}}})
	put := func(list ...bulwark.Patch) {
		t.Helper()
		if err := r.certs.PutPatches(context.Background(), list); err != nil {
			t.Fatal(err)
		}
	}
	state := func(name bulwark.PatchName) (s bulwark.PatchStats) {
		t.Helper()
		all, err := r.control.Patches(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s.Name == name {
				return s
			}
		}
		return s
	}
	later := time.Now().Add(time.Hour)
	body := bulwark.Patch{Name: "body", Rules: `SecRule ARGS "@contains evil" "id:1000,phase:2"`, Until: later}
	head := bulwark.Patch{Name: "head", Rules: `SecRule REQUEST_HEADERS:X-Old "@streq 1" "id:1000,phase:1"`, Until: later, DryRun: true}
	put(body, head, bulwark.Patch{Name: "wrong", Rules: "SecNothing", Until: later})
	if s := state("wrong"); s.Live || s.Error == "" {
		t.Errorf("one that cannot be read: %+v", s)
	}
	if !state("body").Live || !state("head").Live {
		t.Error("one that cannot be read takes others along")
	}
	c := r.client(true)
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if resp, page := send(t, c, "POST", "/", form, strings.NewReader("q=so+evil+it+is")); resp.StatusCode != 403 || strings.Contains(page, "1000") {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
	if resp, _ := send(t, c, "GET", "/x", http.Header{"X-Old": {"1"}}, nil); resp.StatusCode != 200 || <-got != "/x " {
		t.Errorf("in its dry run: %d", resp.StatusCode)
	}
	for name, body := range map[string]string{"behind more than is looked at": `{"pad":[0` + strings.Repeat(",0", 1200) + `],"q":"evil"}`, "in what does not parse": `{"q":"evil"`} {
		if resp, _ := send(t, c, "POST", "/", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(body)); resp.StatusCode != 403 {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	if resp, _ := send(t, c, "POST", "/", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, strings.NewReader("x")); resp.StatusCode != 403 {
		t.Errorf("in what is compressed: %d", resp.StatusCode)
	}
	large := "q=" + strings.Repeat("good ", 100_000)
	if resp, _ := send(t, c, "POST", "/y", form, strings.NewReader(large)); resp.StatusCode != 200 || <-got != "/y "+large {
		t.Errorf("what is harmless: %d", resp.StatusCode)
	}
	if s := state("body"); s.Hits != 4 || s.Last.IsZero() {
		t.Errorf("%+v", s)
	}
	if s := r.stats(app, bulwark.NotedPatch, 1); s.Counts[bulwark.RefusedPatch] != 4 {
		t.Errorf("%+v", s)
	}
	put(body) // the same: it goes on counting
	if s := state("body"); s.Hits != 4 {
		t.Errorf("%+v", s)
	}
	if err := r.control.PutPatches(context.Background(), nil); err == nil {
		t.Error("the server's socket takes patches")
	}
	stop := r.successor()
	r.stop()
	defer stop()
	if resp, _ := send(t, r.client(true), "GET", "/?q=evil", nil, nil); resp.StatusCode != 403 {
		t.Errorf("after a restart: %d", resp.StatusCode)
	}
	body.Until = time.Now().Add(300 * time.Millisecond)
	put(body)
	time.Sleep(time.Until(body.Until))
	if resp, _ := send(t, r.client(true), "GET", "/?q=evil", nil, nil); resp.StatusCode != 200 {
		t.Errorf("at its end: %d", resp.StatusCode)
	}
}

// An app whose people chose it is spoken to by TLS 1.3 alone; the others are not.
func TestModernTLS(t *testing.T) {
	r := newRig(t, nil)
	shielded(t, r, bulwark.Shield{TLS: bulwark.TLSModern}, func(http.ResponseWriter, *http.Request) {})
	old := func(host string) error {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.pool, ServerName: host, MaxVersion: tls.VersionTLS12})
		if err == nil {
			c.Close()
		}
		return err
	}
	if old("a.example.org") == nil {
		t.Error("TLS 1.2 is spoken")
	}
	if err := old("b.example.org"); err != nil {
		t.Errorf("another app: %v", err)
	}
	// Nor over a connection that was made for another app with the same certificate.
	c, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.pool, ServerName: "b.example.org", MaxVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 421 {
		t.Errorf("over another app's connection: %v %v", resp, err)
	}
	for _, h2 := range []bool{false, true} {
		if resp, _ := send(t, r.client(h2), "GET", "/", nil, nil); resp.StatusCode != 200 || resp.TLS.Version != tls.VersionTLS13 {
			t.Errorf("%d", resp.StatusCode)
		}
	}
}

// Before the node has said what protects which app, an edge lets nothing through: it may be that it shall not.
func TestNothingBeforeTheNodesWord(t *testing.T) {
	r := newRig(t, nil)
	r.serve(testHosts[0], backend(t, func(http.ResponseWriter, *http.Request) {}))
	for name := range r.keeper.files {
		if strings.HasPrefix(name, keptShields) {
			_ = r.keeper.NotifyRemove(name)
		}
	}
	stop := r.successor()
	r.stop()
	defer stop()
	if resp, _ := send(t, r.client(true), "GET", "/", nil, nil); resp.StatusCode != 503 {
		t.Errorf("%d", resp.StatusCode)
	}
	if err := r.certs.PutShields(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if resp, _ := send(t, r.client(true), "GET", "/", nil, nil); resp.StatusCode != 200 {
		t.Errorf("%d", resp.StatusCode)
	}
}

// A limit for a path is about every spelling that leads there.
func TestPathsOfLimits(t *testing.T) {
	for _, c := range []struct {
		path, limit string
		want        bool
	}{{"/login", "/login", true}, {"/login/", "/login", true}, {"//login", "/login/", true}, {"/a/../login", "/login", true}, {"/LOGIN", "/login", true}, {"/login.json", "/login", true},
		{"/login;x=1", "/login", true}, {"/login/x", "/login", true}, {"/logins", "/login", false}, {"/", "/login", false}, {"/x", "/", true}} {
		if got := limited(plainPath(c.path), plainPath(c.limit)); got != c.want {
			t.Errorf("%s, a limit for %s: %t", c.path, c.limit, got)
		}
	}
}

// An upload may be as large as it likes.
func TestAllowanceOfLargeBodies(t *testing.T) {
	if a := allowance(100 << 30); a < time.Hour {
		t.Errorf("%s for 100 GiB", a)
	}
}

// A look that trips is noted, and takes neither the app's place in the queue nor the room of what was kept along.
func TestALookThatTrips(t *testing.T) {
	f := newFirewall(nil) // without rules a look trips
	g := &guard{}
	b := &firstBytes{f: f, g: g}
	b.keep([]byte("body"))
	g.queued.Add(1)
	f.noteOf(&sight{guard: g, body: b, request: waf.Request{ID: "x", Client: "192.0.2.1", Method: "GET", Target: "/", Proto: "HTTP/1.1", Host: "a", Body: b.kept},
		example: bulwark.ShieldExample{Time: time.Now()}})
	if s := g.tally.stats(time.Now()); g.queued.Load() != 0 || f.copied.Load() != 0 || g.held.Load() != 0 || s.Counts[bulwark.SkippedWAF] != 1 {
		t.Errorf("%d wait, %d bytes are kept, %+v", g.queued.Load(), f.copied.Load(), s.Counts)
	}
}

// In maintenance no request reaches the app but of those who are let in; a page of the app's people runs nothing and loads nothing.
func TestMaintenanceAndPages(t *testing.T) {
	r := newRig(t, nil)
	reached := atomic.Int32{}
	app := shielded(t, r, bulwark.Shield{}, func(w http.ResponseWriter, q *http.Request) {
		reached.Add(1)
		if q.URL.Path == "/broken" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusInternalServerError) // the app's own, which stays
		io.WriteString(w, "of the app")
	})
	both(t, func(t *testing.T, h2 bool) {
		ask := func(path string) (*http.Response, string) { return send(t, r.client(h2), "GET", path, nil, nil) }
		r.shield(app, bulwark.Shield{Maintenance: bulwark.MaintenanceOn})
		before := reached.Load()
		res, body := ask("/")
		if res.StatusCode != 503 || res.Header.Get("Retry-After") != "60" || !strings.Contains(body, "is being worked on") || reached.Load() != before {
			t.Errorf("%v %q", res.Header, body)
		}
		own := map[bulwark.PageName]string{bulwark.PageMaintenance: "<h1>soon</h1>{{request}}", bulwark.PageError: "<h1>sorry</h1>{{request}}<script>alert(1)</script>"}
		r.shield(app, bulwark.Shield{Maintenance: bulwark.MaintenanceOn, Pages: own})
		if res, body := ask("/"); res.StatusCode != 503 || body != "<h1>soon</h1>"+res.Header.Get("X-Request-Id") || !strings.HasPrefix(res.Header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'unsafe-inline'; img-src data:;") {
			t.Errorf("%v %q", res.Header, body)
		}
		r.shield(app, bulwark.Shield{Maintenance: bulwark.MaintenanceOn, Pages: own, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		if res, body := ask("/"); res.StatusCode != 500 || body != "of the app" {
			t.Errorf("who is let in: %v %q", res.Status, body)
		}
		r.shield(app, bulwark.Shield{Pages: own})
		if res, body := ask("/broken"); res.StatusCode != 502 || !strings.HasPrefix(body, "<h1>sorry</h1>"+res.Header.Get("X-Request-Id")) || strings.Contains(res.Header.Get("Content-Security-Policy"), "script-src") {
			t.Errorf("%v %q", res.Header, body)
		}
		if res, body := ask("/.well-known/acme-challenge/x"); res.StatusCode != 404 || strings.Contains(body, "sorry") {
			t.Errorf("a request's own fault: %v %q", res.Status, body)
		}
	})
}

// All networks of an operator are denied by its number; without the table that says which they are, nobody is let in.
func TestDenyAS(t *testing.T) {
	b, err := astable.Compile(strings.NewReader("127.0.0.0/8 64500\n192.0.2.0/24 64501\n"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "networks")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	table, err := astable.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		table *astable.Table
		deny  bulwark.ASN
		want  int
	}{{table, 64500, 403}, {table, 64501, 200}, {nil, 64501, 403}} {
		r := newRig(t, func(cfg *Config) { cfg.ASTable = c.table })
		app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") }))
		if resp, _ := get(t, r.client(true), "https://a.example.org/"); resp.StatusCode != 200 {
			t.Error("where nothing is denied:", resp.Status)
		}
		r.shield(app, bulwark.Shield{DenyAS: []bulwark.ASN{c.deny}})
		if resp, _ := get(t, r.client(true), "https://a.example.org/"); resp.StatusCode != c.want {
			t.Errorf("%s denied, a table: %t: %s", c.deny, c.table != nil, resp.Status)
		}
	}
}
