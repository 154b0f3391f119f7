package edge

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decoded reads a body in the coding that the answer names.
func decoded(t *testing.T, resp *http.Response) string {
	t.Helper()
	r := io.Reader(resp.Body)
	var err error
	switch c := resp.Header.Get("Content-Encoding"); c {
	case "":
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r)
	default:
		t.Fatal("coding", c)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fetch asks with headers, written as "Name: value".
func fetch(t *testing.T, c *http.Client, url string, headers ...string) *http.Response {
	t.Helper()
	req, _ := http.NewRequest("GET", url, nil)
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestCompresses(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		text := strings.Repeat("<p>It was a dark and stormy night.</p>\n", 4000)
		r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Accept-Ranges", "bytes")
			if q.URL.Path == "/length" {
				w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			}
			io.WriteString(w, text)
		}))
		c := r.client(h2)
		for accept, want := range map[string]string{
			"gzip": "gzip", "gzip, deflate, br, zstd": "zstd", "gzip, deflate, br": "br", "gzip;q=1.0, br;q=0.5": "gzip", "*": "zstd", "zstd;q=0, *": "br",
			"identity": "", "": "", "gzip;q=0": "", "br;q=2": "", "GZIP": "gzip", "deflate": "", "zstd;q=0.001, gzip;q=nan": "zstd",
		} {
			for _, path := range []string{"/", "/length"} {
				resp := fetch(t, c, "https://a.example.org"+path, "Accept-Encoding: "+accept)
				if got := resp.Header.Get("Content-Encoding"); got != want {
					t.Errorf("%q, %s: %q, want %q", accept, path, got, want)
				}
				if resp.Header.Get("Vary") != "Accept-Encoding" {
					t.Errorf("Vary: %q", resp.Header["Vary"])
				}
				if want != "" && (resp.ContentLength == int64(len(text)) || resp.Header.Get("Etag") != `W/"v1"` || resp.Header["Accept-Ranges"] != nil) {
					t.Errorf("%s: %d %v", want, resp.ContentLength, resp.Header)
				}
				if body := decoded(t, resp); body != text {
					t.Errorf("%q, %s: a body of %d bytes", accept, path, len(body))
				}
			}
		}
		resp, err := c.Do(func() *http.Request {
			q, _ := http.NewRequest("HEAD", "https://a.example.org/length", nil)
			q.Header.Set("Accept-Encoding", "br")
			return q
		}())
		if err != nil || resp.Header.Get("Content-Encoding") != "" || resp.ContentLength != int64(len(text)) {
			t.Error("HEAD:", err, resp)
		}
	})
}

// What an app has said about a body is not made untrue.
func TestLeavesAsItIs(t *testing.T) {
	r := newRig(t, nil)
	cases := map[string]map[string]string{
		"/encoded":   {"Content-Encoding": "br"},
		"/signed":    {"Content-Digest": "sha-256=:AAAA:"},
		"/whole":     {"Repr-Digest": "sha-256=:AAAA:"},
		"/no":        {"Cache-Control": "max-age=3, no-transform"},
		"/picture":   {"Content-Type": "image/png"},
		"/part":      {"Content-Range": "bytes 0-9/10", "Status": "206"},
		"/small":     {"Content-Length": "10"},
		"/events":    {"Content-Type": "text/event-stream"},
		"/grpc":      {"Content-Type": "application/grpc"},
		"/two-types": {"Content-Type": ""},
	}
	text := strings.Repeat("0123456789", 1000)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/plain")
		for k, v := range cases[q.URL.Path] {
			h.Set(k, v)
		}
		if h.Get("Content-Type") == "" {
			h["Content-Type"] = nil
		}
		if h.Get("Status") != "" {
			w.WriteHeader(206)
		}
		if h.Get("Content-Length") != "" {
			io.WriteString(w, text[:10])
			return
		}
		io.WriteString(w, text)
	}))
	c := r.client(true)
	for path, set := range cases {
		resp := fetch(t, c, "https://a.example.org"+path, "Accept-Encoding: br, gzip, zstd")
		b, _ := io.ReadAll(resp.Body)
		if resp.Header.Get("Content-Encoding") != set["Content-Encoding"] || string(b) != text && string(b) != text[:10] {
			t.Error(path, resp.Header, len(b))
		}
	}
	if resp := fetch(t, c, "https://a.example.org/", "Accept-Encoding: br, gzip"); resp.Header.Get("Content-Encoding") != "br" {
		t.Error("and else nothing is compressed", resp.Header)
	}
}

// BREACH (CVE-2013-3587): a page that repeats what it is asked for, and has a secret in it, tells the secret by its compressed length to who may have the victim's
// browser ask again and again.
func TestHoleLengthTellsSecret(t *testing.T) {
	r := newRig(t, nil)
	const secret = "token=4f1d8c20b7aa93e6"
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if q.URL.Path == "/public" {
			w.Header().Set("Cache-Control", "public, max-age=60")
		}
		if q.URL.Path == "/sign-in" {
			w.Header().Set("Set-Cookie", "session=1")
		}
		fmt.Fprintf(w, "<p>%s</p>%s<p>%s</p>", q.URL.Query().Get("q"), strings.Repeat("x", 2000), secret)
	}))
	c := r.client(true)
	length := func(guess string, headers ...string) int {
		resp := fetch(t, c, "https://a.example.org/?q="+guess, append(headers, "Accept-Encoding: gzip")...)
		b, _ := io.ReadAll(resp.Body)
		return len(b)
	}
	// It is a hole: without a session, of which nobody wants to know anything, the right guess is shorter.
	if right, wrong := length("token=4f1d8c20b7aa"), length("token=zzqqwwhhkkvv"); right >= wrong {
		t.Fatal("the test's page does not tell by its length", right, wrong)
	}
	strangers := [][]string{
		{"Cookie: session=1", "Sec-Fetch-Site: cross-site"}, {"Cookie: session=1", "Sec-Fetch-Site: same-site"}, {"Cookie: session=1"},
		{"Authorization: Basic eDp4", "Sec-Fetch-Site: cross-site"}, {"Cookie: session=1", "Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"},
		{"Cookie: session=1", "Sec-Fetch-Site: same-origin, cross-site"},
	}
	for _, h := range strangers {
		if right, wrong := length("token=4f1d8c20b7aa", h...), length("token=zzqqwwhhkkvv", h...); right != wrong {
			t.Errorf("%v: the length tells: %d, %d", h, right, wrong)
		}
	}
	for headers, path := range map[string]string{"Sec-Fetch-Site: same-origin": "/", "Sec-Fetch-Site: none": "/", "X: y": "/public"} {
		if resp := fetch(t, c, "https://a.example.org"+path, "Cookie: session=1", headers, "Accept-Encoding: br"); resp.Header.Get("Content-Encoding") != "br" {
			t.Error(path, headers, "is not compressed")
		}
	}
	if resp := fetch(t, c, "https://a.example.org/sign-in", "Accept-Encoding: br"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("an answer that begins a session is compressed")
	}
}

// A piece that an app flushes arrives, though it is compressed.
func TestCompressedPiecesArrive(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		next := make(chan struct{})
		r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			for range 3 {
				io.WriteString(w, strings.Repeat("piece\n", 10))
				w.(http.Flusher).Flush()
				<-next
			}
		}))
		for _, name := range []string{"br", "gzip", "zstd"} {
			resp := fetch(t, r.client(h2), "https://a.example.org/", "Accept-Encoding: "+name)
			var body io.Reader
			switch name {
			case "br":
				body = brotli.NewReader(resp.Body)
			case "gzip":
				z, err := gzip.NewReader(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				body = z
			case "zstd":
				z, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1))
				if err != nil {
					t.Fatal(err)
				}
				body = z
			}
			for range 3 {
				if _, err := io.ReadFull(body, make([]byte, 60)); err != nil {
					t.Fatal(name, err)
				}
				next <- struct{}{}
			}
		}
	})
}

// An answer that breaks off has no end that looks whole, and what compressed it is used again.
func TestCompressedBreaksOff(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, strings.Repeat("<p>half</p>", 5000))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}))
		r.serve("b.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Write(bytes.Repeat([]byte("whole"), 1000))
		}))
		for range compressMost + compressShare {
			resp := fetch(t, r.client(h2), "https://a.example.org/", "Accept-Encoding: gzip")
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Fatal("it looks whole")
			}
		}
		for range 3 {
			resp := fetch(t, r.client(h2), "https://b.example.org/", "Accept-Encoding: gzip")
			if resp.Header.Get("Content-Encoding") != "gzip" || len(decoded(t, resp)) != 5000 {
				t.Fatal("not compressed any more")
			}
		}
	})
}

// Who holds many compressed answers of one app takes none from the others.
func TestCompressionShares(t *testing.T) {
	r := newRig(t, nil)
	hold := make(chan struct{})
	page := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, strings.Repeat("x", 3000))
		w.(http.Flusher).Flush()
		if q.URL.Path == "/hold" {
			<-hold
		}
	}
	r.serve("a.example.org", backend(t, page))
	r.serve("b.example.org", backend(t, page))
	c := r.client(true)
	n := 0
	for range compressShare + 5 {
		if fetch(t, c, "https://a.example.org/hold", "Accept-Encoding: br").Header.Get("Content-Encoding") == "br" {
			n++
		}
	}
	if n != compressShare {
		t.Errorf("%d answers of one app are compressed at a time", n)
	}
	if fetch(t, c, "https://b.example.org/", "Accept-Encoding: br").Header.Get("Content-Encoding") != "br" {
		t.Error("the other app's is not compressed")
	}
	close(hold)
	for end := time.Now().Add(10 * time.Second); fetch(t, c, "https://a.example.org/", "Accept-Encoding: br").Header.Get("Content-Encoding") != "br"; {
		if time.Now().After(end) {
			t.Fatal("what was held is not given back")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func FuzzAcceptEncoding(f *testing.F) {
	for _, s := range []string{"gzip, br;q=0.5", "*;q=0", ";;q=", "zstd;q=1e-3,,", "br;q=NaN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c := preferredCoding([]string{s}); c != nil && !strings.Contains(strings.ToLower(s), c.name) && !strings.Contains(s, "*") {
			t.Errorf("%q: %s", s, c.name)
		}
	})
}

// Who changes what they got compressed says by its tag that it is still what it was.
func TestHoleTagsThatMatchNothing(t *testing.T) {
	r := newRig(t, nil)
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Method == "PUT" {
			io.WriteString(w, q.Header.Get("If-Match")+"|"+q.Header.Get("If-None-Match"))
			return
		}
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, strings.Repeat("0123456789", 1000))
	}))
	resp := fetch(t, r.client(true), "https://a.example.org/", "Accept-Encoding: br")
	tag := resp.Header.Get("Etag")
	q, _ := http.NewRequest("PUT", "https://a.example.org/", nil)
	q.Header.Set("If-Match", tag+`, "other"`)
	q.Header.Set("If-None-Match", tag)
	put, err := r.client(true).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(put.Body)
	put.Body.Close()
	if tag != `W/"v1"` || string(b) != `"v1", "other"|W/"v1"` {
		t.Errorf("%s becomes %s", tag, b)
	}
}
