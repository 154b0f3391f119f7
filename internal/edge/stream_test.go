package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func TestEventsArriveAtOnce(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		next := make(chan struct{})
		addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-next // until the client has seen it
			}
		})
		r.serve("a.example.org", addr)
		resp, err := r.client(h2).Get("https://a.example.org/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := br.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%q %v", line, err)
			}
			br.ReadString('\n')
			next <- struct{}{}
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Error(err)
		}
	})
}

func TestClientThatLeavesEndsTheRequest(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		begun, ended := make(chan struct{}), make(chan struct{})
		addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
			close(begun)
			<-q.Context().Done()
			close(ended)
		})
		r.serve("a.example.org", addr)
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://a.example.org/", nil)
		go func() { <-begun; cancel() }()
		if _, err := r.client(h2).Do(req); err == nil {
			t.Error("no error")
		}
		<-ended
	})
}

func TestLargeBodiesBothWays(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
			h := sha256.New()
			n, err := io.Copy(h, q.Body)
			w.Header().Set("X-Sum", fmt.Sprintf("%x %d %d %v %v", h.Sum(nil), n, q.ContentLength, q.TransferEncoding, err))
			w.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<18)) // 4 MiB
		})
		r.serve("a.example.org", addr)
		body := bytes.Repeat([]byte("fedcba9876543210"), 1<<18)
		for _, known := range []bool{true, false} {
			var in io.Reader = bytes.NewReader(body)
			want := fmt.Sprintf("%x %d %d [] <nil>", sha256.Sum256(body), len(body), len(body))
			if !known {
				in = io.MultiReader(in) // hides the length
				want = fmt.Sprintf("%x %d -1 [chunked] <nil>", sha256.Sum256(body), len(body))
			}
			resp, err := r.client(h2).Post("https://a.example.org/", "x/y", in)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil || n != 4<<20 || resp.Header.Get("X-Sum") != want {
				t.Errorf("%d %v %q, want %q", n, err, resp.Header.Get("X-Sum"), want)
			}
		}
	})
}

func TestTrailersBothWays(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			io.Copy(w, q.Body)
			w.Header().Set("X-Sum", q.Trailer.Get("X-In"))
			w.Header().Set(http.TrailerPrefix+"X-Late", "late")
		})
		r.serve("a.example.org", addr)
		req, _ := http.NewRequest("POST", "https://a.example.org/", io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-In": {"42"}}
		resp, err := r.client(h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != "body" || resp.Trailer.Get("X-Sum") != "42" || resp.Trailer.Get("X-Late") != "late" {
			t.Errorf("%q %v %v", b, err, resp.Trailer)
		}
	})
}

func TestHeadAndEmptyAnswers(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
			switch q.URL.Path {
			case "/head":
				w.Header().Set("Content-Length", "12345")
			case "/304":
				w.Header().Set("Etag", `"x"`)
				w.WriteHeader(304)
			case "/204":
				w.WriteHeader(204)
			case "/none":
			}
		})
		r.serve("a.example.org", addr)
		c := r.client(h2)
		resp, err := c.Head("https://a.example.org/head")
		if err != nil || resp.ContentLength != 12345 {
			t.Errorf("%v %v", resp, err)
		}
		for _, p := range []string{"/304", "/204", "/none"} {
			resp, body := get(t, c, "https://a.example.org"+p)
			if body != "" || resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Content-Type") != "" {
				t.Errorf("%s: %v %q", p, resp, body)
			}
		}
		if made := r.dial.made.Load(); made != 1 {
			t.Errorf("%d connections were made", made)
		}
	})
}

func TestExpectContinueAsksTheApp(t *testing.T) {
	r := newRig(t, nil)
	addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/no" {
			w.WriteHeader(417)
			return
		}
		b, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "%d", len(b))
	})
	r.serve("a.example.org", addr)
	for _, c := range []struct {
		path, body string
		status     int
		continues  bool
	}{{"/yes", "5", 200, true}, {"/no", "", 417, false}} {
		got := false
		req, _ := http.NewRequest("POST", "https://a.example.org"+c.path, strings.NewReader("hello"))
		req.Header.Set("Expect", "100-continue")
		req = req.WithContext(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: func() { got = true }}))
		resp, err := r.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != c.status || string(b) != c.body || got != c.continues {
			t.Errorf("%s: %d %q, continue %v", c.path, resp.StatusCode, b, got)
		}
	}
}

func TestEarlyHints(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		addr := backend(t, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Link", "</x.css>; rel=preload")
			w.WriteHeader(103)
			w.Header().Del("Link")
			io.WriteString(w, "page")
		})
		r.serve("a.example.org", addr)
		var hints []string
		req, _ := http.NewRequest("GET", "https://a.example.org/", nil)
		req = req.WithContext(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h))
			return nil
		}}))
		resp, err := r.client(h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if string(b) != "page" || resp.Header.Get("Link") != "" || len(hints) != 1 || hints[0] != "103 map[Link:[</x.css>; rel=preload]]" {
			t.Errorf("%q %v %q", b, resp.Header, hints)
		}
	})
}

// TestAnswerBeforeTheBodyIsSent has an app refuse an upload that never ends.
func TestAnswerBeforeTheBodyIsSent(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := newRig(t, nil)
		addr := script(t, func(c net.Conn, br *bufio.Reader) {
			readHead(br)
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
			io.Copy(io.Discard, br)
		})
		r.serve("a.example.org", addr)
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", "https://a.example.org/", pr)
		go pw.Write(make([]byte, 1000)) // and then nothing more
		resp, err := r.client(h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		pw.Close()
		if resp.StatusCode != 413 || string(b) != "big" {
			t.Errorf("%d %q", resp.StatusCode, b)
		}
		if !h2 && !resp.Close {
			t.Error("the connection stays open with half a body in it")
		}
	})
}

func TestBrokenAnswerIsSeenAsBroken(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		for name, head := range map[string]string{"length": "Content-Length: 100\r\n\r\nhalf", "chunks": "Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"} {
			r := newRig(t, nil)
			r.serve("a.example.org", script(t, func(c net.Conn, br *bufio.Reader) {
				readHead(br)
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head)
			}))
			resp, err := r.client(h2).Get("https://a.example.org/")
			if err != nil {
				continue // seen even earlier
			}
			if b, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("%s: the client believes that it got all: %q", name, b)
			}
		}
	})
}

func TestBadAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":         "",
		"no HTTP":         "hello\r\n\r\n",
		"status 099":      "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
		"switch unasked":  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"two lengths":     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"endless interim": strings.Repeat("HTTP/1.1 103 X\r\n\r\n", 50),
		"endless header":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxReplyHeader) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.serve("a.example.org", script(t, func(c net.Conn, br *bufio.Reader) {
				readHead(br)
				io.WriteString(c, answer)
			}))
			resp, body := get(t, r.client(true), "https://a.example.org/")
			if resp.StatusCode != 502 || !strings.Contains(body, "no proper answer") {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestFirstByteTimeout(t *testing.T) {
	r := newRig(t, nil)
	hold := make(chan struct{})
	defer close(hold)
	addr := script(t, func(c net.Conn, br *bufio.Reader) { readHead(br); <-hold })
	app := r.serve("a.example.org", addr)
	up := r.table.Apps[app]
	up.FirstByte = bulwark.Duration(50 * time.Millisecond)
	r.table.Apps[app] = up
	r.put()
	for _, h2 := range []bool{false, true} {
		if resp, _ := get(t, r.client(h2), "https://a.example.org/"); resp.StatusCode != 504 {
			t.Errorf("%d", resp.StatusCode)
		}
		resp, err := r.client(h2).Post("https://a.example.org/", "x/y", io.MultiReader(strings.NewReader("x")))
		if err != nil || resp.StatusCode != 504 {
			t.Errorf("%v %v", resp, err)
		}
	}
}

func TestPauseTimeout(t *testing.T) {
	r := newRig(t, nil)
	hold := make(chan struct{})
	defer close(hold)
	addr := script(t, func(c net.Conn, br *bufio.Reader) {
		readHead(br)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
		<-hold
	})
	app := r.serve("a.example.org", addr)
	up := r.table.Apps[app]
	up.Idle = bulwark.Duration(50 * time.Millisecond)
	r.table.Apps[app] = up
	r.put()
	resp, err := r.client(true).Get("https://a.example.org/")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
	}
	if err == nil {
		t.Error("no error")
	}
}

func TestWebSocket(t *testing.T) {
	r := newRig(t, nil)
	heads := make(chan string, 2)
	addr := script(t, func(c net.Conn, br *bufio.Reader) {
		heads <- readHead(br)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: abc\r\nServer: x\r\n\r\nhello")
		io.Copy(c, br)
	})
	app := r.serve("a.example.org", addr)
	c := r.conn("a.example.org")
	// What the client sends right behind its request belongs to the socket.
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a.example.org\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nfirst")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "abc" || resp.Header.Get("Server") != "" || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v %v", resp, err)
	}
	if head := <-heads; !strings.Contains(head, "Connection: Upgrade\r\nUpgrade: websocket\r\n") || !strings.Contains(head, "Sec-Websocket-Key: k\r\n") {
		t.Errorf("the app got %q", head)
	}
	buf := make([]byte, 10)
	if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "hellofirst" {
		t.Fatalf("%q %v", buf, err)
	}
	for range 3 {
		io.WriteString(c, "again")
		if _, err := io.ReadFull(br, buf[:5]); err != nil || string(buf[:5]) != "again" {
			t.Fatalf("%q %v", buf, err)
		}
	}
	st, err := r.control.Stats(context.Background())
	if id := r.table.Apps[app].Instances[0]; err != nil || st.Instances[id].InFlight != 1 {
		t.Errorf("%+v %v", st, err)
	}
	c.Close()
	// The edge's end is the app's end: the socket's connection is not used again.
	t.Run("no other upgrade", func(t *testing.T) {
		for _, proto := range []string{"h2c", "TLS/1.0"} {
			seen := make(chan string, 1)
			r.serve("b.example.org", script(t, func(c net.Conn, br *bufio.Reader) {
				seen <- readHead(br)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}))
			c := r.conn("b.example.org")
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: b.example.org\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n", proto)
			if head := <-seen; strings.Contains(strings.ToLower(head), "upgrade") || strings.Contains(strings.ToLower(head), "settings") {
				t.Errorf("%s was passed on: %q", proto, head)
			}
		}
	})
}

// script starts an instance that does as it is told with each connection.
func script(t testing.TB, serve func(net.Conn, *bufio.Reader)) string {
	l := tcp(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return l.Addr().String()
}

// readHead reads up to the empty line.
func readHead(br *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := br.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String()
		}
	}
}
