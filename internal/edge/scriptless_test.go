package edge

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func TestHasNoScript(t *testing.T) {
	for _, page := range []string{"", "<p>on the table = 3</p>", "a < b, and so on", "<!doctype html><title>Shop</title><a href=/buy>Buy</a><img src=a.png>", "<style>p{color:red}</style>", "<p class=\"button\">only"} {
		if !hasNoScript([]byte(page)) {
			t.Errorf("%q has none", page)
		}
	}
	for _, page := range []string{"<script>x</script>", "<SCRIPT src=x>", "<p onclick=x>", "<p class=a ONLOAD\n=x>", "<svg/onload=x>", "<img src='x'onerror=x>", "<a href=javascript:x>", "<a href='JavaScript:x'>",
		"<iframe srcdoc=x>", "<object data=x>", "<embed src=x>", "<x:script>x</x:script>", "a < b, one =", "\xff\xfe<\x00s\x00", "<p>\x00"} {
		if hasNoScript([]byte(page)) {
			t.Errorf("%q has", page)
		}
	}
}

// A small page without a script gets a policy by which none runs; any other is left to its people.
func TestScriptless(t *testing.T) {
	r := newRig(t, nil)
	const page = "<!doctype html><title>Shop</title><p>Hello"
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		switch q.URL.Path {
		case "/script":
			io.WriteString(w, page+"<script>x</script>")
		case "/large":
			io.WriteString(w, page+strings.Repeat(" ", scriptlessMost))
		case "/own":
			h.Set("Content-Security-Policy", "img-src *")
			io.WriteString(w, page)
		case "/utf-16":
			h.Set("Content-Type", "text/html; charset=utf-16")
			io.WriteString(w, page)
		case "/streamed":
			w.(http.Flusher).Flush()
			io.WriteString(w, page)
		default:
			io.WriteString(w, page)
		}
	}))
	for _, h2 := range []bool{false, true} {
		for path, want := range map[string]string{"/": scriptlessPolicy, "/script": frameOwn, "/large": frameOwn, "/utf-16": frameOwn, "/streamed": frameOwn, "/own": "img-src *, " + frameOwn} {
			resp, b := get(t, r.client(h2), "https://a.example.org"+path)
			if got := strings.Join(resp.Header["Content-Security-Policy"], ", "); got != want || !strings.HasPrefix(b, page) {
				t.Errorf("%s: %q, %d bytes", path, got, len(b))
			}
		}
	}
	// The firewall that blocks has read it before: nobody waits for it once more.
	r.shield(app, bulwark.Shield{WAF: bulwark.WAFBlock})
	get(t, r.client(true), "https://a.example.org/")
	began := time.Now()
	if resp, b := get(t, r.client(true), "https://a.example.org/"); b != page || resp.Header.Get("Content-Security-Policy") != frameOwn || time.Since(began) > holdTime {
		t.Errorf("with the firewall that blocks: %q after %v", b, time.Since(began))
	}
	// One that comes in pieces is waited for, and one that stops is not waited for long.
	l := tcp(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 10\r\nConnection: close\r\n\r\n")
				time.Sleep(50 * time.Millisecond)
				io.WriteString(c, "<p>12")
				time.Sleep(2 * holdTime)
				io.WriteString(c, "34567")
			}(c)
		}
	}()
	r.serve("b.example.org", l.Addr().String())
	if resp, b := get(t, r.client(true), "https://b.example.org/"); b != "<p>1234567" || resp.Header.Get("Content-Security-Policy") != frameOwn {
		t.Errorf("%q %v", b, resp.Header)
	}
}

func FuzzHasNoScript(f *testing.F) {
	for _, s := range []string{"<script>", "<p onclick=", "o", "<", "javascript:"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		if hasNoScript(page) && (strings.Contains(strings.ToLower(string(page)), "<script") || strings.Contains(strings.ToLower(string(page)), " onload=")) {
			t.Errorf("%q", page)
		}
	})
}
