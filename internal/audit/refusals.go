package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// Refusals writes entries about what was refused, within a bound: whoever knocks a million times must not fill the disk with
// it. The first ones are entries of their own; what is more is counted, and the counts are entries. Those who are not
// signed in share one bound.
//
// Counts that were not written yet go with a server that is killed.
type Refusals struct {
	db   *db.DB
	now  func() time.Time
	mu   sync.Mutex // guards what follows
	who  map[bulwark.PersonID]*allowance
	more map[moreKey]*more
}

// The bounds. They let a stranger write some 200 entries an hour.
const (
	strangerBurst = 10
	strangerEvery = time.Minute
	personBurst   = 60
	personEvery   = time.Second
	countEvery    = 10 * time.Minute
	mostCounts    = 1000 // kinds of refusals that are counted at a time; what is more is counted as one
	mostAddresses = 5    // that a count names
)

type allowance struct {
	left float64
	at   time.Time
}

type moreKey struct {
	actor            bulwark.PersonID
	action, resource string
	outcome          Outcome
}

type more struct {
	n    int
	from map[string]bool
}

// NewRefusals returns one that writes into d; now may be nil.
func NewRefusals(d *db.DB, now func() time.Time) *Refusals {
	if now == nil {
		now = time.Now
	}
	return &Refusals{db: d, now: now, who: map[bulwark.PersonID]*allowance{}, more: map[moreKey]*more{}}
}

// Note writes e, or counts it.
func (r *Refusals) Note(ctx context.Context, e Entry) error {
	if e.From == "" {
		e.From = OriginOf(ctx).From
	}
	if !r.allow(e) {
		return nil
	}
	return r.db.Tx(ctx, func(tx *sql.Tx) error { return Write(ctx, tx, e) })
}

func (r *Refusals) allow(e Entry) bool {
	burst, every := float64(personBurst), personEvery
	if e.Actor == "" {
		burst, every = strangerBurst, strangerEvery
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	a, ok := r.who[e.Actor]
	if !ok {
		a = &allowance{left: burst, at: now}
		r.who[e.Actor] = a
	}
	if since := now.Sub(a.at); since > 0 {
		a.left = min(burst, a.left+since.Seconds()/every.Seconds())
	}
	a.at = now
	if a.left >= 1 {
		a.left--
		return true
	}
	k := moreKey{e.Actor, e.Action, e.Resource, e.Outcome}
	if e.Actor == "" {
		k.resource = "" // a stranger chooses it
	}
	m, ok := r.more[k]
	if !ok && len(r.more) >= mostCounts {
		k = moreKey{action: "other", outcome: Refused}
		m, ok = r.more[k]
	}
	if !ok {
		m = &more{from: map[string]bool{}}
		r.more[k] = m
	}
	m.n++
	if len(m.from) < mostAddresses {
		m.from[e.From] = true
	}
	return false
}

// Run writes the counts every now and then until ctx ends, and then once more.
func (r *Refusals) Run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if err := r.Flush(context.WithoutCancel(ctx)); err != nil {
			failed(err)
		}
	}
}

// Flush writes the counts.
func (r *Refusals) Flush(ctx context.Context) error {
	r.mu.Lock()
	all := r.more
	r.more = map[moreKey]*more{}
	maps.DeleteFunc(r.who, func(_ bulwark.PersonID, a *allowance) bool { return r.now().Sub(a.at) > time.Hour })
	r.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	err := r.db.Tx(ctx, func(tx *sql.Tx) error {
		for k, m := range all {
			resource := k.resource
			if resource == "" {
				resource = "platform"
			}
			from := slices.Sorted(maps.Keys(m.from))
			detail := fmt.Sprintf("%d more, from %s", m.n, strings.Join(from, ", "))
			if len(from) == mostAddresses {
				detail += " and perhaps others"
			}
			if err := Write(ctx, tx, Entry{Actor: k.actor, Action: k.action, Resource: resource, Outcome: k.outcome, Detail: detail}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(errors.New("audit: counts of refusals were not written"), err)
	}
	return nil
}
