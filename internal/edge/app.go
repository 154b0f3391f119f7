package edge

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
)

const (
	maxInFlight  = 250         // requests one instance works on at a time
	defaultQueue = 50          // further ones that wait, per instance
	asideTime    = time.Second // how long an instance that refused a connection is passed over
)

// instance is one running copy of an app as the edge sees it. It outlives the tables that name it.
type instance struct {
	id    bulwark.InstanceID
	conns pool
	h2c   h2cPool

	inFlight atomic.Int64
	aside    atomic.Int64 // until when it is passed over, in Unix nanoseconds
	// retired is set before anyone may ask for a drain and checked after inFlight was raised, so that no request slips
	// into an instance between the swap and the drain's look at inFlight.
	retired  atomic.Bool
	requests atomic.Uint64
	failed   atomic.Uint64

	mu      sync.Mutex
	drained []chan struct{} // closed when inFlight reaches 0
	waits   atomic.Int32    // len(drained)
}

// enter counts a request in, unless the instance has no room or has left the table.
func (i *instance) enter() bool {
	if i.inFlight.Add(1) <= maxInFlight && !i.retired.Load() {
		return true
	}
	i.leave()
	return false
}

// leave counts a request out.
func (i *instance) leave() {
	if i.inFlight.Add(-1) == 0 && i.waits.Load() > 0 {
		i.mu.Lock()
		for _, c := range i.drained {
			close(c)
		}
		i.drained = nil
		i.waits.Store(0)
		i.mu.Unlock()
	}
}

// drain waits until no request is in flight or ctx ends, and returns how many are left.
func (i *instance) drain(ctx context.Context) int {
	for {
		c := make(chan struct{})
		i.mu.Lock()
		i.drained = append(i.drained, c)
		i.waits.Add(1)
		i.mu.Unlock()
		// Looked at after the wait was announced: whoever leaves last from here on closes c.
		if i.inFlight.Load() == 0 {
			return 0
		}
		select {
		case <-c:
		case <-ctx.Done():
			return int(i.inFlight.Load())
		}
	}
}

// app is one app's state that outlives tables.
type app struct {
	id      bulwark.AppID
	set     atomic.Pointer[upstreams]
	guard   atomic.Pointer[guard]
	status  [6]atomic.Uint64
	metrics atomic.Pointer[appMetrics] // nil before the first request
	waiting atomic.Int64

	mu      sync.Mutex
	waiters []chan struct{} // first come, first served
}

// upstreams is one version of an app's instances. It is immutable.
type upstreams struct {
	name             bulwark.AppName
	firstByte, pause time.Duration
	queue            int64
	instances        []*instance
}

func (a *app) count(status int) {
	if c := status / 100; c > 0 && c < len(a.status) {
		a.status[c].Add(1)
	}
}

// The reasons why no instance takes a request.
type noInstance int

const (
	gotInstance noInstance = iota
	noneThere              // the app has none, or all were tried
	queueFull              // all are busy, and too many wait already
	waitedLong             // nobody became free in time
	clientGone             // the client gave up while it waited
)

// acquire counts a request into an instance that is not in tried, waiting for one to become free if it must; waits is called before that.
func (a *app) acquire(ctx context.Context, tried []*instance, waits func()) (*instance, noInstance) {
	if a.waiting.Load() == 0 {
		if i, busy := a.pick(tried); i != nil {
			return i, gotInstance
		} else if !busy {
			return nil, noneThere
		}
	}
	set := a.set.Load()
	if n := a.waiting.Add(1); n > set.queue*int64(len(set.instances)) {
		a.waiting.Add(-1)
		return nil, queueFull
	}
	defer a.waiting.Add(-1)
	waits()
	patience := time.NewTimer(set.firstByte)
	defer patience.Stop()
	for {
		turn := a.enqueue()
		// Tried after queueing: who frees a place from here on sees the queue.
		i, busy := a.pick(tried)
		if i != nil || !busy {
			a.dequeue(turn)
			if i != nil {
				return i, gotInstance
			}
			return nil, noneThere
		}
		select {
		case <-turn:
			continue
		case <-patience.C:
			a.dequeue(turn)
			return nil, waitedLong
		case <-ctx.Done():
			a.dequeue(turn)
			return nil, clientGone
		}
	}
}

// release counts a request out of i and lets the next one that waits try.
func (a *app) release(i *instance) {
	i.leave()
	if a.waiting.Load() > 0 {
		a.wake()
	}
}

func (a *app) enqueue() chan struct{} {
	turn := make(chan struct{})
	a.mu.Lock()
	a.waiters = append(a.waiters, turn)
	a.mu.Unlock()
	return turn
}

// dequeue leaves the queue. A turn that came meanwhile is passed on.
func (a *app) dequeue(turn chan struct{}) {
	a.mu.Lock()
	for k, w := range a.waiters {
		if w == turn {
			a.waiters = append(a.waiters[:k], a.waiters[k+1:]...)
			a.mu.Unlock()
			return
		}
	}
	a.mu.Unlock()
	a.wake()
}

func (a *app) wake() {
	a.mu.Lock()
	if len(a.waiters) > 0 {
		close(a.waiters[0])
		a.waiters = a.waiters[1:]
	}
	a.mu.Unlock()
}

// wakeAll has everyone who waits look at the new set of instances.
func (a *app) wakeAll() {
	a.mu.Lock()
	for _, w := range a.waiters {
		close(w)
	}
	a.waiters = nil
	a.mu.Unlock()
}

// pick enters an instance: the one with fewer requests of two chosen at random, so that many edges' views need no
// agreement, else any that has room. busy says that some instance could take it later.
func (a *app) pick(tried []*instance) (i *instance, busy bool) {
	for {
		set := a.set.Load()
		list := set.instances
		now := int64(0)
		usable := func(i *instance) bool {
			until := i.aside.Load()
			if until != 0 {
				if now == 0 {
					now = time.Now().UnixNano()
				}
				if left := until - now; left > 0 && left <= int64(asideTime) { // longer: the clock was set back since
					return false
				}
			}
			return !among(tried, i)
		}
		switch len(list) {
		case 0:
			return nil, false
		case 1:
			if i := list[0]; !among(tried, i) && i.enter() {
				return i, false
			}
		default:
			x := rand.IntN(len(list))
			y := rand.IntN(len(list) - 1)
			if y >= x {
				y++
			}
			i := list[x]
			if list[y].inFlight.Load() < i.inFlight.Load() {
				i = list[y]
			}
			if usable(i) && i.enter() {
				return i, false
			}
			if i := least(list, usable); i != nil && i.enter() {
				return i, false
			}
			// Those put aside are better than none.
			if i := least(list, func(i *instance) bool { return !among(tried, i) && i.aside.Load() > now }); i != nil && i.enter() {
				return i, false
			}
		}
		if a.set.Load() != set {
			continue // a swap came between: what refused may be retired
		}
		for _, i := range list {
			if !among(tried, i) {
				return nil, true
			}
		}
		return nil, false
	}
}

func least(list []*instance, usable func(*instance) bool) *instance {
	var best *instance
	for _, i := range list {
		if usable(i) && (best == nil || i.inFlight.Load() < best.inFlight.Load()) {
			best = i
		}
	}
	return best
}

func among(list []*instance, i *instance) bool {
	for _, v := range list {
		if v == i {
			return true
		}
	}
	return false
}
