package server

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/bulwark-paas/bulwark"
)

// How often somebody whom nobody knows may come from one address (of IPv6: one network of 64 bits), and how often a sign-in
// may fail. Tokens and invitations have too many bits to be guessed; this keeps guessing from being a load on the node.
const (
	strangerEvery  = 500 * time.Millisecond
	strangerBurst  = 120
	failureEvery   = 5 * time.Second
	failureBurst   = 20
	maxRemembered  = 10_000 // addresses
	rememberAtMost = time.Hour
)

// attempts bounds what comes from addresses.
type attempts struct {
	every time.Duration
	burst int
	now   func() time.Time

	mu  sync.Mutex // guards all
	all map[netip.Prefix]*visitor
}

type visitor struct {
	limit *rate.Limiter
	last  time.Time
}

func newAttempts(every time.Duration, burst int) *attempts {
	return &attempts{every: every, burst: burst, now: time.Now, all: map[netip.Prefix]*visitor{}}
}

// from is the address, or the network, that a remote address counts for.
func from(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{} // all that cannot be told apart are one
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func (a *attempts) visitor(remote string) *visitor {
	at, now := from(remote), a.now()
	v := a.all[at]
	if v == nil {
		if len(a.all) >= maxRemembered {
			a.forget(now)
		}
		v = &visitor{limit: rate.NewLimiter(rate.Every(a.every), a.burst)}
		a.all[at] = v
	}
	v.last = now
	return v
}

// forget drops who has not come for long; if all came just now, everybody: who floods from ten thousand addresses is no worse
// off, and the memory stays bounded.
func (a *attempts) forget(now time.Time) {
	for at, v := range a.all {
		if now.Sub(v.last) > rememberAtMost {
			delete(a.all, at)
		}
	}
	if len(a.all) >= maxRemembered {
		clear(a.all)
	}
}

// take counts one attempt and refuses it if there were too many.
func (a *attempts) take(remote string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.visitor(remote).limit.AllowN(a.now(), 1) {
		return tooMany()
	}
	return nil
}

// full refuses without counting.
func (a *attempts) full(remote string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.visitor(remote).limit.TokensAt(a.now()) < 1 {
		return tooMany()
	}
	return nil
}

func tooMany() error {
	return bulwark.Fail(bulwark.KindBusy, "There were too many attempts to sign in from your address.", "Wait a minute and try again.", nil)
}
