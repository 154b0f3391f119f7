package resolver

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Resolved says to which addresses a host on an app's allow-list leads. Addresses that the app's rules do not let it
// lead to are left out.
type Resolved struct {
	App       bulwark.AppID    `json:"app"`
	Name      bulwark.HostName `json:"name"`
	Addresses []netip.Addr     `json:"addresses"`
	// TTL is how long the instance was told that it may use the addresses. Programs use them longer: the node should
	// leave them open for some minutes more.
	TTL bulwark.Duration `json:"ttl"`
}

// subscriberQueue is how many reports may wait for a node that is slow. One that lets it run over is hung up on: it
// subscribes again and is told everything from the start.
const subscriberQueue = 1024

// subscriber is a node that is told.
type subscriber struct {
	queue chan told
	gone  chan struct{} // closed when it is hung up on
	once  sync.Once

	mu   sync.Mutex // guards acks
	acks map[uint64]chan struct{}
	seq  uint64
}

type told struct {
	seq uint64
	r   Resolved
}

func (s *subscriber) hangUp() { s.once.Do(func() { close(s.gone) }) }

// send queues r and returns a channel that is closed when the node has acted on it.
func (s *subscriber) send(r Resolved) (acked chan struct{}, forget func()) {
	acked = make(chan struct{})
	s.mu.Lock()
	s.seq++
	n := s.seq
	s.acks[n] = acked
	s.mu.Unlock()
	select {
	case s.queue <- told{n, r}:
	default:
		s.hangUp()
	}
	return acked, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.acks, n)
	}
}

func (s *subscriber) acknowledge(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if acked := s.acks[n]; acked != nil {
		delete(s.acks, n)
		close(acked)
	}
}

type subscribers struct {
	mu  sync.Mutex // guards all
	all map[*subscriber]struct{}
}

func (s *subscribers) add() *subscriber {
	sub := &subscriber{queue: make(chan told, subscriberQueue), gone: make(chan struct{}), acks: map[uint64]chan struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*subscriber]struct{}{}
	}
	s.all[sub] = struct{}{}
	return sub
}

func (s *subscribers) remove(sub *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, sub)
}

func (s *subscribers) list() []*subscriber {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*subscriber, 0, len(s.all))
	for sub := range s.all {
		all = append(all, sub)
	}
	return all
}

// tell reports r to the node and waits until the node has acted on it, but not long. With no node there, nobody waits:
// the firewall is as the node left it.
func (r *resolver) tell(ctx context.Context, v Resolved, o *outcome) {
	timeout := time.NewTimer(r.patience)
	defer timeout.Stop()
	for _, sub := range r.subscribers.list() {
		acked, forget := sub.send(v)
		select {
		case <-acked:
			o.told.Store(true)
		case <-sub.gone:
		case <-timeout.C:
			forget()
			return
		case <-ctx.Done():
			forget()
			return
		}
		forget()
	}
}

// known returns all that is in the caches and on an allow-list, for a node that has just subscribed.
func (r *resolver) known() []Resolved {
	connected, err := r.connected()
	if err != nil {
		return nil // it is told when the names are looked up again
	}
	r.mu.Lock()
	table := r.table
	tenants := make([]*tenant, 0, len(r.tenants))
	for _, t := range r.tenants {
		tenants = append(tenants, t)
	}
	r.mu.Unlock()
	var all []Resolved
	now := time.Now()
	for _, t := range tenants {
		app := table.Apps[t.id]
		t.cache.each(now, func(q question, o *outcome) {
			host := hostOf(q.name)
			if named, _ := app.rules(host); !named {
				return
			}
			if _, addrs, _ := filter(&app, host, o, connected); len(addrs) > 0 {
				all = append(all, Resolved{App: t.id, Name: host, Addresses: addrs, TTL: bulwark.Duration(o.ttl(now))})
			}
		})
	}
	return all
}
