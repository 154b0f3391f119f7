package resolver

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

// Config is what the resolver process is started with.
type Config struct {
	// Control is a listening unixpacket socket on which the node gives its orders. Run closes it.
	Control *net.UnixListener
	// NodeUID is the only user who may connect to Control.
	NodeUID uint32
	// ResolvConf returns the content of the host's resolv.conf; nil reads /etc/resolv.conf. It is called again every few
	// seconds while queries come in; content that names no server leaves the last good ones in use.
	ResolvConf func() ([]byte, error)
	// Connected returns the subnets that the host itself is part of; nil reads /proc/net.
	Connected func() ([]netip.Prefix, error)
	// Rate is how many queries a second one instance may make, and Burst how many at once; 100 and 200 if 0.
	Rate, Burst int
	// Patience is how long an answer waits for the node to open the firewall, half a second if 0.
	Patience time.Duration
	// Log gets what was refused and stripped, a few lines a second at most; nil for none.
	Log *slog.Logger
}

// defaultPatience is how long an answer waits for the node. After it, the answer goes out all the same: the instance's
// first connection may then fail, which is better than no name at all.
const defaultPatience = 500 * time.Millisecond

// resolver is one process.
type resolver struct {
	upstreams *upstreams
	connected func() ([]netip.Prefix, error)
	limiter   *limiter
	patience  time.Duration
	log       *slog.Logger
	ctx       context.Context // ends with the process
	flights   sync.WaitGroup  // queries to upstream; begun by those who answer, so none begins after these ended

	mu      sync.Mutex // guards what follows; taken before a tenant's own
	table   *Table
	tenants map[bulwark.AppID]*tenant
	sockets map[string]*sockets
	closed  bool
	notes   bucket

	subscribers subscribers
}

func newResolver(ctx context.Context, c Config) *resolver {
	r := &resolver{upstreams: &upstreams{read: c.ResolvConf}, connected: c.Connected, log: c.Log, ctx: ctx,
		table: &Table{}, tenants: map[bulwark.AppID]*tenant{}, sockets: map[string]*sockets{}}
	if r.upstreams.read == nil {
		r.upstreams.read = readHostConfig
	}
	if r.connected == nil {
		r.connected = (&subnets{}).list
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.patience = c.Patience; r.patience <= 0 {
		r.patience = defaultPatience
	}
	rate, burst := c.Rate, c.Burst
	if rate <= 0 {
		rate = perSourceRate
	}
	if burst <= 0 {
		burst = perSourceBurst
	}
	r.limiter = newLimiter(float64(rate), float64(burst))
	return r
}

// setTable replaces the table. What an app looked up is forgotten when the app is gone.
func (r *resolver) setTable(t Table) error {
	next, err := t.check()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	tenants := make(map[bulwark.AppID]*tenant, len(next.Apps))
	for id := range next.Apps {
		if tenants[id] = r.tenants[id]; tenants[id] == nil {
			tenants[id] = newTenant(id)
		}
	}
	r.table, r.tenants = next, tenants
	r.limiter.know(next)
	return nil
}

// who returns the table and the app that src belongs to; nil for a stranger.
func (r *resolver) who(src netip.Addr) (*Table, *tenant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, ok := r.table.Sources[src]
	if !ok {
		return nil, nil
	}
	return r.table, r.tenants[id]
}

// resolve answers from the app's cache, else from upstream. The query belongs to nobody who waits for it: it goes on
// when the first one who asked has hung up.
func (r *resolver) resolve(ctx context.Context, t *tenant, q question) (*outcome, error) {
	if o := t.cache.get(q, time.Now()); o != nil {
		return o, nil
	}
	t.mu.Lock()
	f := t.flights[q]
	if f == nil {
		select {
		case t.asking <- struct{}{}:
		default:
			t.mu.Unlock()
			return nil, bulwark.Failf(bulwark.KindBusy, "The app has too many look-ups under way.")
		}
		f = &flight{done: make(chan struct{})}
		t.flights[q] = f
		r.flights.Go(func() { r.fly(t, q, f) })
	}
	t.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f.o == nil {
		return nil, bulwark.Failf(bulwark.KindUnavailable, "No DNS server of the host answered.")
	}
	return f.o, nil
}

func (r *resolver) fly(t *tenant, q question, f *flight) {
	defer func() {
		if v := recover(); v != nil {
			r.log.Error("resolver: a fault while asking", "name", q.name, "fault", fmt.Sprint(v))
		}
		t.mu.Lock()
		delete(t.flights, q)
		t.mu.Unlock()
		<-t.asking
		close(f.done)
	}()
	o, err := r.upstreams.ask(r.ctx, q)
	if err != nil {
		r.note(t.id, q, err.Error())
		return
	}
	t.cache.put(q, o)
	f.o = o
}

// note logs something about a name, a few times a second at most: instances choose the names.
func (r *resolver) note(app bulwark.AppID, q question, what string) {
	r.mu.Lock()
	v := r.notes.take(time.Now(), 5, 20)
	r.mu.Unlock()
	if v == serve {
		r.log.Info("resolver", "app", app, "name", q.name, "type", q.qtype, "what", what)
	}
}

// subnets reads what the host is part of, at most once a second.
type subnets struct {
	mu   sync.Mutex // guards what follows
	read time.Time
	last []netip.Prefix
}

func (s *subnets) list() ([]netip.Prefix, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.read.IsZero() && time.Since(s.read) < time.Second {
		return s.last, nil
	}
	route, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, err
	}
	// A host without IPv6 has no such file, and no IPv6 neighbours.
	route6, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	all := netpolicy.OnLink(route, route6)
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, prefix.Masked())
		}
	}
	s.last, s.read = all, time.Now()
	return all, nil
}
