package gitssh

import (
	"net"
	"net/netip"
	"sync"
)

// limiter counts what is under way, in all and per key.
type limiter[K comparable] struct {
	most, each int

	mu  sync.Mutex
	all int
	by  map[K]int
}

func newLimiter[K comparable](most, each int) *limiter[K] {
	return &limiter[K]{most: most, each: each, by: map[K]int{}}
}

// enter takes a place; leave gives it back and may be called again. It is nil if there is no place.
func (l *limiter[K]) enter(key K) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most || l.by[key] >= l.each {
		return nil
	}
	l.all++
	l.by[key]++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all--
		if l.by[key]--; l.by[key] == 0 {
			delete(l.by, key)
		}
	})
}

// addressKey is what counts as one address: an IPv4 address, or an IPv6 network of 64 bits, which is what one host gets.
func addressKey(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	ip := ap.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ip.String()
	}
	return p.String()
}
