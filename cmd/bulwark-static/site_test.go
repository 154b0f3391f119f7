package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSite(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	for name, text := range map[string]string{
		"index.html": "home", "about.html": "about", "404.html": "nothing here", "docs/index.html": "docs", "empty/x.txt": "x",
		"app.3f9a1c2b.js": "js", ".env": "KEY=1", ".well-known/security.txt": "contact", ".git/config": "git",
	} {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(outside, []byte("secret"), 0o644)
	os.Symlink(outside, filepath.Join(dir, "link"))
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(&site{root: root})
	defer srv.Close()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, c := range []struct {
		method, path string
		status       int
		body, header string // header is "Name: value"
	}{
		{"GET", "/", 200, "home", "Cache-Control: public, max-age=0, must-revalidate"},
		{"GET", "/about", 200, "about", ""},
		{"GET", "/docs/", 200, "docs", ""},
		{"GET", "/docs", 301, "", "Location: /docs/"},
		{"GET", "//evil.example/..//docs", 301, "", "Location: /docs/"},
		{"GET", "/empty/", 404, "nothing here", ""},
		{"GET", "/empty", 404, "nothing here", ""},
		{"GET", "/nope", 404, "nothing here", "Content-Type: text/html; charset=utf-8"},
		{"GET", "/app.3f9a1c2b.js", 200, "js", "Cache-Control: public, max-age=31536000, immutable"},
		{"GET", "/.env", 404, "nothing here", ""},
		{"GET", "/.git/config", 404, "nothing here", ""},
		{"GET", "/.well-known/security.txt", 200, "contact", ""},
		{"GET", "/link", 404, "nothing here", ""},
		{"GET", "/../../etc/passwd", 404, "nothing here", ""},
		{"GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "nothing here", ""},
		{"GET", "/index.html%00.txt", 404, "nothing here", ""},
		{"HEAD", "/", 200, "", ""},
		{"POST", "/", 405, "method not allowed\n", "Allow: GET, HEAD"},
	} {
		req, _ := http.NewRequest(c.method, srv.URL, nil)
		req.URL.Opaque = c.path
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", c.method, c.path, err)
		}
		body := new(strings.Builder)
		resp.Write(body)
		_, text, _ := strings.Cut(body.String(), "\r\n\r\n")
		if resp.StatusCode != c.status || text != c.body {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, resp.StatusCode, text, c.status, c.body)
		}
		if name, value, ok := strings.Cut(c.header, ": "); ok && resp.Header.Get(name) != value {
			t.Errorf("%s %s: %s is %q, want %q", c.method, c.path, name, resp.Header.Get(name), value)
		}
	}
}
