package waf_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// prose is text as people write it into forms.
const prose = `Dear all, thanks for the notes from Tuesday. I've put the table into the shared folder (see "Plan B", page 4); the costs rise by 3.5% from May on, `

// browser are the headers of one.
func browser(more ...string) http.Header {
	h := http.Header{
		"User-Agent":      {"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
		"Accept":          {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"},
		"Accept-Language": {"en-US,en;q=0.5"},
		"Accept-Encoding": {"gzip, deflate, br, zstd"},
		"Cookie":          {"session=5f2b6c0a9d7e4e1f8a3b; theme=dark"},
	}
	for i := 0; i+1 < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return h
}

// benchRequests are what a look's time is measured with: a page, a body of many short values, and forms of long text.
func benchRequests() map[string]*waf.Request {
	var rows []string
	for i := range 12 {
		rows = append(rows, fmt.Sprintf(`{"id":%d,"sku":"AB-%04d","name":"Wooden chair no. %d","price":"%d.90 EUR","tags":["home","oak"],"at":"2026-05-%02dT10:00:00Z","ok":true}`, i, i*37, i, 10+i, i+1))
	}
	json := `{"order":"7c1f2a","customer":{"name":"Zoë O'Neil","mail":"zoe@example.org"},"lines":[` + strings.Join(rows, ",") + `]}`
	form := func(size int) string {
		text := strings.Repeat(prose, size/len(prose)+1)
		v := url.Values{"title": {"Minutes"}, "text": {text[:size/2]}, "more": {text[:size/2]}}
		return v.Encode()[:size]
	}
	post := func(kind, body string) *waf.Request {
		return &waf.Request{ID: "x", Client: "192.0.2.1", Method: "POST", Target: "/notes/17", Proto: "HTTP/1.1", Host: "shop.example.org",
			Header: browser("Content-Type", kind, "Content-Length", fmt.Sprint(len(body))), Body: []byte(body)}
	}
	return map[string]*waf.Request{
		"GET": {ID: "x", Client: "192.0.2.1", Method: "GET", Target: "/products/chairs?page=2&sort=price&q=oak+chair", Proto: "HTTP/1.1",
			Host: "shop.example.org", Header: browser()},
		"JSON-2K":  post("application/json", json),
		"form-16K": post("application/x-www-form-urlencoded", form(16<<10)),
		"form-64K": post("application/x-www-form-urlencoded", form(64<<10)),
	}
}

func BenchmarkLook(b *testing.B) {
	f, err := waf.New(waf.Config{})
	if err != nil {
		b.Fatal(err)
	}
	all := benchRequests()
	for _, name := range []string{"GET", "JSON-2K", "form-16K", "form-64K"} {
		q := all[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := f.Look(q, nil); v.Attack {
					b.Fatalf("%+v", v.Rules)
				}
			}
		})
	}
}
