package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

// recorder is an instance that keeps every byte it gets, by connection, and answers each request once.
type recorder struct {
	mu      sync.Mutex
	streams []*stream
}

// stream is what came over one connection and has not been looked at.
type stream struct {
	rec *recorder
	b   bytes.Buffer
}

func (s *stream) Write(p []byte) (int, error) {
	s.rec.mu.Lock()
	defer s.rec.mu.Unlock()
	return s.b.Write(p)
}

func (rec *recorder) serve(c net.Conn, _ *bufio.Reader) {
	s := &stream{rec: rec}
	rec.mu.Lock()
	rec.streams = append(rec.streams, s)
	rec.mu.Unlock()
	br := bufio.NewReader(io.TeeReader(c, s))
	for {
		q, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

// check reads what came since the last time and returns how many whole requests there were, and all of their bytes.
// What is not whole stays for the next time: more of it may come.
func (rec *recorder) check(t *testing.T) (requests int, all string) {
	t.Helper()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, s := range rec.streams {
		arrived := s.b.String()
		n, used, err := strictly(arrived)
		if err != nil {
			t.Errorf("%v in %q", err, arrived)
		}
		requests += n
		all += arrived
		s.b.Next(used)
	}
	return requests, all
}

// payloads are the known ways to make two servers disagree about where a request ends. %s in them is what smuggles.
func payloads() map[string]string {
	const h = "POST / HTTP/1.1\r\nHost: a.example.org\r\n"
	const evil = "GET /smuggled HTTP/1.1\r\nHost: a.example.org\r\n\r\n"
	p := map[string]string{
		"CL.TE":                         h + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + evil,
		"TE.CL":                         h + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + evil + "\r\n0\r\n\r\n",
		"two lengths":                   h + "Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc" + evil,
		"two equal lengths":             h + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"length list":                   h + "Content-Length: 3, 0\r\n\r\nabc" + evil,
		"length with plus":              h + "Content-Length: +3\r\n\r\nabc" + evil,
		"negative length":               h + "Content-Length: -3\r\n\r\nabc" + evil,
		"length in hex":                 h + "Content-Length: 0x3\r\n\r\nabc" + evil,
		"length with underscore":        h + "Content_Length: 3\r\n\r\nabc" + evil,
		"huge length":                   h + "Content-Length: 99999999999999999999\r\n\r\nabc" + evil,
		"space before colon":            h + "Content-Length : 3\r\n\r\nabc" + evil,
		"tab before colon":              h + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n" + evil,
		"vertical tab in value":         h + "Transfer-Encoding: \x0bchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + evil,
		"nul in value":                  h + "X: a\x00b\r\n\r\n" + evil,
		"nul in name":                   h + "X\x00: b\r\n\r\n" + evil,
		"obsolete fold":                 h + "Transfer-Encoding:\r\n chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + evil,
		"fold of a harmless header":     h + "X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
		"fold before the first header":  "GET / HTTP/1.1\r\n X: y\r\nHost: a.example.org\r\n\r\n",
		"bare LF":                       "POST / HTTP/1.1\nHost: a.example.org\nContent-Length: 3\n\nabc" + evil,
		"bare CR":                       h + "X: a\rTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
		"CR CR LF":                      h + "X: a\r\r\nContent-Length: 3\r\n\r\nabc",
		"two codings":                   h + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + evil,
		"chunked twice":                 h + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + evil,
		"two coding headers":            h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + evil,
		"coding unknown":                h + "Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc" + evil,
		"coding quoted":                 h + "Transfer-Encoding: \"chunked\"\r\nContent-Length: 3\r\n\r\nabc" + evil,
		"coding with parameter":         h + "Transfer-Encoding: chunked;a=b\r\nContent-Length: 3\r\n\r\nabc" + evil,
		"coding in HTTP/1.0":            "POST / HTTP/1.0\r\nHost: a.example.org\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + evil,
		"chunk size with plus":          h + "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
		"chunk size with 0x":            h + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
		"chunk size overflow":           h + "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
		"chunk extension with LF":       h + "Transfer-Encoding: chunked\r\n\r\n3;\nxx\r\nabc\r\n0\r\n\r\n",
		"chunk line with LF":            h + "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
		"chunk without end":             h + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n" + evil,
		"chunk ended by LF":             h + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
		"trailer that frames":           h + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 99\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
		"two hosts":                     "GET / HTTP/1.1\r\nHost: a.example.org\r\nHost: b.example.org\r\n\r\n",
		"no host":                       "GET / HTTP/1.1\r\n\r\n",
		"host with a path":              "GET / HTTP/1.1\r\nHost: a.example.org/x\r\n\r\n",
		"host with user":                "GET / HTTP/1.1\r\nHost: u@a.example.org\r\n\r\n",
		"host and absolute form":        "GET http://b.example.org/x HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"absolute form, other scheme":   "GET file:///etc/passwd HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"target with tab":               "GET /a\tb HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"target with space":             "GET /a b HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"target with version":           "GET /a HTTP/1.1 HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"target with fragment":          "GET /a#b HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"target with no slash":          "GET a HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"target of bytes":               "GET /\xc3\xa4\xff HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"target with CR":                "GET /a\rb HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"star":                          "OPTIONS * HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"connect":                       "CONNECT a.example.org:443 HTTP/1.1\r\nHost: a.example.org:443\r\n\r\n",
		"version 1.2":                   "GET / HTTP/1.2\r\nHost: a.example.org\r\n\r\n",
		"version 2.0":                   "GET / HTTP/2.0\r\nHost: a.example.org\r\n\r\n",
		"version 0.9":                   "GET /\r\n",
		"lower-case version":            "GET / http/1.1\r\nHost: a.example.org\r\n\r\n",
		"method with control":           "GE\x01T / HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"leading empty line":            "\r\nGET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
		"header without colon":          h + "Xcolon\r\nContent-Length: 0\r\n\r\n",
		"header without name":           h + ": x\r\nContent-Length: 0\r\n\r\n",
		"GET with a body":               "GET / HTTP/1.1\r\nHost: a.example.org\r\nContent-Length: 49\r\n\r\n" + evil,
		"connection names a length":     h + "Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
		"connection names the host":     h + "Connection: Host, X-Forwarded-For\r\nContent-Length: 0\r\n\r\n",
		"forwarding by underscore":      h + "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nContent-Length: 0\r\n\r\n",
		"rewritten address":             h + "X-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\nContent-Length: 0\r\n\r\n",
		"body cut off":                  h + "Content-Length: 10\r\n\r\nabc",
		"long body cut off":             h + "Content-Length: 100000\r\n\r\nabc",
		"expect and nothing":            h + "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
		"expect something else":         h + "Expect: the unexpected\r\nContent-Length: 0\r\n\r\n",
		"http2 preface":                 "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"headers over the limit":        h + "X: " + strings.Repeat("x", 40<<10) + "\r\n\r\n",
		"too many headers":              h + strings.Repeat("X: y\r\n", 150) + "Content-Length: 0\r\n\r\n",
		"upgrade with a body":           "GET / HTTP/1.1\r\nHost: a.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 49\r\n\r\n" + evil,
		"upgrade with a body in chunks": "GET / HTTP/1.1\r\nHost: a.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	}
	return p
}

// TestAmbiguousRequestsNeverReachTheApp sends each payload and looks at the very bytes behind the edge: what arrives is
// well formed by a reading that is stricter than any server's.
func TestAmbiguousRequestsNeverReachTheApp(t *testing.T) {
	r := newRig(t, nil)
	rec := &recorder{}
	r.serve("a.example.org", script(t, rec.serve))
	for name, payload := range payloads() {
		t.Run(name, func(t *testing.T) {
			c := r.conn("a.example.org")
			io.WriteString(c, payload)
			c.CloseWrite()
			answers, _ := io.ReadAll(c)
			requests, arrived := rec.check(t)
			// As many answers of the app as requests that it got: no answer is left over for someone else.
			if ok := bytes.Count(answers, []byte("HTTP/1.1 200 OK")); ok > requests {
				t.Errorf("%d answers to %d requests", ok, requests)
			}
			if strings.Contains(arrived, "6.6.6.6") || strings.Contains(arrived, "/admin") {
				t.Errorf("a word of the client about itself arrived: %q", arrived)
			}
		})
	}
	if resp, body := get(t, r.client(false), "https://a.example.org/"); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("afterwards: %v %q", resp, body)
	}
}

var (
	requestLine = regexp.MustCompile(`^[A-Z-]+ /[\x21\x22\x24-\x7e]* HTTP/1\.1$`)
	headerLine  = regexp.MustCompile(`^[A-Za-z0-9-]+: [^\x00-\x08\x0a-\x1f\x7f]*$`)
)

// strictly reads a stream of requests; it returns how many are whole and how many bytes they are. What follows may be
// cut off, but must begin like a request.
func strictly(s string) (n, used int, err error) {
	total := len(s)
	for s != "" {
		head, rest, ok := strings.Cut(s, "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		if !ok { // cut off: what is whole of it is looked at all the same
			lines = lines[:len(lines)-1]
		}
		length, chunks, err := strictHead(lines, ok)
		if err != nil || !ok {
			return n, total - len(s), err
		}
		if chunks {
			var whole bool
			if rest, whole, err = afterChunks(rest); err != nil || !whole {
				return n, total - len(s), err
			}
		} else {
			if length > len(rest) {
				return n, total - len(s), nil
			}
			rest = rest[length:]
		}
		s = rest
		n++
	}
	return n, total, nil
}

func strictHead(lines []string, whole bool) (length int, chunks bool, err error) {
	seen := map[string]int{}
	for i, l := range lines {
		if i == 0 {
			if !requestLine.MatchString(l) {
				return 0, false, fmt.Errorf("request line %q", l)
			}
			continue
		}
		if !headerLine.MatchString(l) {
			return 0, false, fmt.Errorf("header line %q", l)
		}
		k, v, _ := strings.Cut(l, ": ")
		k = strings.ToLower(k)
		seen[k]++
		switch k {
		case "content-length":
			if _, err := fmt.Sscanf(v, "%d", &length); err != nil || fmt.Sprint(length) != v {
				return 0, false, fmt.Errorf("length %q", v)
			}
		case "transfer-encoding":
			if chunks = v == "chunked"; !chunks {
				return 0, false, fmt.Errorf("coding %q", v)
			}
		}
	}
	if whole && (seen["host"] != 1 || seen["content-length"]+seen["transfer-encoding"] > 1 || seen["x-forwarded-for"] != 1) {
		return 0, false, fmt.Errorf("headers %v", seen)
	}
	return length, chunks, nil
}

func afterChunks(s string) (rest string, whole bool, err error) {
	for {
		line, rest, ok := strings.Cut(s, "\r\n")
		if !ok {
			return "", false, nil
		}
		if !regexp.MustCompile(`^[0-9a-f]+$`).MatchString(line) {
			return "", false, fmt.Errorf("chunk size %q", line)
		}
		var size int
		fmt.Sscanf(line, "%x", &size)
		if size == 0 {
			for {
				line, rest, ok = strings.Cut(rest, "\r\n")
				if !ok || line == "" {
					return rest, ok, nil
				}
				if !headerLine.MatchString(line) || strings.HasPrefix(strings.ToLower(line), "content-length") {
					return "", false, fmt.Errorf("trailer %q", line)
				}
			}
		}
		if len(rest) < size+2 {
			return "", false, nil
		}
		if rest[size:size+2] != "\r\n" {
			return "", false, fmt.Errorf("chunk end %q", rest[size:size+2])
		}
		s = rest[size+2:]
	}
}

// FuzzForward lets the fuzzer write requests; whatever arrives must be well formed.
func FuzzForward(f *testing.F) {
	r := newRig(f, nil)
	rec := &recorder{}
	r.serve("a.example.org", script(f, rec.serve))
	for _, p := range payloads() {
		f.Add([]byte(p))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c := r.connFor(t, "a.example.org")
		c.Write(payload)
		c.CloseWrite()
		io.Copy(io.Discard, c)
		rec.check(t)
	})
}

// FuzzControl feeds the decoders of what other processes send; a table that is taken means the same after it was
// stored.
func FuzzControl(f *testing.F) {
	app, ins := bulwark.NewAppID(), bulwark.NewInstanceID()
	f.Add(encodeTable(bulwark.Table{Generation: 3, Routes: map[bulwark.HostName]bulwark.AppID{"a.org": app},
		Apps: map[bulwark.AppID]bulwark.Upstream{app: {Name: "shop", Instances: []bulwark.InstanceID{ins}, FirstByte: 5e9, Queue: 3}}}))
	f.Add([]byte(`{"base_generation":1,"generation":2,"delete_routes":["a.org"],"set_apps":{}}`))
	f.Add([]byte(`[{"names":["a.org"],"chain":"","key":""}]`))
	f.Add([]byte(`{"generation":1}{"generation":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if table, err := decodeTable(b); err == nil {
			again, err := decodeTable(encodeTable(table))
			if err != nil || !sameTable(table, again) {
				t.Fatalf("%v: %+v became %+v", err, table, again)
			}
			ts := newTables(newDialer(nil))
			ts.install(table)
			if p, err := decodePatch(b); err == nil {
				_ = ts.patch(p, func([]byte) error { return nil })
			}
		}
		if p, err := decodePatch(b); err == nil {
			ts := newTables(newDialer(nil))
			_ = ts.patch(p, func([]byte) error { return nil })
		}
		if list, err := decodeCerts(b); err == nil {
			_, _ = newCertSet(list, &certSet{})
		}
		_, _ = decodeStoredCerts(b)
	})
}

// TestTargets looks at what only HTTP/2 can carry: net/http lets a space through there.
func TestTargets(t *testing.T) {
	for _, uri := range []string{"/a b", "/a HTTP/1.1", "/\r\nX: y", "/#", "", "a", "*", "/\x7f", "/\x00"} {
		if got, ok := target(&http.Request{RequestURI: uri, URL: &url.URL{Path: uri}}); ok {
			t.Errorf("%q was taken as %q", uri, got)
		}
	}
	for uri, want := range map[string]string{"/": "/", "/a?b=c%20d": "/a?b=c%20d", "//x/../y": "//x/../y", "/\xc3\xa4": "/%C3%A4"} {
		if got, ok := target(&http.Request{RequestURI: uri}); !ok || got != want {
			t.Errorf("%q became %q, %v", uri, got, ok)
		}
	}
}
