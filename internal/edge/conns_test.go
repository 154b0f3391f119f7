package edge

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A handshake that fails, is cut off or never ends takes no turn along: else a few of them would stop the edge for good.
func TestHandshakesGiveTurnsBack(t *testing.T) {
	r := newRig(t, nil)
	for i := range 300 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 3 {
		case 0: // no cipher in common
			_ = tls.Client(c, &tls.Config{ServerName: "a.example.org", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
				CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}).Handshake()
			c.Close()
		case 1: // a name that nobody has
			_ = tls.Client(c, &tls.Config{ServerName: "nobody.example.org", InsecureSkipVerify: true}).Handshake()
			c.Close()
		default: // the client goes away in the middle, or stays
			go func() {
				c.SetDeadline(time.Now().Add(20 * time.Millisecond))
				_ = tls.Client(halfway{c}, &tls.Config{ServerName: "a.example.org", InsecureSkipVerify: true}).Handshake()
			}()
			t.Cleanup(func() { c.Close() })
		}
	}
	for _, h2 := range []bool{false, true} {
		if resp, _ := get(t, r.client(h2), "https://a.example.org/"); resp.StatusCode != 404 {
			t.Errorf("%d", resp.StatusCode)
		}
	}
}

// halfway never sees an answer.
type halfway struct{ net.Conn }

func (h halfway) Read(b []byte) (int, error) {
	time.Sleep(time.Hour)
	return 0, net.ErrClosed
}

// One network has so many connections and no more; where all are taken, who has few still gets one.
func TestConnectionsAreBounded(t *testing.T) {
	l := &conns{client: map[netip.Addr]*purse{}}
	one := netip.MustParseAddr("192.0.2.1")
	for range connsOfClient {
		if l.enter(one, false) == nil {
			t.Fatal("refused before its bound")
		}
	}
	if l.enter(one, false) != nil {
		t.Error("one network may have more")
	}
	n := connsOfClient
	for i := 0; n < connsMost; i++ {
		many := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		for range 100 {
			if n < connsMost && l.enter(many, false) != nil {
				n++
			}
		}
	}
	if l.enter(netip.AddrFrom4([4]byte{10, 0, 0, 0}), false) != nil {
		t.Error("who has many gets another where all are taken")
	}
	few := 0
	for i := range 100_000 {
		if l.enter(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), false) != nil {
			few++
		}
	}
	if few == 0 || l.all > connsMost+connsMost/8 {
		t.Errorf("%d newcomers got one, %d in all", few, l.all)
	}
	for range connsOfClient {
		l.leave(one)
	}
	if _, known := l.client[one]; known {
		t.Error("a client that left is remembered")
	}
}

// Who sends a body a byte at a time is cut off when all that may be waited for is used up, however often a byte came; one that talks with the app
// may take its time.
func TestSlowBody(t *testing.T) {
	said := make(chan string)
	at := backend(t, func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{w: w, r: r, waited: bodyGrace - 300*time.Millisecond}
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		b := make([]byte, 100)
		for {
			if _, err := x.readBody(rc, b, r.URL.Path == "/talk"); err != nil {
				said <- fmt.Sprintf("%v after %d bytes", timedOut(err), x.came)
				return
			}
		}
	})
	for path, want := range map[string]string{"/": "true after ", "/talk": "false after 20 bytes"} {
		in, out := io.Pipe()
		go func() {
			for range 20 {
				if _, err := out.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			out.Close()
		}()
		go func() {
			if resp, err := http.Post("http://"+at+path, "text/plain", in); err == nil {
				resp.Body.Close()
			}
			in.Close()
		}()
		if got := <-said; !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
