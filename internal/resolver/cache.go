package resolver

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
)

// Bounds of what is kept, per app: one app neither evicts nor learns what another looked up.
const (
	cacheEntries = 1000
	cacheBytes   = 1 << 20
	minTTL       = time.Second
	maxTTL       = time.Hour
	maxNegative  = 60 * time.Second
)

// question is what a cache entry answers.
type question struct {
	name  string // lower case, no trailing dot
	qtype uint16
}

// outcome is what upstream said to a question, cut down to the records that answer it. It does not change, but for the
// note that the node was told.
type outcome struct {
	rcode   int
	records []dns.RR // CNAMEs in order, then the records asked for; no policy was applied yet
	expires time.Time
	size    int
	told    atomic.Bool // the node acknowledged its addresses
}

// ttl is what is left of o.
func (o *outcome) ttl(now time.Time) time.Duration { return max(minTTL, o.expires.Sub(now)) }

// cache keeps the outcomes of one app, the latest used first.
type cache struct {
	mu    sync.Mutex // guards all below
	byKey map[question]*list.Element
	order *list.List // of *entry
	bytes int
}

type entry struct {
	q question
	o *outcome
}

func newCache() *cache { return &cache{byKey: map[question]*list.Element{}, order: list.New()} }

func (c *cache) get(q question, now time.Time) *outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[q]
	if e == nil {
		return nil
	}
	o := e.Value.(*entry).o
	if !now.Before(o.expires) {
		c.drop(e)
		return nil
	}
	c.order.MoveToFront(e)
	return o
}

func (c *cache) put(q question, o *outcome) {
	if o.size > cacheBytes/8 {
		return // one answer must not push out all the others
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[q]; e != nil {
		c.drop(e)
	}
	c.byKey[q] = c.order.PushFront(&entry{q, o})
	c.bytes += o.size
	for c.order.Len() > cacheEntries || c.bytes > cacheBytes {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	gone := c.order.Remove(e).(*entry)
	delete(c.byKey, gone.q)
	c.bytes -= gone.o.size
}

// each calls f for all that has not expired.
func (c *cache) each(now time.Time, f func(question, *outcome)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.order.Front(); e != nil; e = e.Next() {
		if v := e.Value.(*entry); now.Before(v.o.expires) {
			f(v.q, v.o)
		}
	}
}

// tenant is what the resolver keeps for one app between queries.
type tenant struct {
	id      bulwark.AppID
	cache   *cache
	asking  chan struct{} // a place for each query to upstream
	mu      sync.Mutex    // guards flights
	flights map[question]*flight
}

// flight is a query to upstream that is under way; everybody who asks the same waits for the same answer. It also
// spares upstream, and gives a forger one question to guess rather than many.
type flight struct {
	done chan struct{}
	o    *outcome // set before done is closed; nil if upstream did not answer
}

func newTenant(id bulwark.AppID) *tenant {
	return &tenant{id: id, cache: newCache(), asking: make(chan struct{}, maxAskingPerApp), flights: map[question]*flight{}}
}
