package resolver

import (
	"net/netip"
	"sync"
	"time"
)

const (
	perSourceRate  = 100 // queries in a second
	perSourceBurst = 200
	maxWorking     = 2048 // queries being answered at once, all sources together
	maxPerSource   = 64   // of these, of one source

	maxAskingPerApp   = 64 // questions of one app to upstream at once
	maxConns          = 256
	maxConnsPerSource = 4
)

// verdict is what becomes of a query before anybody looks into it.
type verdict int

const (
	serve  verdict = iota
	refuse         // it is told so
	drop           // it is not even read
)

// bucket is a token bucket that may fall below zero: down to one burst below, queries are refused; below that, dropped,
// so that a flood costs the resolver a read and no more.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) verdict {
	if b.last.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+now.Sub(b.last).Seconds()*rate)
	}
	b.last = now
	if b.tokens <= -burst {
		return drop
	}
	b.tokens--
	if b.tokens < 0 {
		return refuse
	}
	return serve
}

// limiter bounds what each source takes. Only known sources have a bucket of their own, so that made-up addresses do
// not fill the memory; the others share one.
type limiter struct {
	rate, burst float64

	mu      sync.Mutex // guards all below
	sources map[netip.Addr]*usage
	unknown usage
	working int
	conns   int
}

type usage struct {
	bucket
	working int
	conns   int
}

func newLimiter(rate, burst float64) *limiter {
	return &limiter{rate: rate, burst: burst, sources: map[netip.Addr]*usage{}}
}

// know replaces the set of known sources.
func (l *limiter) know(t *Table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := make(map[netip.Addr]*usage, len(t.Sources))
	for a := range t.Sources {
		if next[a] = l.sources[a]; next[a] == nil {
			next[a] = &usage{}
		}
	}
	l.sources = next
}

func (l *limiter) usage(src netip.Addr) *usage {
	if u := l.sources[src]; u != nil {
		return u
	}
	return &l.unknown
}

// begin admits a query. Unless the verdict is drop, done must be called when it was answered.
func (l *limiter) begin(src netip.Addr, now time.Time) (v verdict, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.usage(src)
	v = u.take(now, l.rate, l.burst)
	if v == drop || l.working >= maxWorking {
		return drop, nil
	}
	if u.working >= maxPerSource {
		v = refuse
	}
	if u.working >= 2*maxPerSource {
		return drop, nil
	}
	u.working++
	l.working++
	return v, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		u.working--
		l.working--
	}
}

// connect admits a TCP connection; nil if there are too many.
func (l *limiter) connect(src netip.Addr) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.usage(src)
	if u.conns >= maxConnsPerSource || l.conns >= maxConns {
		return nil
	}
	u.conns++
	l.conns++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		u.conns--
		l.conns--
	}
}
