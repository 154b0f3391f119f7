package edge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// both runs a test over HTTP/1.1 and HTTP/2.
func both(t *testing.T, f func(t *testing.T, h2 bool)) {
	t.Run("h1", func(t *testing.T) { f(t, false) })
	t.Run("h2", func(t *testing.T) { f(t, true) })
}

func TestForwards(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		seen := make(chan *http.Request, 10)
		addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			q.Body = io.NopCloser(strings.NewReader(string(b)))
			seen <- q
			w.Header().Set("Server", "secret/1.0")
			w.Header().Set("X-Powered-By", "magic")
			w.Header().Set("X-Frame-Options", "DENY")
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.WriteHeader(201)
			fmt.Fprintf(w, "%s %s %s", q.Method, q.RequestURI, b)
		})
		r.serve("a.example.org", addr)
		req, _ := http.NewRequest("POST", "https://a.example.org/x/%2e%2e/y?q=1&r=%00", strings.NewReader("hello"))
		for k, v := range map[string]string{"X-Forwarded-For": "6.6.6.6", "X-Real-Ip": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X-Request-Id": "evil",
			"X-Forwarded-Proto": "http", "X_forwarded_for": "6.6.6.6", "Proxy": "http://evil", "X-Kept": "yes", "User-Agent": ""} {
			req.Header.Set(k, v)
		}
		if !h2 {
			req.Header.Set("Connection", "X-Secret")
			req.Header.Set("X-Secret", "hop")
		}
		resp, err := r.client(h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 201 || string(body) != "POST /x/%2e%2e/y?q=1&r=%00 hello" {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
		if want := map[bool]int{false: 1, true: 2}[h2]; resp.ProtoMajor != want {
			t.Errorf("protocol %s", resp.Proto)
		}
		q := <-seen
		id := resp.Header.Get("X-Request-Id")
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
			t.Errorf("request id %q", id)
		}
		want := http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"a.example.org"},
			"X-Request-Id": {id}, "X-Kept": {"yes"}, "Content-Length": {"5"}}
		for k := range q.Header {
			if fmt.Sprint(q.Header[k]) != fmt.Sprint(want[k]) && k != "Accept-Encoding" && k != "User-Agent" {
				t.Errorf("the app got %s: %v", k, q.Header[k])
			}
		}
		for k := range want {
			if q.Header[k] == nil {
				t.Errorf("the app did not get %s", k)
			}
		}
		if q.Host != "a.example.org" {
			t.Errorf("host %q", q.Host)
		}
		for k, v := range map[string]string{"Strict-Transport-Security": "max-age=63072000; includeSubDomains", "X-Content-Type-Options": "nosniff",
			"X-Frame-Options": "DENY", "Referrer-Policy": "strict-origin-when-cross-origin", "Server": "", "X-Powered-By": ""} {
			if resp.Header.Get(k) != v {
				t.Errorf("%s is %q", k, resp.Header.Get(k))
			}
		}
		if len(resp.Header["Set-Cookie"]) != 2 {
			t.Errorf("cookies %v", resp.Header["Set-Cookie"])
		}
	})
}

func TestPagesOfTheEdge(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		app := r.serve("a.example.org")
		c := r.client(h2)
		check := func(url string, status int, retry string) {
			t.Helper()
			resp, body := get(t, c, url)
			if resp.StatusCode != status || resp.Header.Get("Retry-After") != retry || !strings.Contains(body, fmt.Sprint(status)) {
				t.Errorf("%s: %d %v %s", url, resp.StatusCode, resp.Header, body)
			}
			if !strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: header %v", url, resp.Header)
			}
		}
		check("https://a.example.org/", 503, "5")        // no instance
		check("https://b.example.org/", 404, "")         // no route
		check("https://name.wild.example.org/", 404, "") // no route, by the wildcard certificate
		up := r.table.Apps[app]
		up.Instances = []bulwark.InstanceID{r.instance(""), r.instance("127.0.0.1:1")} // unknown to dial; refuses
		r.table.Apps[app] = up
		r.put()
		check("https://a.example.org/", 503, "5")
		req, _ := http.NewRequest("TRACE", "https://a.example.org/", nil)
		resp, err := c.Do(req)
		if err != nil || resp.StatusCode != 405 {
			t.Errorf("TRACE: %v %v", resp, err)
		}
	})
}

func TestServerName(t *testing.T) {
	r := newRig(t, nil)
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") })
	r.serve("a.example.org", addr)
	r.table.Routes["b.example.org"] = r.table.Routes["a.example.org"]
	r.table.Routes["lonely.example.org"] = r.table.Routes["a.example.org"]
	r.put()
	for _, name := range []string{"", "c.example.org", "deep.name.wild.example.org", "wild.example.org", "127.0.0.1"} {
		_, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if _, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.pool, ServerName: "a.example.org", MinVersion: v, MaxVersion: v}); err == nil {
			t.Errorf("version %x was accepted", v)
		}
	}
	c := r.conn("A.Example.ORG")
	if s := c.ConnectionState(); s.CurveID != tls.X25519MLKEM768 || s.Version != tls.VersionTLS13 {
		t.Errorf("handshake %+v", s)
	}
	both(t, func(t *testing.T, h2 bool) {
		cl := r.client(h2)
		for host, want := range map[string]int{"a.example.org": 200, "A.EXAMPLE.org": 200, "a.example.org.": 200, "b.example.org": 200,
			"lonely.example.org": 421, "a.example.org:8443": 200, "": 200, "a.example.org:99999999": 400, "exa mple": 400, "a.example.org:x": 400} {
			req, _ := http.NewRequest("GET", "https://a.example.org/", nil)
			req.Host = host
			resp, err := cl.Do(req)
			if err != nil {
				if want == 200 {
					t.Errorf("%q: %v", host, err)
				}
				continue // the client itself refuses to send it
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%q: %d, want %d", host, resp.StatusCode, want)
			}
		}
	})
}

// A pattern leads to its app with every name that has one label more, but for those that lead elsewhere.
func TestPattern(t *testing.T) {
	r := newRig(t, nil)
	says := func(what string) string {
		return backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, what+" "+q.Host) })
	}
	r.serve("a.example.org", says("many"))
	many := r.table.Routes["a.example.org"]
	r.serve("b.example.org", says("one"))
	r.table.Routes["*.wild.example.org"] = many
	r.table.Routes["own.wild.example.org"] = r.table.Routes["b.example.org"]
	r.put()
	ask := func(h2 bool, host string) string {
		t.Helper()
		resp, err := r.client(h2).Get("https://" + host + "/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return strconv.Itoa(resp.StatusCode) + " " + string(b)
	}
	both(t, func(t *testing.T, h2 bool) {
		for host, want := range map[string]string{"x.wild.example.org": "200 many x.wild.example.org", "X.Wild.example.org": "200 many x.wild.example.org",
			"own.wild.example.org": "200 one own.wild.example.org", "wild.example.org": "unrecognized name", "a.b.wild.example.org": "unrecognized name"} {
			if got := ask(h2, host); !strings.Contains(strings.ToLower(got), strings.ToLower(want)) {
				t.Errorf("%s: %s", host, got)
			}
		}
		// Over a connection that is for some name below it.
		for _, host := range []string{strings.Repeat("x", 64) + ".wild.example.org", "-x.wild.example.org", ".wild.example.org", "*.wild.example.org", "a.b.wild.example.org"} {
			req, _ := http.NewRequest("GET", "https://x.wild.example.org/", nil)
			req.Host = host
			if resp, err := r.client(h2).Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode < 400 {
					t.Errorf("%s: %s", host, resp.Status)
				}
			}
		}
	})
	// Its shield is that of its app, and it goes as it came.
	if err := r.certs.PutShields(t.Context(), []bulwark.Shielded{{App: many, Hosts: []bulwark.HostName{"*.wild.example.org"}, Shield: bulwark.Shield{WAF: bulwark.WAFBlock}}}); err != nil {
		t.Fatal(err)
	}
	if got := ask(true, "x.wild.example.org"+"/"+attackQuery); !strings.HasPrefix(got, "403") {
		t.Error(got)
	}
	delete(r.table.Routes, "*.wild.example.org")
	r.put()
	if got := ask(false, "x.wild.example.org"); strings.HasPrefix(got, "200") {
		t.Error(got)
	}
}

func TestRedirect(t *testing.T) {
	r := newRig(t, nil)
	r.serve("a.example.org")
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	_, port, _ := net.SplitHostPort(r.addr)
	https := "https://a.example.org:" + port
	for _, q := range []struct {
		method, host string
		status       int
		location     string
	}{
		{"GET", "a.example.org", 301, https + "/p?q=1"},
		{"HEAD", "a.example.org:80", 301, https + "/p?q=1"},
		{"POST", "A.example.org", 308, https + "/p?q=1"},
		{"GET", "evil.example.org", 404, ""},
	} {
		req, _ := http.NewRequest(q.method, "http://"+r.plain+"/p?q=1", nil)
		req.Host = q.host
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != q.status || resp.Header.Get("Location") != q.location {
			t.Errorf("%s %s: %d %q", q.method, q.host, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

func TestControl(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, nil)
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") })
	app := r.serve("a.example.org", addr)
	kind := func(err error, want bulwark.Kind) {
		t.Helper()
		if (err == nil) != (want == "") || err != nil && bulwark.KindOf(err) != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	full := r.table.Apps[app]
	kind(r.control.PutTable(ctx, r.table), bulwark.KindConflict) // the same generation
	empty := full
	empty.Instances = nil
	r.table.Apps[app] = empty
	r.table.Generation++
	kind(r.control.PutTable(ctx, r.table), bulwark.KindConflict)
	kind(r.control.PutTable(ctx, r.table, bulwark.NewAppID()), bulwark.KindConflict)
	patch := bulwark.TablePatch{BaseGeneration: r.gen, Generation: r.gen + 1, SetApps: map[bulwark.AppID]bulwark.Upstream{app: empty}}
	kind(r.control.PatchTable(ctx, patch), bulwark.KindConflict)
	if got, err := r.control.Table(ctx); err != nil || len(got.Apps[app].Instances) != 1 || got.Generation != r.gen {
		t.Errorf("the table is %+v, %v", got, err)
	}
	r.keeper.mu.Lock()
	r.keeper.fail = true
	r.keeper.mu.Unlock()
	kind(r.control.PutTable(ctx, r.table, app), bulwark.KindUnavailable) // not kept, so not done
	r.keeper.mu.Lock()
	r.keeper.fail = false
	r.keeper.mu.Unlock()
	kind(r.control.PutTable(ctx, r.table, app), "")
	r.gen++
	kind(r.control.PatchTable(ctx, patch), bulwark.KindConflict) // another base now
	kind(r.control.PatchTable(ctx, bulwark.TablePatch{BaseGeneration: r.gen, Generation: r.gen + 1, SetApps: map[bulwark.AppID]bulwark.Upstream{app: full},
		SetRoutes: map[bulwark.HostName]bulwark.AppID{"b.example.org": app}, DeleteRoutes: []bulwark.HostName{"a.example.org"}}), "")
	r.gen++
	if resp, body := get(t, r.client(true), "https://b.example.org/"); body != "ok" {
		t.Errorf("%v %s", resp, body)
	}
	if resp, _ := get(t, r.client(true), "https://a.example.org/"); resp.StatusCode != 404 {
		t.Errorf("%v", resp)
	}
	kind(r.control.PatchTable(ctx, bulwark.TablePatch{BaseGeneration: r.gen, Generation: r.gen + 1, DeleteApps: []bulwark.AppID{app}}), bulwark.KindInvalid)
	_, err := r.control.Drain(ctx, full.Instances[0], time.Second)
	kind(err, bulwark.KindConflict) // still in the table
	gone := bulwark.Table{Generation: r.gen + 1}
	kind(r.control.PutTable(ctx, gone), "") // the app is away altogether
	if left, err := r.control.Drain(ctx, full.Instances[0], time.Second); left != 0 || err != nil {
		t.Error(left, err)
	}
	st, err := r.control.Stats(ctx)
	if err != nil || st.Generation != gone.Generation || st.Requests != 2 || !st.DialPresent {
		t.Errorf("%+v %v", st, err)
	}
	for name, bad := range map[string]bulwark.Table{
		"route to nowhere":   {Generation: 99, Routes: map[bulwark.HostName]bulwark.AppID{"x.org": app}},
		"instance in two":    {Generation: 99, Apps: map[bulwark.AppID]bulwark.Upstream{app: full, bulwark.NewAppID(): full}},
		"app without a name": {Generation: 99, Apps: map[bulwark.AppID]bulwark.Upstream{app: {}}},
	} {
		t.Log(name)
		kind(r.control.PutTable(ctx, bad), bulwark.KindInvalid)
	}
}

func TestOtherUsersMayNotControl(t *testing.T) {
	dir := t.TempDir()
	l := unixSocket(t, "unix", dir+"/s")
	logger := slog.New(slog.DiscardHandler)
	g := &guarded{l, []uint32{4242}, logger}
	got := make(chan error, 1)
	go func() { _, err := g.Accept(); got <- err }()
	c, err := (&http.Client{Transport: &http.Transport{DialContext: dialer2(dir + "/s")}}).Get("http://edge/table")
	if err == nil {
		t.Errorf("got %v", c.Status)
	}
	l.Close()
	if err := <-got; err == nil {
		t.Error("a peer of another user was accepted")
	}
}

func TestAccessLog(t *testing.T) {
	r := newRig(t, nil)
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) { io.ReadAll(q.Body); io.WriteString(w, "four") })
	app := r.serve("a.example.org", addr)
	c := r.client(true)
	resp, err := c.Post("https://a.example.org/path%0a?secret=1", "text/plain", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	r.stop()
	var line struct {
		Time, ID, App, Name, Instance, Method, Host, Path, Proto, Client string
		Status, In, Out                                                  int
		Queue_ms, First_ms, Total_ms                                     *float64
	}
	if err := json.Unmarshal([]byte(r.log.String()), &line); err != nil {
		t.Fatalf("%v: %s", err, r.log.String())
	}
	if line.ID != resp.Header.Get("X-Request-Id") || line.App != string(app) || line.Name != "shop" || line.Host != "a.example.org" ||
		line.Path != "/path%0a" || line.In != 3 || line.Out != 4 || line.Status != 200 || line.Proto != "HTTP/2.0" || line.Client != "127.0.0.1" ||
		line.Queue_ms == nil || line.First_ms == nil || line.Total_ms == nil || strings.Contains(r.log.String(), "secret") {
		t.Errorf("%s", r.log.String())
	}
}
