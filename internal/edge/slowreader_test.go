package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/bulwark-paas/bulwark"
)

// victimTime is how long somebody else waits at most, who takes what is sent.
const victimTime = 5 * time.Second

// An attacker asks for pages of the edge and gives them no room to be sent in. What answers them once stood, with one of
// the edge's turns, until each was taken; so that eight such requests kept everybody else out.
func TestHolePagesThatNobodyTakes(t *testing.T) {
	for name, ask := range map[string]func(t *testing.T, r *rig, u *net.UDPConn, host, path string){"h2": askByH2WithoutRoom, "h3": askByH3WithoutRoom} {
		t.Run(name, func(t *testing.T) {
			r, u := quicRig(t, nil)
			h := backend(t, func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "ok") })
			app := r.serve("a.example.org", h)
			r.serve("b.example.org", h)
			r.shield(app, bulwark.Shield{Maintenance: bulwark.MaintenanceOn, Pages: map[bulwark.PageName]string{"maintenance": strings.Repeat("x", 20000)}})
			if _, b := get(t, r.client(true), "https://a.example.org/"); len(b) < 20000 {
				t.Fatal("not the page:", len(b))
			}
			ask(t, r, u, "a.example.org", "/")
			r.servesOthers("https://b.example.org/")
		})
	}
}

// An attacker asks for what an app answers with early hints, and takes none of them. They are written by whoever reads the
// connection to the instance, which all requests to it share when it speaks HTTP/2.
func TestHoleHintsThatNobodyTakes(t *testing.T) {
	for name, ask := range map[string]func(t *testing.T, r *rig, u *net.UDPConn, host, path string){"h2": askByH2WithoutRoom, "h3": askByH3WithoutRoom} {
		t.Run(name, func(t *testing.T) {
			r, u := quicRig(t, nil)
			r.serveH2C("a.example.org", h2cBackend(t, func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/hints" {
					w.Header().Set("Link", "</a.css>; rel=preload; x="+strings.Repeat("a", 3000))
					w.WriteHeader(103)
				}
				io.WriteString(w, "ok")
			}))
			r.servesOthers("https://a.example.org/")
			ask(t, r, u, "a.example.org", "/hints")
			r.servesOthers("https://a.example.org/")
		})
	}
}

// servesOthers fails the test if a client that takes what it is sent waits for who does not.
func (r *rig) servesOthers(url string) {
	r.t.Helper()
	for range 3 {
		ctx, cancel := context.WithTimeout(r.t.Context(), victimTime)
		q, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		resp, err := r.client(true).Do(q)
		if err != nil {
			r.t.Fatal("others wait:", err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(b) != "ok" {
			r.t.Fatal("others get:", resp.Status, string(b), err)
		}
		cancel()
	}
}

func askByH2WithoutRoom(t *testing.T, r *rig, _ *net.UDPConn, host, path string) {
	c := r.connFor(t, host, "h2")
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for id := uint32(1); id < 16; id += 2 {
		var b bytes.Buffer
		e := hpack.NewEncoder(&b)
		for _, kv := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", path}} {
			e.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1]})
		}
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: true})
	}
	f.WritePing(false, [8]byte{1})
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := fr.(*http2.SettingsFrame); ok && !s.IsAck() {
			f.WriteSettingsAck()
		}
		if p, ok := fr.(*http2.PingFrame); ok && p.IsAck() {
			break // all was read that came before
		}
	}
	go io.Copy(io.Discard, c)
	time.Sleep(300 * time.Millisecond) // for the requests to be taken up
}

func askByH3WithoutRoom(t *testing.T, r *rig, u *net.UDPConn, host, path string) {
	qc, err := quic.DialAddr(t.Context(), u.LocalAddr().String(), &tls.Config{RootCAs: r.pool, ServerName: host, NextProtos: []string{"h3"}},
		&quic.Config{InitialStreamReceiveWindow: 16, MaxStreamReceiveWindow: 16, KeepAlivePeriod: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = qc.CloseWithError(0, "") })
	cc := (&http3.Transport{}).NewClientConn(qc)
	for range 8 {
		str, err := cc.OpenRequestStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequest("GET", "https://"+host+path, nil)
		if err := str.SendRequestHeader(req); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
}
