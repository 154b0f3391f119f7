package resolver

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

const (
	upstreamAddr = "203.0.113.53"
	gateway      = "10.77.0.1" // where the instances find the resolver
	shopAddr     = "10.77.0.2" // an instance of the app shop, which may look up anything
	bankAddr     = "10.77.0.3" // one of the app bank, which is restricted
	strangerAddr = "10.77.0.9"
)

// world is a resolver process with an upstream and instances.
type world struct {
	t       *testing.T
	socket  string
	client  *Client
	table   Table
	shop    bulwark.AppID
	bank    bulwark.AppID
	stop    func()
	files   []*os.File
	resolv  atomic.Value // string
	queries atomic.Int64 // that upstream saw
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, socket: filepath.Join(t.TempDir(), "control"), shop: bulwark.NewAppID(), bank: bulwark.NewAppID()}
	w.resolv.Store("nameserver " + upstreamAddr + "\noptions timeout:1\n")
	w.files = listenAt(t, gateway)
	w.start(change)
	w.table = Table{
		Domain:  "apps.example.com",
		Sources: map[netip.Addr]bulwark.AppID{netip.MustParseAddr(shopAddr): w.shop, netip.MustParseAddr("::ffff:" + bankAddr): w.bank},
		Apps: map[bulwark.AppID]App{
			w.shop: {Names: map[bulwark.HostName][]netip.Addr{"db.shop.internal": {netip.MustParseAddr("10.77.5.5"), netip.MustParseAddr("fd00::5")}}},
			w.bank: {Restricted: true, Allow: w.rules("db.example.org:5432", "*.example.net")},
		},
	}
	w.send()
	if err := w.client.Listen(t.Context(), "router", w.files...); err != nil {
		t.Fatal(err)
	}
	return w
}

// listenAt makes the sockets as the node does.
func listenAt(t *testing.T, addr string) []*os.File {
	t.Helper()
	udp, err := net.ListenPacket("udp4", addr+":53")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", addr+":53")
	if err != nil {
		t.Fatal(err)
	}
	a, errA := udp.(*net.UDPConn).File()
	b, errB := tcp.(*net.TCPListener).File()
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	udp.Close()
	tcp.Close()
	t.Cleanup(func() { a.Close(); b.Close() })
	return []*os.File{a, b}
}

func (w *world) start(change func(*Config)) {
	w.t.Helper()
	os.Remove(w.socket)
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: w.socket, Net: "unixpacket"})
	if err != nil {
		w.t.Fatal(err)
	}
	c := Config{Control: ln, NodeUID: uint32(os.Getuid()), Rate: 10000, Burst: 10000,
		ResolvConf: func() ([]byte, error) { return []byte(w.resolv.Load().(string)), nil },
		Connected:  func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("203.0.113.128/25")}, nil }}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("Run: %v", err)
			}
		})
	}
	w.t.Cleanup(w.stop)
	if w.client, err = Dial(w.socket); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.client.Close() })
}

func (w *world) send() {
	w.t.Helper()
	if err := w.client.SetTable(w.t.Context(), w.table); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) rules(targets ...string) []netpolicy.Rule {
	w.t.Helper()
	rules, err := netpolicy.Rules(targets...)
	if err != nil {
		w.t.Fatal(err)
	}
	return rules
}

// upstream runs a DNS server at the host's resolver's address, over UDP and TCP.
func (w *world) upstream(h dns.HandlerFunc) {
	w.t.Helper()
	counted := dns.HandlerFunc(func(rw dns.ResponseWriter, m *dns.Msg) {
		w.queries.Add(1)
		h(rw, m)
	})
	pc, err := net.ListenPacket("udp", upstreamAddr+":53")
	if err != nil {
		w.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", upstreamAddr+":53")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: counted}, {Listener: ln, Handler: counted}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		w.t.Cleanup(func() { s.Shutdown() })
	}
}

// zone is a handler that answers from lines of zone file syntax: all lines to a question whose name is the owner of the
// first line of a group (groups are kept apart by an empty line).
func zone(t *testing.T, text string) dns.HandlerFunc {
	t.Helper()
	groups := map[string][]dns.RR{}
	for _, g := range strings.Split(strings.TrimSpace(text), "\n\n") {
		var first string
		for line := range strings.Lines(g) {
			rr, err := dns.NewRR(strings.TrimSpace(line)) // a line that begins with a space would take the last owner
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = strings.ToLower(rr.Header().Name)
			}
			groups[first] = append(groups[first], rr)
		}
	}
	return func(rw dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.Answer = groups[strings.ToLower(m.Question[0].Name)]
		if r.Answer == nil {
			r.Rcode = dns.RcodeNameError
		}
		rw.WriteMsg(r)
	}
}

// ask sends a question from an instance.
func (w *world) ask(network, from, name string, qtype uint16) *dns.Msg {
	w.t.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(4096, false)
	return w.put(network, from, m)
}

func (w *world) put(network, from string, m *dns.Msg) *dns.Msg {
	w.t.Helper()
	r, err := w.try(network, from, m)
	if err != nil {
		w.t.Fatalf("%s: %v", m.Question[0].Name, err)
	}
	return r
}

func (w *world) try(network, from string, m *dns.Msg) (*dns.Msg, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	if network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	} else {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	c := &dns.Client{Net: network, Dialer: d, Timeout: 10 * time.Second, UDPSize: 4096}
	r, _, err := c.Exchange(m, gateway+":53")
	return r, err
}

// said is an answer in one line: its code and its records' data.
func said(m *dns.Msg) string {
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(out, " ")
}

// Names that lead inside: the addresses are dropped unless an operator's rule names the host, and whoever merely owns
// an app has no such rule.
// A look-up is answered from the cache, per app, for as long as it holds.
// Many who ask the same at once are one question to upstream.
// What is too long for a packet is fetched over TCP, and handed on by TCP or cut.
// Answers that do not fit the question are not believed; the true one, late, is.
// A flood of forgeries has the question asked over TCP, where they cannot be.
// The second server is asked when the first fails, and resolv.conf is read again.
// One instance that floods is refused, then not read; the other one is served.
// Look-ups that never come back hold places of their own app only.
// Whatever an instance sends: no panic, no answer to an answer, and nothing that is larger than the way it goes.
// Whatever upstream sends: no panic, and what is kept answers the question.
