package edge

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// limiter lets so many requests through in a time, by the generic cell rate algorithm (ITU-T I.371): one number for each client.
type limiter struct {
	id    uint64
	each  time.Duration // that one request takes of the time
	burst time.Duration // that may be taken in advance
	limit bulwark.RateLimit
	path  string // of limit, as plainPath has it
	usual bool   // nobody chose it
}

// newLimiter is a limiter of a rate, of which as many may come at once as in its window.
func newLimiter(id uint64, l bulwark.RateLimit) limiter {
	each := l.Rate.Window / time.Duration(l.Rate.Requests)
	return limiter{id: id, each: max(each, 1), burst: l.Rate.Window, limit: l, path: plainPath(l.Path)}
}

// meterKey is whose requests are counted: a client's, or everybody's if there is no address.
type meterKey struct {
	limiter uint64
	client  netip.Addr
}

// meterShards and meterRoom bound how many clients are remembered.
const (
	meterShards = 64
	meterRoom   = 2048 // of each shard
)

// meters remembers how much each client took. What is remembered is bounded: where too many clients come, some are forgotten, and
// may begin anew.
type meters struct {
	seed   maphash.Seed
	shards [meterShards]struct {
		mu    sync.Mutex
		taken map[meterKey]*meter
	}
}

// meter is what a client took.
type meter struct {
	until   time.Duration // what it took is over then, by the clock of meters
	refused int           // in a row
}

func newMeters() *meters { return &meters{seed: maphash.MakeSeed()} }

// take counts a request at a time. If it is refused, wait is when the next one may pass, and inRow how many were refused without one passing.
func (m *meters) take(l *limiter, client netip.Addr, now time.Duration) (wait time.Duration, inRow int) {
	key := meterKey{l.id, client}
	s := &m.shards[maphash.Comparable(m.seed, key)%meterShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.taken[key]
	if t == nil {
		if len(s.taken) >= meterRoom {
			s.taken = halved(s.taken, now)
		}
		if s.taken == nil {
			s.taken = map[meterKey]*meter{}
		}
		t = &meter{}
		s.taken[key] = t
	}
	from := max(t.until, now)
	if over := from + l.each - now - l.burst; over > 0 {
		t.refused++
		return over, t.refused
	}
	t.until, t.refused = from+l.each, t.refused/2
	return 0, 0
}

// halved drops what is over, and if that is little, half of all.
func halved(all map[meterKey]*meter, now time.Duration) map[meterKey]*meter {
	out := make(map[meterKey]*meter, meterRoom)
	for k, t := range all {
		if t.until > now && len(out) < meterRoom/2 {
			out[k] = t
		}
	}
	return out
}

// network is the address by which a client is counted: an IPv6 one with all others of its /64, since whoever has one has all of those.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
