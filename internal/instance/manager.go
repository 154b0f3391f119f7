// Package instance is the fifth step of the pipeline: what should run, compared with what does. It promises that each row
// that wants to run has one instance, started again with growing pauses when it crashes; that one which should end gets
// no new request before it is told so; and that what runs without a row is stopped.
//
// The decisions follow from rows and from the node's list alone, so they are the same after any crash. Whoever owns the
// server can stop and scale; it cannot start anything but what a release statement says.
package instance

import (
	"context"
	"database/sql"
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

// Open returns the apps that have an operation which is not over: a candidate belongs to one.
type Open func(context.Context) (map[bulwark.AppID]bool, error)

// node takes what the manager decides.
type node interface {
	Call(ctx context.Context, verb string, in, out any) error
}

// Manager keeps rows and instances in agreement.
type Manager struct {
	db     *db.DB
	node   node
	client *nodeapi.Client // the same, for what streams
	edge   Edge
	log    *slog.Logger
	kick   chan struct{}
	now    func() time.Time
	closed context.Context // ends with the server; set by Run
	open   Open
	rest   func(context.Context, time.Duration) error

	mu      sync.Mutex // guards what follows
	seen    map[bulwark.InstanceID]nodeapi.Instance
	heard   uint64 // how many lists of the node's were seen since the start
	busy    map[bulwark.InstanceID]bool
	changed chan struct{}
}

// New makes a manager.
func New(d *db.DB, node *nodeapi.Client, open Open, log *slog.Logger) *Manager {
	return &Manager{db: d, open: open, node: node, client: node, log: log, kick: make(chan struct{}, 1), now: time.Now, closed: context.Background(), rest: rest,
		seen: map[bulwark.InstanceID]nodeapi.Instance{}, busy: map[bulwark.InstanceID]bool{}, changed: make(chan struct{})}
}

// Run keeps things in agreement until ctx ends.
func (m *Manager) Run(ctx context.Context, edge Edge) {
	m.edge, m.closed = edge, ctx
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.listen(ctx) })
	wg.Go(func() {
		if err := m.adopt(ctx); err != nil && ctx.Err() == nil {
			m.log.Error("it is not known what the node let through", "error", err)
		}
	})
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
		err := nodeapi.Stream(ctx, m.client, "events", struct{}{}, func(all []nodeapi.Instance) error {
			m.mu.Lock()
			clear(m.seen)
			for _, i := range all {
				m.seen[i.Instance] = i
			}
			m.heard++
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
	if m.lists() == 0 {
		return // an empty list that was never filled says nothing about what runs
	}
	rows, err := Rows(ctx, m.db.Reader(), "")
	if err != nil {
		m.log.Error("instances cannot be read", "error", err)
		return
	}
	open, err := m.open(ctx)
	if err != nil {
		m.log.Error("operations cannot be read", "error", err)
		return
	}
	m.mu.Lock()
	all := decisions(rows, m.seen, open, m.now())
	m.mu.Unlock()
	for _, d := range all {
		m.do(wg, d.id, func() { m.carryOut(ctx, d) })
	}
}

// decision is what is to be done about one instance.
type decision struct {
	id   bulwark.InstanceID
	what action
	row  Row              // for doStart, doReplace, doEnd
	seen nodeapi.Instance // for doReplace
}

// decisions is what is to be done about all: a pure function of the rows, of what the node says, of the apps that have an operation,
// and of the time.
func decisions(rows []Row, seen map[bulwark.InstanceID]nodeapi.Instance, open map[bulwark.AppID]bool, now time.Time) (out []decision) {
	have := map[bulwark.InstanceID]bool{}
	for _, r := range rows {
		have[r.ID] = true
		i, running := seen[r.ID]
		what := decide(r, i, running, now)
		if r.Want && r.Candidate && !open[r.App] {
			what = doWithdraw // its operation could not even write down that it failed
		}
		if what != doNothing {
			out = append(out, decision{r.ID, what, r, i})
		}
	}
	for id, i := range seen {
		if !have[id] && i.Kind == "" { // what runs once has no row here: see once.go
			out = append(out, decision{id: id, what: doStop})
		}
	}
	return out
}

func (m *Manager) carryOut(ctx context.Context, d decision) {
	switch d.what {
	case doStart:
		m.start(ctx, d.row)
	case doReplace:
		m.replace(ctx, d.row, d.seen)
	case doEnd:
		m.end(ctx, d.row)
	case doStop:
		m.stopStray(ctx, d.id)
	case doWithdraw:
		m.withdraw(ctx, d.id)
	}
}

// action is what a row needs.
type action int

const (
	doNothing action = iota
	doStart
	doReplace // it crashed, and its pause is over
	doEnd
	doStop     // nobody knows of it
	doWithdraw // it is a candidate of nobody's
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

// roomEvery is how often an instance is tried that a machine without room refused.
const roomEvery = 10 * time.Second

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
	if bulwark.KindOf(err) == bulwark.KindBusy { // not its fault: it comes back soon after there is room
		r.Crashes = max(r.Crashes, 1)
		r.NotBefore = m.now().Add(roomEvery)
	} else {
		r.Crashes++
		r.NotBefore = m.now().Add(max(time.Second, pause(r.Crashes)))
	}
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
	if m.now().Sub(r.Started) > 10*time.Minute {
		r.Crashes = 0 // it had settled
	}
	r.Crashes++
	r.NotBefore = m.now().Add(pause(r.Crashes))
	r.Reason, r.ID, r.Started = i.Reason, bulwark.NewInstanceID(), m.now()
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

// withdraw has a candidate end. It may have been promoted since it was looked at.
func (m *Manager) withdraw(ctx context.Context, id bulwark.InstanceID) {
	err := m.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE instance SET want = 0 WHERE id = ? AND candidate = 1`, id)
		return err
	})
	if err != nil {
		m.log.Error("instances cannot be written", "error", err)
		return
	}
	m.Kick()
}

// end takes an instance out of the table, lets its requests finish, stops it, and forgets the row.
func (m *Manager) end(ctx context.Context, r Row) {
	if _, running := m.State(r.ID); running {
		if err := m.edge.Sync(ctx); err != nil {
			// It may still get requests: rather a late end than a lost request.
			m.log.Warn("the edge is away", "error", err)
			_ = m.rest(ctx, time.Second)
			return
		}
		if err := m.edge.Drain(ctx, r.ID, drainTime); err != nil {
			// As above; it may be in the table of an edge that has just begun with an older one.
			m.log.Warn("an instance was not drained", "instance", r.ID, "error", err)
			_ = m.rest(ctx, time.Second)
			return
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
