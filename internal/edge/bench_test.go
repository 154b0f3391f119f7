package edge

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

// kilobyte is an instance that answers every request with 1 KiB, as cheaply as can be: what is measured is the edge.
func kilobyte(t testing.TB) string {
	answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"), bytes.Repeat([]byte{'x'}, 1024)...)
	return script(t, func(c net.Conn, br *bufio.Reader) {
		for {
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
}

func BenchmarkForward(b *testing.B) {
	for _, h2 := range []bool{false, true} {
		name := map[bool]string{false: "h1", true: "h2"}[h2]
		b.Run(name, func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.AccessLog = io.Discard })
			r.serve("a.example.org", kilobyte(b))
			c := r.client(h2)
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if resp, body := get(b, c, "https://a.example.org/path?x=1"); resp.StatusCode != 200 || len(body) != 1024 {
					b.Fatal(resp.Status)
				}
			}
		})
	}
}

func BenchmarkPatchTenThousandHosts(b *testing.B) {
	r := newRig(b, nil)
	var app bulwark.AppID
	for i := range 10_000 {
		if i%10 == 0 {
			app = bulwark.NewAppID()
			r.table.Apps[app] = bulwark.Upstream{Name: "shop", Instances: []bulwark.InstanceID{bulwark.NewInstanceID()}}
		}
		r.table.Routes[bulwark.HostName("host-"+strconv.Itoa(i)+".example.org")] = app
	}
	b.Run("put", func(b *testing.B) {
		for b.Loop() {
			r.put()
		}
	})
	b.Run("patch", func(b *testing.B) {
		for b.Loop() {
			up := r.table.Apps[app]
			up.Instances = []bulwark.InstanceID{bulwark.NewInstanceID()}
			r.gen++
			if err := r.control.PatchTable(b.Context(), bulwark.TablePatch{BaseGeneration: r.gen - 1, Generation: r.gen,
				SetApps: map[bulwark.AppID]bulwark.Upstream{app: up}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRoute looks hosts up in tables of several sizes: it takes the same in each, but for the processor's caches.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			t := newTables(newDialer(slog.New(slog.DiscardHandler)))
			table := bulwark.Table{Generation: 1, Routes: map[bulwark.HostName]bulwark.AppID{}, Apps: map[bulwark.AppID]bulwark.Upstream{}}
			var app bulwark.AppID
			hosts := make([]bulwark.HostName, n)
			for i := range hosts {
				if i%10 == 0 {
					app = bulwark.NewAppID()
					table.Apps[app] = bulwark.Upstream{Name: "shop", Instances: []bulwark.InstanceID{bulwark.NewInstanceID()}}
				}
				hosts[i] = bulwark.HostName("host-" + strconv.Itoa(i) + ".example.org")
				table.Routes[hosts[i]] = app
			}
			t.install(table)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i = (i + 7919) % n // no order that a cache could follow
				if t.route(hosts[i]) == nil {
					b.Fatal(hosts[i])
				}
			}
		})
	}
}

// TestServeForMeasure is no test: with EDGE_MEASURE=edge or =reverseproxy it serves on a fixed port until it is killed,
// so that a load generator and perf can look at the process from outside.
func TestServeForMeasure(t *testing.T) {
	kind := os.Getenv("EDGE_MEASURE")
	if kind == "" {
		return
	}
	up := os.Getenv("EDGE_UPSTREAM")
	if kind == "reverseproxy" {
		ca := newAuthority(t)
		c := ca.issue(t, "", testHosts...)
		pair, _ := tls.X509KeyPair(c.Chain, c.Key)
		p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: up})
		p.Transport = &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
		s := &http.Server{Handler: p, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}}
		l, err := net.Listen("tcp", "127.0.0.1:9443")
		if err != nil {
			t.Fatal(err)
		}
		t.Log(s.ServeTLS(l, "", ""))
		return
	}
	r := newRig(t, func(c *Config) {
		l, err := net.Listen("tcp", "127.0.0.1:9443")
		if err != nil {
			t.Fatal(err)
		}
		c.HTTPS = l
		c.AccessLog = io.Discard
	})
	r.serve("a.example.org", up)
	<-r.done
}
