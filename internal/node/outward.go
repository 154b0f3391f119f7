package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/egress"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/network"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/resolver"
)

// outward keeps the way out of instances: the router's rules, the resolver's table and the egress process's, all made from
// the same picture of which address is whose and what each app's owners allowed. Rules first when something opens less,
// so that at no time more is open than each of the three allows.
type outward struct {
	ledger    *ledger.Ledger
	instances *instances
	router    *network.Router
	sockets   *network.Sockets
	leaving   network.Leaving // of it: whose rules they are
	packages  func(context.Context) ([]netpolicy.Rule, error)
	// authorities are those that the certs process asks, places is where.
	authorities []certsapi.Authority
	places      authorityPlaces
	// nameServers are those that the operator named for it.
	nameServers []netip.AddrPort
	egress      string // sockets of the processes
	resolver    string
	domain      bulwark.HostName
	log         *slog.Logger

	mu    sync.Mutex // guards what follows; held while a picture is put into force
	named map[bulwark.AppID]map[netip.Addr]namedAddress
	last  string // the rules in force
	host  network.Host
	// What speaks to the two processes; nil while one is away.
	toEgress   *egress.Client
	toResolver *resolver.Client
	// generation is that of the router's rules when they were last put into force.
	generation uint32
}

// namedAddress is an address that a host of an allow-list was resolved to.
type namedAddress struct {
	host  bulwark.HostName
	until time.Time
}

// namedGrace is how much longer than its TTL an address stays open: programs use what they once resolved.
const namedGrace = 10 * time.Minute

// run keeps things in agreement until ctx ends. Each of the two processes gets everything again when it was replaced.
func (o *outward) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { o.subscribe(ctx) })
	for {
		changed := o.instances.changed.wait()
		if err := o.apply(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("the way out of instances is not as it should be", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(2 * time.Second):
		}
	}
}

// apply puts the present picture into force everywhere.
func (o *outward) apply(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	transit, table, rules, leaving, err := o.picture(ctx)
	if err != nil {
		return err
	}
	if err := o.enforce(ctx, rules); err != nil {
		return err
	}
	changed, err := o.host.Enforce(ctx, leaving)
	if changed {
		o.log.Error("the host's rules for what connects for others were changed by somebody else; they are put back", "table", leaving.Table)
	}
	if err != nil {
		return err
	}
	if err := o.tellEgress(ctx, &o.toEgress, transit); err != nil {
		return err
	}
	return o.tellResolver(ctx, &o.toResolver, table)
}

// enforce puts rules into force if they are others than before, or if somebody else has changed what is in force. The caller holds mu.
func (o *outward) enforce(ctx context.Context, rules string) error {
	now, err := o.router.Generation()
	if err != nil {
		return err
	}
	if rules == o.last && now == o.generation {
		return nil
	}
	if rules == o.last {
		o.log.Error("the router's rules were changed by somebody else; they are put back", "generation", now, "ours", o.generation)
	}
	if err := o.router.Apply(ctx, rules); err != nil {
		return err
	}
	o.last = rules
	// What changes between the two is seen at the next look only if it changes again: nothing but this process has business there.
	o.generation, err = o.router.Generation()
	return err
}

// tellEgress sends the table, and the listener too where the process is a new one.
func (o *outward) tellEgress(ctx context.Context, client **egress.Client, t egress.Transit) error {
	if *client != nil {
		if (*client).Transit(ctx, t, nil) == nil {
			return nil
		}
		(*client).Close()
		*client = nil
	}
	c, err := egress.Dial(o.egress)
	if err != nil {
		return err
	}
	if err := c.Transit(ctx, t, o.sockets.Transit); err != nil {
		c.Close()
		return err
	}
	*client = c
	return nil
}

func (o *outward) tellResolver(ctx context.Context, client **resolver.Client, t resolver.Table) error {
	if *client != nil {
		if (*client).SetTable(ctx, t) == nil {
			return nil
		}
		(*client).Close()
		*client = nil
	}
	c, err := resolver.Dial(o.resolver)
	if err != nil {
		return err
	}
	err = c.SetTable(ctx, t)
	if err == nil {
		err = c.Listen(ctx, "router", o.sockets.DNS...)
	}
	if err != nil {
		c.Close()
		return err
	}
	*client = c
	return nil
}

// picture reads what is so now. The caller holds mu.
func (o *outward) picture(ctx context.Context) (egress.Transit, resolver.Table, string, network.Leaving, error) {
	transit := egress.Transit{Sources: map[netip.Addr]bulwark.AppID{}, Apps: map[bulwark.AppID]egress.TransitApp{}}
	table := resolver.Table{Domain: o.domain, Sources: transit.Sources, Apps: map[bulwark.AppID]resolver.App{}}
	leaving, err := o.builders(ctx)
	if err != nil {
		return transit, table, "", leaving, err
	}
	var open []network.Exception
	for from, app := range o.instances.addresses() {
		transit.Sources[from] = app
		policy, ok := transit.Apps[app]
		if !ok {
			if policy, err = o.policy(ctx, app); err != nil {
				return transit, table, "", leaving, err
			}
			transit.Apps[app] = policy
			table.Apps[app] = resolver.App{Allow: policy.Allow}
		}
		for _, r := range policy.Allow {
			if !r.Private {
				continue
			}
			if p := r.To.Prefix(); p.IsValid() {
				leaving.Open = append(leaving.Open, network.Opened{To: p, Port: r.To.Port()})
			}
			for _, p := range exceptionRange(r) {
				open = append(open, network.Exception{From: from, To: netip.AddrPortFrom(p, r.To.Port())})
			}
		}
		for _, n := range policy.Named {
			leaving.Open = append(leaving.Open, network.Opened{To: netip.PrefixFrom(n.Addr(), n.Addr().BitLen()), Port: n.Port()})
			open = append(open, network.Exception{From: from, To: n})
		}
	}
	return transit, table, network.Rules(leaving.Connected, open, o.instances.sandboxes()), leaving, nil
}

// opened tells root what is opened now, for whoever it is.
func (o *outward) opened(ctx context.Context) (*nodeapi.Opened, error) {
	if err := onlyRoot(ctx); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _, _, l, err := o.picture(ctx)
	out := &nodeapi.Opened{Ports: l.Ports}
	for _, r := range l.Open {
		out.Ranges = append(out.Ranges, nodeapi.OpenedRange{To: r.To, Port: r.Port})
	}
	return out, err
}

// builders is what the host's rules open whether or not an instance runs: the host's own resolvers, and what builds may reach that is
// not on the internet.
func (o *outward) builders(ctx context.Context) (network.Leaving, error) {
	l := o.leaving
	var err error
	if l.Connected, err = hostSubnets(); err != nil {
		return l, err
	}
	if l.Resolvers, err = resolver.HostServers(); err != nil {
		// Without a name nothing is reached by name; what is asked for by address goes on.
		o.log.Debug("the host's resolvers cannot be read", "error", err)
	}
	l.NameServers = o.nameServers
	l.Authorities = o.places.closed(ctx, o.authorities, l.Connected)
	rules, err := o.packages(ctx)
	if err != nil {
		return l, err
	}
	for _, r := range rules {
		switch p := r.To.Prefix(); {
		case !r.Private:
		case p.IsValid():
			l.Open = append(l.Open, network.Opened{To: p, Port: r.To.Port()})
		case r.To.Port() != 0:
			l.Ports = append(l.Ports, r.To.Port())
		default:
			l.Ports = append(l.Ports, egress.PortTLS, egress.PortPlain)
		}
	}
	return l, nil
}

// exceptionRange returns the addresses of a rule that names a range. A wide range is not listed one by one: it is opened
// in the egress process alone, and the router's closed set then stands before it.
func exceptionRange(r netpolicy.Rule) []netip.Addr {
	p := r.To.Prefix()
	if !p.IsValid() || !p.Addr().Is4() || p.Bits() < 24 {
		return nil
	}
	var out []netip.Addr
	for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
		out = append(out, a)
	}
	return out
}

// policy reads what an app's owners allowed.
func (o *outward) policy(ctx context.Context, app bulwark.AppID) (egress.TransitApp, error) {
	targets, err := o.ledger.Egress(ctx, app)
	if err != nil {
		return egress.TransitApp{}, err
	}
	return allowed(app, targets, o.named[app], time.Now())
}

// allowed is what an app may reach, by what its owners opened and the addresses that names were resolved to. Those that are over
// are taken out of named.
func allowed(app bulwark.AppID, targets []ledger.EgressRule, named map[netip.Addr]namedAddress, now time.Time) (egress.TransitApp, error) {
	var out egress.TransitApp
	for _, t := range targets {
		rules, err := netpolicy.Rules(t.Rule)
		if err != nil {
			return out, fmt.Errorf("node: egress rule %q of %s: %w", t.Rule, app, err)
		}
		for _, r := range rules {
			r.Private = t.Private
			out.Allow = append(out.Allow, r)
		}
	}
	for addr, n := range named {
		if now.After(n.until) {
			delete(named, addr)
			continue
		}
		for _, r := range out.Allow {
			// Only of what was opened privately: another rule that names the host, or a name of a tenant's that leads to an
			// address which somebody else opened on one port, must not open more of it. What is public needs none of this.
			if r.Private && r.To.Names(n.host) {
				out.Named = append(out.Named, netip.AddrPortFrom(addr, r.To.Port()))
			}
		}
	}
	slices.SortFunc(out.Named, netip.AddrPort.Compare)
	return out, nil
}

// subscribe learns what names of allow-lists were resolved to; the instance gets its answer when the way is open.
func (o *outward) subscribe(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := resolver.Dial(o.resolver)
		if err == nil {
			err = c.Subscribe(ctx, func(r resolver.Resolved) error {
				o.mu.Lock()
				if o.named[r.App] == nil {
					o.named[r.App] = map[netip.Addr]namedAddress{}
				}
				for _, a := range r.Addresses {
					if len(o.named[r.App]) < maxNamed {
						o.named[r.App][a.Unmap()] = namedAddress{host: r.Name, until: time.Now().Add(time.Duration(r.TTL) + namedGrace)}
					}
				}
				o.mu.Unlock()
				return o.apply(ctx)
			})
		}
		if err != nil && ctx.Err() == nil {
			o.log.Debug("the resolver is away", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// maxNamed bounds the addresses of one app's named hosts.
const maxNamed = 1024

// hostSubnets reads what the host itself is part of: its neighbours are not the internet.
func hostSubnets() ([]netip.Prefix, error) {
	route, err := os.ReadFile("/proc/thread-self/net/route") // not of the main thread, which may be left in another namespace
	if err != nil {
		return nil, err
	}
	out := netpolicy.OnLink(route, nil)
	own, err := hostAddresses()
	return append(out, own...), err
}
