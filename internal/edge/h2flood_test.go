package edge

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// floods are what one connection of HTTP/2 can be filled with that costs its sender little: begun and reset at once (CVE-2023-44487), headers that never end
// (CVE-2024-24549 and its kind), settings, pings, empty frames, windows, priorities.
func floods() map[string]func(f *http2.Framer, begin func() []byte, id uint32) error {
	return map[string]func(f *http2.Framer, begin func() []byte, id uint32) error{
		"rapid reset": func(f *http2.Framer, begin func() []byte, id uint32) error {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: begin(), EndHeaders: true, EndStream: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		"made the server reset": func(f *http2.Framer, begin func() []byte, id uint32) error { // CVE-2025-8671
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: begin(), EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteRawFrame(http2.FrameWindowUpdate, 0, id, []byte{0, 0, 0, 0})
		},
		"continuation": func(f *http2.Framer, begin func() []byte, id uint32) error {
			if id == 1 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: begin()})
			}
			return f.WriteContinuation(1, false, bytes.Repeat([]byte{0x40, 1, 'a', 1, 'b'}, 1000))
		},
		"settings": func(f *http2.Framer, _ func() []byte, _ uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 4096})
		},
		"ping":   func(f *http2.Framer, _ func() []byte, _ uint32) error { return f.WritePing(false, [8]byte{1}) },
		"window": func(f *http2.Framer, _ func() []byte, _ uint32) error { return f.WriteWindowUpdate(0, 1) },
		"priority": func(f *http2.Framer, _ func() []byte, id uint32) error {
			return f.WritePriority(id, http2.PriorityParam{StreamDep: 0, Weight: 1})
		},
		"empty data": func(f *http2.Framer, begin func() []byte, id uint32) error {
			if id == 1 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: begin(), EndHeaders: true})
			}
			return f.WriteData(1, false, nil)
		},
	}
}

// A purse is full at first, holds no more than it may, and owes what was spent beyond; what is earned goes on top.
func TestPurse(t *testing.T) {
	at := time.Now()
	p := means{}.purse(at)
	if d := p.spend(purseMost, at); d != 0 {
		t.Error("refused what it had", d)
	}
	if d := p.spend(purseRate, at); d != time.Second {
		t.Error("a second's worth more", d)
	}
	if d := p.spend(100*purseRate, at); d != purseLongest {
		t.Error("much more", d)
	}
	at = at.Add(101 * time.Second)
	if d := p.spend(1, at); d <= 0 || d > time.Millisecond || p.full(at) {
		t.Error("when the debt is paid", d)
	}
	p.earn(purseEarned)
	if d := p.spend(purseEarned-1, at); d != 0 {
		t.Error("what was earned", d)
	}
	p.earn(1 << 40)
	if !p.full(at) || p.spend(purseMost+1, at) == 0 {
		t.Error("it holds more than it may")
	}
	if !p.full(at.Add(time.Hour)) {
		t.Error("time fills it")
	}
}

// A client that goes and comes back owes what it owed; one that owes nothing is forgotten.
func TestPurseIsKept(t *testing.T) {
	l := &conns{client: map[netip.Addr]*purse{}}
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	p := l.enter(one, false)
	p.spend(2*purseMost, time.Now())
	l.leave(one)
	if again := l.enter(one, false); again != p {
		t.Error("a new connection owes nothing")
	}
	l.leave(one)
	l.enter(other, false)
	l.leave(other)
	if l.client[other] != nil || l.client[one] == nil {
		t.Error("who is remembered", l.client)
	}
	p.earn(4 * purseMost)
	l.swept = time.Time{}
	l.enter(netip.MustParseAddr("192.0.2.3"), false)
	if l.client[one] != nil {
		t.Error("who has paid is remembered for ever")
	}
}

// Whoever fills connections of HTTP/2 with what costs them little gets no more of the edge than others: they are served meanwhile, the app sees few requests, and what
// is kept does not grow.
func TestHTTP2Floods(t *testing.T) {
	for name, attack := range floods() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reached, read atomic.Int64
			r := newRig(t, func(c *Config) {
				c.Grace, c.each, c.HTTPS = 100*time.Millisecond, means{16 << 10, 64 << 10}, counted{c.HTTPS, "127.0.0.2", &read}
			})
			r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
				reached.Add(1)
				select {
				case <-q.Context().Done():
				case <-time.After(50 * time.Millisecond):
				}
			}))
			r.serve("b.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") }))
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			end := time.Now().Add(2 * time.Second)
			var sent atomic.Int64
			done := make(chan struct{})
			for range 4 {
				go func() {
					defer func() { done <- struct{}{} }()
					for time.Now().Before(end) {
						sent.Add(r.flood(attack, end))
					}
				}()
			}
			slowest, served := time.Duration(0), 0
			for time.Now().Before(end) {
				began := time.Now()
				resp, err := r.client(served%2 == 0).Get("https://b.example.org/")
				if err != nil {
					t.Fatalf("after %d: %v", served, err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(b) != "ok" {
					t.Fatalf("after %d: %s %q", served, resp.Status, b)
				}
				slowest, served = max(slowest, time.Since(began)), served+1
				time.Sleep(5 * time.Millisecond)
			}
			for range 4 {
				<-done
			}
			r.stop() // else the app waits for bodies that never end
			runtime.GC()
			runtime.ReadMemStats(&after)
			grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
			t.Logf("%d sent; another app: %d requests, the slowest %v; the app saw %d; %d KB were read, %d KB more are kept", sent.Load(), served, slowest, reached.Load(), read.Load()/1024, grown/1024)
			if served < 3 || sent.Load() < 20 || read.Load() > 1<<20 {
				t.Errorf("%d served, %d frames sent, %d bytes read", served, sent.Load(), read.Load())
			}
			if grown > 64<<20 {
				t.Errorf("%d MB more are kept", grown>>20)
			}
		})
	}
}

// flood fills a connection until the edge ends it or the time is over, and says how often.
func (r *rig) flood(attack func(*http2.Framer, func() []byte, uint32) error, end time.Time) (sent int64) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}} // another client than the one that is served
	c, err := tls.DialWithDialer(d, "tcp", r.addr, &tls.Config{RootCAs: r.pool, ServerName: "a.example.org", NextProtos: []string{"h2"}})
	if err != nil {
		return 0
	}
	defer c.Close()
	c.SetDeadline(end)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return 0
	}
	go io.Copy(io.Discard, c) // a client that does not read would be ended for that
	f := http2.NewFramer(c, nil)
	if err := f.WriteSettings(); err != nil {
		return 0
	}
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	begin := func() []byte {
		block.Reset()
		for _, h := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "a.example.org"}, {Name: ":path", Value: "/"}} {
			_ = enc.WriteField(h)
		}
		return []byte(block.String())
	}
	for id := uint32(1); time.Now().Before(end); id += 2 {
		if attack(f, begin, id) != nil {
			break
		}
		sent++
	}
	return sent
}

// counted counts what the edge reads of a client.
type counted struct {
	net.Listener
	of string
	n  *atomic.Int64
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil && strings.HasPrefix(c.RemoteAddr().String(), l.of+":") {
		c = countedConn{c, l.n}
	}
	return c, err
}

type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}
