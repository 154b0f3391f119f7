package egress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// What holds unless Config or Policy says otherwise.
const (
	DefaultMaxConns = 64
	DefaultMaxBytes = 16 << 30
	DefaultIdle     = 60 * time.Second

	maxBuilds     = 256
	dialTimeout   = 10 * time.Second
	lookupTimeout = 10 * time.Second
	helloTimeout  = 10 * time.Second
	maxAddresses  = 8 // of one name; more are not tried
)

// Policy is what one build may do.
type Policy struct {
	App   bulwark.AppName  `json:"app"`   // for the sentence that tells a user what to allow
	Allow []netpolicy.Rule `json:"allow"` // empty: nothing
	// MaxConns is how many connections may be open at once, DefaultMaxConns if 0.
	MaxConns int `json:"max_conns,omitempty"`
	// MaxBytes is how much the build may move, both ways together, DefaultMaxBytes if 0.
	MaxBytes int64 `json:"max_bytes,omitempty"`
}

// Lookup resolves a host name.
type Lookup func(ctx context.Context, host bulwark.HostName) ([]netip.Addr, error)

// settings is what the proxy's parts share; it does not change.
type settings struct {
	lookup    Lookup
	connected func() ([]netip.Prefix, error)
	idle      time.Duration
	log       *slog.Logger
}

// proxy holds the builds of one process.
type proxy struct {
	settings
	transit *transit

	mu     sync.Mutex // guards builds; taken before any build's own
	builds map[bulwark.BuildID]*build
	closed bool
}

func newProxy(s settings) *proxy {
	if s.lookup == nil {
		s.lookup = hostLookup
	}
	if s.connected == nil {
		s.connected = hostSubnets
	}
	if s.idle == 0 {
		s.idle = DefaultIdle
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	p := &proxy{settings: s, builds: map[bulwark.BuildID]*build{}}
	p.transit = newTransit(&p.settings)
	return p
}

// register takes over a listener for a build. A build that is known already gets the new listener and policy: that is
// what the node does after it was restarted itself. Connections under way go on under the policy they began with.
func (p *proxy) register(id bulwark.BuildID, ln net.Listener, policy Policy) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return bulwark.Failf(bulwark.KindUnavailable, "The egress proxy is stopping.")
	}
	if b := p.builds[id]; b != nil {
		return b.renew(ln, policy)
	}
	if len(p.builds) >= maxBuilds {
		return bulwark.Failf(bulwark.KindBusy, "The egress proxy serves %d builds already.", maxBuilds)
	}
	p.builds[id] = startBuild(id, ln, policy, &p.settings)
	return nil
}

func (p *proxy) get(id bulwark.BuildID) (*build, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.builds[id]; b != nil {
		return b, nil
	}
	return nil, bulwark.Failf(bulwark.KindNotFound, "The egress proxy knows no build %s.", id)
}

// release ends a build's listener and connections; when it returns, the build's record is final.
func (p *proxy) release(id bulwark.BuildID) (*build, error) {
	b, err := p.get(id)
	if err != nil {
		return nil, err
	}
	b.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.builds[id] == b {
		delete(p.builds, id)
	}
	return b, nil
}

// close releases all builds and takes no more.
func (p *proxy) close() {
	p.transit.close()
	p.mu.Lock()
	p.closed = true
	all := make([]*build, 0, len(p.builds))
	for _, b := range p.builds {
		all = append(all, b)
	}
	clear(p.builds)
	p.mu.Unlock()
	for _, b := range all {
		b.stop()
	}
}

// hostLookup asks the host's own resolver. The trailing dot keeps the host's search domains out: "registry" must not
// become "registry.corp.example".
func hostLookup(ctx context.Context, host bulwark.HostName) ([]netip.Addr, error) {
	return (&net.Resolver{PreferGo: true}).LookupNetIP(ctx, "ip", string(host)+".")
}

// hostSubnets reads what the host is part of: the on-link routes, and its own addresses, which on a machine with a
// single routed address appear in no route.
func hostSubnets() ([]netip.Prefix, error) {
	route, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, fmt.Errorf("egress: cannot read the route table: %w", err)
	}
	// A host without IPv6 has no such file, and no IPv6 neighbours.
	route6, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("egress: cannot read the route table: %w", err)
	}
	all := netpolicy.OnLink(route, route6)
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("egress: cannot list the host's addresses: %w", err)
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, prefix.Masked())
		}
	}
	return all, nil
}
