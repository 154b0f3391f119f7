package edge

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/bulwark-paas/bulwark"
)

// Who asks is the nearest that is none of the operator's proxies, whatever is claimed behind it; who is no proxy of theirs says nothing.
func TestClientOf(t *testing.T) {
	ours := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, c := range []struct {
		from, header, says, want string
	}{
		{"203.0.113.9", "", "198.51.100.1", "203.0.113.9"},
		{"10.0.0.1", "", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1", "", "6.6.6.6, 198.51.100.1", "198.51.100.1"},
		{"10.0.0.1", "", "6.6.6.6, 198.51.100.1, 10.2.3.4", "198.51.100.1"},
		{"10.0.0.1", "", "10.2.3.4", "10.2.3.4"},
		{"10.0.0.1", "", "", "10.0.0.1"},
		{"10.0.0.1", "", "6.6.6.6, nonsense, 10.2.3.4", "10.2.3.4"},
		{"10.0.0.1", "", "198.51.100.1:4711", "198.51.100.1"},
		{"10.0.0.1", "", "[2001:db9::1]:4711", "2001:db9::1"},
		{"10.0.0.1", "", "[2001:db9::1]", "2001:db9::1"},
		{"10.0.0.1", "", "::ffff:198.51.100.1", "198.51.100.1"},
		{"2001:db8::1", "", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1", "", strings.Repeat("10.0.0.2,", 100) + "10.0.0.3", "10.0.0.2"},
		{"10.0.0.1", Forwarded, `for=6.6.6.6, for="198.51.100.1:80";proto=https;by=10.0.0.1`, "198.51.100.1"},
		{"10.0.0.1", Forwarded, `for="[2001:db9::1]:80"`, "2001:db9::1"},
		{"10.0.0.1", Forwarded, `for=6.6.6.6, proto=https`, "10.0.0.1"},
		{"10.0.0.1", Forwarded, `for=6.6.6.6, for=_hidden, for=10.0.0.9`, "10.0.0.9"},
		{"10.0.0.1", Forwarded, `for="6.6.6.6, for=198.51.100.1`, "198.51.100.1"},
		{"10.0.0.1", CFConnecting, "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1", CFConnecting, "198.51.100.1, 6.6.6.6", "10.0.0.1"},
	} {
		u := Upstreams{From: ours, Header: c.header}
		h := http.Header{}
		for _, k := range []string{ForwardedFor, Forwarded, CFConnecting} { // those that nobody chose are the client's own
			h.Set(k, "for=9.9.9.9")
		}
		name := c.header
		if name == "" {
			name = ForwardedFor
		}
		h.Set(name, c.says)
		if got := u.client(c.from, h); got != c.want {
			t.Errorf("%s %s %q: %s, want %s", c.from, c.header, c.says, got, c.want)
		}
	}
}

func FuzzClientOf(f *testing.F) {
	f.Add("6.6.6.6, 10.0.0.1", uint8(0))
	f.Add(`for="[::1]";by=x, for=_y`, uint8(1))
	f.Fuzz(func(t *testing.T, says string, n uint8) {
		u := Upstreams{From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Header: []string{"", Forwarded, CFConnecting}[n%3]}
		h := http.Header{}
		for _, k := range []string{ForwardedFor, Forwarded, CFConnecting} {
			h.Set(k, says)
		}
		if _, err := netip.ParseAddr(u.client("10.0.0.1", h)); err != nil {
			t.Fatal(err)
		}
		if got := u.client("203.0.113.1", h); got != "203.0.113.1" {
			t.Fatal(got)
		}
	})
}

// forwarded is what an app is told of who asks.
func forwarded(t *testing.T, u Upstreams) *rig {
	r := newRig(t, func(c *Config) { c.Upstreams = u })
	r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		io.WriteString(w, strings.Join(q.Header["X-Forwarded-For"], "|")+" "+q.Header.Get("Forwarded")+q.Header.Get("Cf-Connecting-Ip"))
	}))
	return r
}

// What an upstream says reaches the app as the one address that counts, and a limit counts those for whom it asks, each for itself.
func TestUpstreamHeader(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		r := forwarded(t, Upstreams{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		app := r.table.Routes["a.example.org"]
		if err := r.certs.PutShields(t.Context(), []bulwark.Shielded{{App: app, Hosts: testHosts[:1],
			Shield: bulwark.Shield{Limits: []bulwark.RateLimit{{Rate: bulwark.Rate{Requests: 2, Window: time.Hour}, Per: bulwark.PerClient}}}}}); err != nil {
			t.Fatal(err)
		}
		ask := func(says string) (int, string) {
			res, body := send(t, r.client(h2), "GET", "/", http.Header{"X-Forwarded-For": {says}, "Forwarded": {"for=6.6.6.6"}, "Cf-Connecting-Ip": {"6.6.6.6"}}, nil)
			return res.StatusCode, body
		}
		for i, says := range []string{"6.6.6.6, 203.0.113.7", "7.7.7.7, 203.0.113.7", "203.0.113.8", "203.0.113.7"} {
			code, body := ask(says)
			switch {
			case i < 2 && (code != 200 || body != "203.0.113.7 "), i == 2 && (code != 200 || body != "203.0.113.8 "), i == 3 && code != 429:
				t.Errorf("%d: %s: %d %q", i, says, code, body)
			}
		}
	})
	// To everybody else it is nothing.
	r := forwarded(t, Upstreams{From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	if _, body := send(t, r.client(true), "GET", "/", http.Header{"X-Forwarded-For": {"6.6.6.6"}}, nil); body != "127.0.0.1 " {
		t.Errorf("%q", body)
	}
}

// An upstream that speaks the PROXY protocol says for whom it connects before anything else; one that does not is hung up on, on both ports.
func TestProxyProtocol(t *testing.T) {
	r := forwarded(t, Upstreams{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Proxy: true})
	for version := byte(1); version <= 2; version++ {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from := &net.TCPAddr{IP: net.IPv4(203, 0, 113, version), Port: 4711}
		if _, err := proxyproto.HeaderProxyFromAddrs(version, from, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}).WriteTo(c); err != nil {
			t.Fatal(err)
		}
		s := tls.Client(c, &tls.Config{RootCAs: r.pool, ServerName: "a.example.org"})
		fmt.Fprint(s, "GET / HTTP/1.1\r\nHost: a.example.org\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n")
		b, err := io.ReadAll(s)
		if want := fmt.Sprintf("203.0.113.%d ", version); err != nil || !strings.HasSuffix(string(b), want) {
			t.Errorf("version %d: %q, %v", version, b, err)
		}
	}
	for _, addr := range []string{r.addr, r.plain} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n")
		if b, _ := io.ReadAll(c); strings.Contains(string(b), "Location") || strings.Contains(string(b), "200 OK") {
			t.Errorf("without a header: %q", b)
		}
	}
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 308 && res.StatusCode != 301 {
		t.Error(res, err)
	}
}

// An origin that is locked to its upstreams lets nobody else in. The machine itself is not somebody else.
func TestOnlyUpstreams(t *testing.T) {
	u := Upstreams{From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Only: true}
	for at, want := range map[string]bool{"192.0.2.7": true, "127.0.0.1": true, "::1": true, "203.0.113.1": false, "::ffff:192.0.2.7": true, "2001:db8::1": false} {
		if got := u.admits(netip.MustParseAddr(at)); got != want {
			t.Errorf("%s: %v", at, got)
		}
	}
	if !(&Upstreams{}).admits(netip.MustParseAddr("203.0.113.1")) || (&Upstreams{}).trusts(netip.MustParseAddr("203.0.113.1")) {
		t.Error("without upstreams everybody may connect, and nobody is believed")
	}
}
