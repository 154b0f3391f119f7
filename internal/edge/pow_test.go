package edge

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

var markOf = regexp.MustCompile(`data-mark="([^"]+)"`)

// solve computes as a browser does.
func solve(p *pow, mark string, host bulwark.HostName, client netip.Addr) string {
	for n := 0; ; n++ {
		if s := mark + "." + strconv.Itoa(n); p.solved(s, host, client, time.Now()) {
			return s
		}
	}
}

// A mark is good for what it was made for, there, for that client and until it ends, and only as a whole.
func TestMarks(t *testing.T) {
	p, now := newPow(), time.Now()
	me := netip.MustParseAddr("192.0.2.1")
	m := p.mark("pass", now.Add(time.Minute), "a.example.org", me)
	if !p.good(m, "pass", "a.example.org", me, now) {
		t.Error("a good mark is refused")
	}
	flipped := []byte(m)
	flipped[3] ^= 1
	for name, bad := range map[string]bool{
		"for something else":   p.good(m, "challenge", "a.example.org", me, now),
		"at another host":      p.good(m, "pass", "b.example.org", me, now),
		"of another client":    p.good(m, "pass", "a.example.org", netip.MustParseAddr("192.0.2.2"), now),
		"after its end":        p.good(m, "pass", "a.example.org", me, now.Add(2*time.Minute)),
		"of another edge":      newPow().good(m, "pass", "a.example.org", me, now),
		"changed":              p.good(string(flipped), "pass", "a.example.org", me, now),
		"cut off":              p.good(m[:len(m)-2], "pass", "a.example.org", me, now),
		"nothing":              p.good("", "pass", "a.example.org", me, now),
		"a challenge unsolved": p.solved(p.mark("challenge", now.Add(time.Minute), "a.example.org", me)+".x", "a.example.org", me, now) && p.solved(m+".x", "a.example.org", me, now),
	} {
		if bad {
			t.Errorf("taken: %s", name)
		}
	}
}

// While an app has the challenge on, it gets nothing of who has not computed, and no word of the edge's cookie of who has.
func TestChallenge(t *testing.T) {
	r := newRig(t, nil)
	got := make(chan string, 100)
	app := shielded(t, r, bulwark.Shield{Challenge: bulwark.ChallengeOn}, func(w http.ResponseWriter, q *http.Request) { got <- q.Header.Get("Cookie") })
	html := http.Header{"Accept": {"text/html"}}
	for _, h2 := range []bool{false, true} {
		c := r.client(h2)
		resp, page := send(t, c, "GET", "/", html, nil)
		m := markOf.FindStringSubmatch(page)
		if resp.StatusCode != 403 || m == nil || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "script-src 'sha256-") {
			t.Fatalf("%d %s", resp.StatusCode, page)
		}
		for name, resp := range map[string]func() (*http.Response, string){
			"a program": func() (*http.Response, string) { return send(t, c, "GET", "/", nil, nil) },
			"a form":    func() (*http.Response, string) { return send(t, c, "POST", "/", html, strings.NewReader("x")) },
			"a wrong answer": func() (*http.Response, string) {
				return send(t, c, "POST", powPath, nil, strings.NewReader(m[1]+".-1"))
			},
			"no answer": func() (*http.Response, string) { return send(t, c, "POST", powPath, nil, strings.NewReader("x")) },
			"a long answer": func() (*http.Response, string) {
				return send(t, c, "POST", powPath, nil, strings.NewReader(strings.Repeat("x", 100_000)))
			},
			"a made-up pass": func() (*http.Response, string) {
				return send(t, c, "GET", "/", http.Header{"Cookie": {powCookie + "=" + m[1]}}, nil)
			},
		} {
			if resp, text := resp(); resp.StatusCode != 403 || strings.Contains(text, "data-mark") {
				t.Errorf("%s: %d %s", name, resp.StatusCode, text)
			}
		}
		me := netip.MustParseAddr("127.0.0.1")
		p := &pow{}
		r.keeper.mu.Lock()
		for name, files := range r.keeper.files {
			if strings.HasPrefix(name, keptPow) {
				b := make([]byte, 100)
				n, _ := files[0].ReadAt(b, 0)
				p.key, _ = decodePowKey(b[:n])
			}
		}
		r.keeper.mu.Unlock()
		resp, _ = send(t, c, "POST", powPath, nil, strings.NewReader(solve(p, m[1], "a.example.org", me)))
		pass := resp.Header.Get("Set-Cookie")
		if resp.StatusCode != 204 || !strings.HasPrefix(pass, powCookie+"=") || !strings.Contains(pass, "Secure") || !strings.Contains(pass, "HttpOnly") {
			t.Fatalf("%d %s", resp.StatusCode, pass)
		}
		cookie, _, _ := strings.Cut(pass, ";")
		if resp, _ := send(t, c, "POST", "/", http.Header{"Cookie": {"a=1; " + cookie + "; b=2"}}, strings.NewReader("x")); resp.StatusCode != 200 {
			t.Errorf("who has computed gets %d", resp.StatusCode)
		} else if v := <-got; v != "a=1; b=2" {
			t.Errorf("the app gets the cookies %q", v)
		}
	}
	select {
	case v := <-got:
		t.Errorf("the app got a request that had not computed, %q", v)
	default:
	}
	if s := r.stats(app, bulwark.RefusedChallenge, 6); s.Counts[bulwark.RefusedChallenge] < 6 {
		t.Errorf("%+v", s)
	}
}

// A real browser passes the challenge by itself, within the page's own policy, and sees the app.
func TestChallengeInABrowser(t *testing.T) {
	browser, err := exec.LookPath("chromium-headless-shell")
	if err != nil {
		t.Fatal("there is no chromium-headless-shell: make test-deps installs it")
	}
	r := newRig(t, nil)
	shielded(t, r, bulwark.Shield{Challenge: bulwark.ChallengeOn}, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<h1>The app, to %s</h1>", q.Method)
	})
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	// Every name leads to this machine, and it asks nobody but us.
	cmd := exec.CommandContext(ctx, browser, "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run",
		"--disable-dev-shm-usage", "--user-data-dir="+filepath.Join(dir, "profile"), "--host-resolver-rules=MAP * 127.0.0.1", "--ignore-certificate-errors", "--timeout=60000",
		"--virtual-time-budget=600000", "--dump-dom", "https://a.example.org:"+port+"/")
	cmd.Env = append(os.Environ(), "HOME="+dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "The app, to GET") {
		t.Errorf("%v\n%s\n%.2000s", err, out, said.String())
	}
}
