// Package instance is the fifth step of the pipeline: what should run, compared with what does. It promises that each row
// that wants to run has one instance, started again with growing pauses when it crashes; that one which should end gets
// no new request before it is told so; and that what runs without a row is stopped.
//
// The decisions follow from rows and from the node's list alone, so they are the same after any crash. Whoever owns the
// server can stop and scale; it cannot start anything but what a release statement says.
package instance

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
)

// Grace is how long an instance has between SIGTERM and SIGKILL.
const Grace = 30 * time.Second

// drainTime is how long requests under way may go on before SIGTERM.
const drainTime = 30 * time.Second

// Edge is what the manager needs of the edge.
type Edge interface {
	// Sync returns when the edge serves a table that agrees with the rows.
	Sync(ctx context.Context) error
	// Drain returns when an instance has no request under way, or when the time is up.
	Drain(ctx context.Context, id bulwark.InstanceID, within time.Duration) error
}

// Manager keeps rows and instances in agreement.
type Manager struct {
	db   *db.DB
	node *nodeapi.Client
	edge Edge
	log  *slog.Logger
	kick chan struct{}

	mu      sync.Mutex // guards what follows
	seen    map[bulwark.InstanceID]nodeapi.Instance
	known   bool // the node's list was seen since the start
	busy    map[bulwark.InstanceID]bool
	changed chan struct{}
}

// New makes a manager.
func New(d *db.DB, node *nodeapi.Client, log *slog.Logger) *Manager {
	return &Manager{db: d, node: node, log: log, kick: make(chan struct{}, 1), seen: map[bulwark.InstanceID]nodeapi.Instance{},
		busy: map[bulwark.InstanceID]bool{}, changed: make(chan struct{})}
}

// Run keeps things in agreement until ctx ends.
func (m *Manager) Run(ctx context.Context, edge Edge) {
	m.edge = edge
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.listen(ctx) })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		m.reconcile(ctx, &wg)
		select {
		case <-ctx.Done():
			return
		case <-m.kick:
		case <-tick.C:
		}
	}
}

// Kick has the manager look at once.
func (m *Manager) Kick() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// listen follows the node's list.
func (m *Manager) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := nodeapi.Stream(ctx, m.node, "events", struct{}{}, func(all []nodeapi.Instance) error {
			m.mu.Lock()
			clear(m.seen)
			for _, i := range all {
				m.seen[i.Instance] = i
			}
			m.known = true
			close(m.changed)
			m.changed = make(chan struct{})
			m.mu.Unlock()
			m.Kick()
			return nil
		})
		if err != nil && ctx.Err() == nil {
			m.log.Debug("the node is away", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// State returns what the node says of an instance.
func (m *Manager) State(id bulwark.InstanceID) (nodeapi.Instance, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.seen[id]
	return i, ok
}

// Changed returns a channel that is closed when the node's list changes.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// reconcile begins what must be done; each instance is worked on by one goroutine at a time.
func (m *Manager) reconcile(ctx context.Context, wg *sync.WaitGroup) {
	m.mu.Lock()
	known := m.known
	m.mu.Unlock()
	if !known {
		return // an empty list that was never filled says nothing about what runs
	}
	rows, err := Rows(ctx, m.db.Reader(), "")
	if err != nil {
		m.log.Error("instances cannot be read", "error", err)
		return
	}
	have := map[bulwark.InstanceID]bool{}
	for _, r := range rows {
		have[r.ID] = true
		i, running := m.State(r.ID)
		switch what := decide(r, i, running, time.Now()); what {
		case doStart:
			m.do(wg, r.ID, func() { m.start(ctx, r) })
		case doReplace:
			m.do(wg, r.ID, func() { m.replace(ctx, r, i) })
		case doEnd:
			m.do(wg, r.ID, func() { m.end(ctx, r) })
		}
	}
	m.mu.Lock()
	var strays []bulwark.InstanceID
	for id, i := range m.seen {
		if !have[id] && i.Kind == "" { // what runs once has no row here: see once.go
			strays = append(strays, id)
		}
	}
	m.mu.Unlock()
	for _, id := range strays {
		m.do(wg, id, func() { m.stopStray(ctx, id) })
	}
}

// action is what a row needs.
type action int

const (
	doNothing action = iota
	doStart
	doReplace // it crashed, and its pause is over
	doEnd
)

// decide is the whole decision for one row: a pure function of the row, of what the node says, and of the time.
func decide(r Row, i nodeapi.Instance, running bool, now time.Time) action {
	switch {
	case !r.Want:
		return doEnd
	case !running && (!now.Before(r.NotBefore) || r.NotBefore.Sub(now) > longestPause):
		return doStart // a pause that is longer than any was begun before the clock was set back
	case running && i.Phase.Over() && !r.Candidate:
		return doReplace
	}
	return doNothing
}

// pause is how long to wait before the n-th start again: three at once, then 30 s doubling to 15 min.
func pause(crashes int) time.Duration {
	if crashes <= 3 {
		return 0
	}
	return min(30*time.Second<<min(crashes-4, 10), longestPause)
}

const longestPause = 15 * time.Minute

func (m *Manager) do(wg *sync.WaitGroup, id bulwark.InstanceID, f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[id] {
		return
	}
	m.busy[id] = true
	wg.Go(func() {
		f()
		m.mu.Lock()
		delete(m.busy, id)
		m.mu.Unlock()
	})
}

func (m *Manager) start(ctx context.Context, r Row) {
	full, err := release.Get(ctx, m.db.Reader(), r.App, r.Release)
	if err == nil {
		err = m.node.Call(ctx, "start", nodeapi.Start{Bundle: full.Bundle, Instance: r.ID, Process: r.Process, Index: r.Index}, nil)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	m.log.Warn("an instance did not start", "instance", r.ID, "error", err)
	if bulwark.KindOf(err) == bulwark.KindUnavailable {
		return // the next look tries again
	}
	r.Crashes++
	r.NotBefore = time.Now().Add(max(time.Second, pause(r.Crashes)))
	r.Reason = "it cannot be started"
	if e, ok := asUser(err); ok {
		r.Reason = e.Message
	}
	if err := update(ctx, m.db, r, r.ID); err != nil {
		m.log.Error("instances cannot be written", "error", err)
	}
	m.announce()
}

// replace gives a crashed row a new instance, after its pause.
func (m *Manager) replace(ctx context.Context, r Row, i nodeapi.Instance) {
	old := r.ID
	if time.Since(r.Started) > 10*time.Minute {
		r.Crashes = 0 // it had settled
	}
	r.Crashes++
	r.NotBefore = time.Now().Add(pause(r.Crashes))
	r.Reason, r.ID, r.Started = i.Reason, bulwark.NewInstanceID(), time.Now()
	if err := update(ctx, m.db, r, old); err != nil {
		m.log.Error("instances cannot be written", "error", err)
		return
	}
	// The old one is a stray now; the table must lose it first.
	if err := m.edge.Sync(ctx); err != nil {
		m.log.Debug("the edge is away", "error", err)
	}
	m.stop(ctx, old, 0)
	m.Kick()
}

// end takes an instance out of the table, lets its requests finish, stops it, and forgets the row.
func (m *Manager) end(ctx context.Context, r Row) {
	if _, running := m.State(r.ID); running {
		if err := m.edge.Sync(ctx); err != nil {
			// It may still get requests: rather a late end than a lost request.
			m.log.Warn("the edge is away", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			return
		}
		if err := m.edge.Drain(ctx, r.ID, drainTime); err != nil {
			m.log.Warn("an instance was not drained", "instance", r.ID, "error", err)
		}
	}
	if m.stop(ctx, r.ID, Grace) {
		if err := remove(ctx, m.db, r.ID); err != nil {
			m.log.Error("instances cannot be written", "error", err)
		}
	}
}

func (m *Manager) stop(ctx context.Context, id bulwark.InstanceID, grace time.Duration) bool {
	err := m.node.Call(ctx, "stop", nodeapi.Stop{Instance: id, Grace: bulwark.Duration(grace)}, nil)
	if err != nil && ctx.Err() == nil {
		m.log.Warn("an instance did not stop", "instance", id, "error", err)
	}
	return err == nil
}

// stopStray stops what has no row, after a second look: a row may have been written since the first.
func (m *Manager) stopStray(ctx context.Context, id bulwark.InstanceID) {
	if _, err := rowByID(ctx, m.db.Reader(), id); err == nil || bulwark.KindOf(err) != bulwark.KindNotFound {
		return
	}
	m.stop(ctx, id, Grace)
}

// announce wakes who waits for a change.
func (m *Manager) announce() {
	m.mu.Lock()
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
}
