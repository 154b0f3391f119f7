package instance

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

var (
	historySeed = flag.Uint64("history.seed", 0, "play this history alone, and print it")
	histories   = flag.Int("histories", 20, "how many histories are played")
)

// Random histories of what can come to pass: people scale and deploy, instances come up and crash, the node does not answer, or answers and
// nobody hears it, the edge is away, the store takes nothing, and the server is killed before and after each thing that it asks for, and goes
// on with what it finds. The store, and what decides and acts, are the real ones; node and edge are models, and time is one.
//
// Always: an instance that gets requests is not stopped, and an app whose instances do not crash never loses its last one. What the node let
// through does not fail. In the end, when nothing fails any more: what was acknowledged holds, each row has one healthy instance, nothing
// else runs, and the edge's table says the same.
func TestHistories(t *testing.T) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm") // nobody here cuts the power, and a disk would be waited for most of the time
	}
	w := newWorld(t)
	must(t, w.db.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`CREATE TABLE disk (full INTEGER); INSERT INTO disk VALUES (0);
CREATE TRIGGER full_insert BEFORE INSERT ON instance WHEN (SELECT full FROM disk) BEGIN SELECT raise(ABORT, 'database or disk is full'); END;
CREATE TRIGGER full_update BEFORE UPDATE ON instance WHEN (SELECT full FROM disk) BEGIN SELECT raise(ABORT, 'database or disk is full'); END;
CREATE TRIGGER full_delete BEFORE DELETE ON instance WHEN (SELECT full FROM disk) BEGIN SELECT raise(ABORT, 'database or disk is full'); END;
UPDATE app SET destroyed = 1`)
		return err
	}))
	if *historySeed != 0 {
		newHistory(t, w, *historySeed).play()
		return
	}
	for seed := range uint64(*histories) {
		h := newHistory(t, w, seed+1)
		h.play()
		if h.broken != "" {
			t.Fatalf("%s\nsee it with: go test ./internal/instance -run TestHistories -history.seed %d -v\n%s", h.broken, seed+1, strings.Join(tail(h.lines, 40), "\n"))
		}
	}
}

func tail(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }

// killed is how the server dies in a history: it unwinds whatever it was doing.
type killed struct{}

// history is one of them, and the model of node and edge in it.
type history struct {
	*world
	t      *testing.T
	rng    *rand.Rand
	node   map[bulwark.InstanceID]nodeapi.Instance
	table  map[bulwark.InstanceID]bool
	faults bool
	crash  bool // instances may crash
	full   bool // the store takes nothing
	newest uint64
	count  int    // as acknowledged
	serves uint64 // as acknowledged, or what the node promoted
	deploy *deployment
	lines  []string
	broken string
	// adopted: the server, since it was started, has looked what the node let through.
	adopted bool
}

// deployment is an operation that is under way; a server that was killed begins it anew.
type deployment struct {
	number uint64
	added  int // stages begun by this server
}

func newHistory(t *testing.T, w *world, seed uint64) *history {
	h := &history{world: w, t: t, rng: rand.New(rand.NewPCG(seed, 7)), node: map[bulwark.InstanceID]nodeapi.Instance{}, table: map[bulwark.InstanceID]bool{},
		count: 1, crash: seed%2 == 0}
	h.app = &app.App{ID: bulwark.NewAppID(), Project: bulwark.NewProjectID(), Name: bulwark.AppName(fmt.Sprintf("history-%d", seed)), Created: w.now}
	must(t, h.db.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE disk SET full = 0; DELETE FROM instance; UPDATE app SET destroyed = 1`)
		return errors.Join(err, app.Insert(tx, *h.app))
	}))
	h.restartServer()
	h.newRelease()
	h.deploy = &deployment{number: h.newest}
	h.settle()
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *history) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	h.lines = append(h.lines, line)
	if *historySeed != 0 {
		h.t.Log(line)
	}
}

func (h *history) breaks(format string, args ...any) {
	if h.broken == "" {
		h.broken = fmt.Sprintf(format, args...)
		h.say("BROKEN: %s", h.broken)
	}
}

func (h *history) restartServer() {
	h.adopted = false
	h.m = New(h.db, nil, nobody, slog.New(slog.DiscardHandler))
	h.m.node, h.m.edge, h.m.now = (*modelNode)(h), (*modelEdge)(h), func() time.Time { return h.now }
	h.m.rest = func(context.Context, time.Duration) error {
		if h.faults && h.chance(10) {
			panic(killed{})
		}
		h.fill(h.full && h.chance(80))
		return nil
	}
	if h.deploy != nil {
		h.deploy.added = 0
	}
}

func (h *history) newRelease() {
	h.newest++
	some := bulwark.Sum([]byte("something"))
	full := &nodeapi.Released{Release: statement.Release{Project: h.app.Project, App: h.app.ID, Name: h.app.Name, Generation: h.newest, Image: some, Provenance: some,
		Cause: statement.Cause{Person: bulwark.NewPersonID(), Digest: some},
		Plan:  bulwark.Plan{Processes: map[bulwark.ProcessType]bulwark.Command{bulwark.ProcessWeb: {Argv: []string{"serve"}}}}}}
	must(h.t, release.Insert(h.t.Context(), h.db, full, ""))
}

// chance is true in n of a hundred cases.
func (h *history) chance(n int) bool { return h.rng.IntN(100) < n }

// play does some sixty things, and then lets everything come to rest.
func (h *history) play() {
	h.faults = true
	for range 60 {
		h.step()
		if h.broken != "" {
			return
		}
	}
	h.settle()
}

// alive runs what the server does; when it is killed in it another takes its place.
func (h *history) alive(f func()) {
	defer func() {
		switch r := recover(); r.(type) {
		case nil:
		case killed:
			h.say("the server is killed")
			h.restartServer()
		default:
			panic(r)
		}
	}()
	f()
}

func (h *history) step() {
	switch n := h.rng.IntN(100); {
	case n < 40:
		h.alive(h.look)
	case n < 60:
		h.move()
	case n < 70:
		h.now = h.now.Add(time.Duration(h.rng.IntN(60)) * time.Second)
	case n < 76:
		n := 1 + h.rng.IntN(3)
		h.alive(func() { h.scale(n) })
	case n < 90:
		h.alive(h.deploying)
	case n < 94:
		h.alive(func() { panic(killed{}) })
	default:
		h.fill(!h.full && h.chance(50))
	}
}

// hear has the node's list arrive at the server, which tells the edge.
func (h *history) hear() {
	h.m.seen = maps.Clone(h.node)
	h.m.heard++
	(*modelEdge)(h).follow()
}

// look is a turn of the reconciler; some of what it begins is still going on at its end, and is not seen to do anything.
func (h *history) look() {
	if !h.adopted {
		h.adopted = h.m.adopt(h.t.Context()) == nil
	}
	if !h.faults || h.chance(80) {
		h.hear()
	}
	if h.m.heard == 0 {
		return
	}
	rows, err := Rows(h.t.Context(), h.db.Reader(), "")
	must(h.t, err)
	all := decisions(rows, h.m.seen, map[bulwark.AppID]bool{h.app.ID: h.deploy != nil}, h.now)
	slices.SortFunc(all, func(a, b decision) int { return strings.Compare(string(a.id), string(b.id)) })
	h.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, d := range all {
		if h.faults && h.chance(20) {
			continue
		}
		h.say("%s: %s", short(d.id), [...]string{"", "start", "replace", "end", "stop a stray", "withdraw"}[d.what])
		h.m.carryOut(h.t.Context(), d)
	}
}

// fill has the store take nothing, or takes that back.
func (h *history) fill(full bool) {
	if h.full != full {
		h.say("the store takes nothing: %t", full)
	}
	h.full = full
	must(h.t, h.db.Tx(h.t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec(`UPDATE disk SET full = ?`, full); return err }))
}

func short(id bulwark.InstanceID) string { return string(id[len(id)-4:]) }

// move has instances come up, and crash.
func (h *history) move() {
	for _, id := range slices.Sorted(maps.Keys(h.node)) {
		i := h.node[id]
		switch {
		case i.Phase == nodeapi.PhaseStarting && h.crash && h.faults && h.chance(20), i.Phase == nodeapi.PhaseHealthy && h.crash && h.faults && h.chance(10):
			i.Phase, i.Reason = nodeapi.PhaseExited, "it crashed"
			h.say("%s: crashes", short(id))
		case i.Phase == nodeapi.PhaseStarting && (!h.faults || h.chance(60)):
			i.Phase = nodeapi.PhaseHealthy
			h.say("%s: is healthy", short(id))
		}
		h.node[id] = i
	}
	if !h.faults || h.chance(70) {
		h.hear()
	}
}

func (h *history) scale(n int) {
	h.say("scale web=%d", n)
	if err := h.m.Scale(h.t.Context(), h.app.ID, map[bulwark.ProcessType]int{bulwark.ProcessWeb: n}, func(*sql.Tx) error { return nil }); err != nil {
		h.say("scale: %v", err)
		return
	}
	h.count = n
}

// deploying begins a deploy, or does the next stage of one as Rollout and the pipeline do, without waiting.
func (h *history) deploying() {
	if h.deploy == nil {
		h.newRelease()
		h.deploy = &deployment{number: h.newest}
		h.say("deploy v%d", h.newest)
	}
	ctx, d := h.t.Context(), h.deploy
	a, err := app.ByID(ctx, h.db.Reader(), h.app.ID)
	must(h.t, err)
	if d.number <= a.Promoted { // as in Server.release
		h.say("v%d serves already", d.number)
		h.serves, h.deploy = a.Promoted, nil
		return
	}
	full, err := release.Get(ctx, h.db.Reader(), a.ID, d.number)
	must(h.t, err)
	formation, err := Formation(ctx, h.db.Reader(), a.ID, full.Release.Plan)
	must(h.t, err)
	h.hear()
	if d.added == 0 {
		through, err := h.m.Resume(ctx, a, full)
		if err != nil {
			h.fail(a, d, err)
			return
		}
		if through {
			h.say("v%d had been let through", d.number)
			h.serves, h.deploy = d.number, nil
			return
		}
	}
	if d.added < 2 {
		if d.added > 0 && !h.up(d) {
			return
		}
		h.say("stage %d of v%d", d.added+1, d.number)
		if err := h.m.add(ctx, a, d.number, formation, d.added == 1); err != nil {
			h.fail(a, d, err)
			return
		}
		d.added++
		return
	}
	if !h.up(d) {
		return
	}
	h.say("promote v%d", d.number)
	if err := h.m.Promote(ctx, a, full); err != nil {
		h.fail(a, d, err)
		return
	}
	h.say("v%d is released", d.number)
	h.serves, h.deploy = d.number, nil
}

// up is what await looks at: all are healthy. If one is over, the deploy fails.
func (h *history) up(d *deployment) bool {
	rows, err := Rows(h.t.Context(), h.db.Reader(), h.app.ID)
	must(h.t, err)
	for _, r := range rows {
		if r.Release != d.number || !r.Want {
			continue
		}
		i, ok := h.node[r.ID]
		switch {
		case ok && i.Phase == nodeapi.PhaseHealthy:
		case ok && i.Phase.Over(), !ok && r.Crashes > 0:
			a, err := app.ByID(h.t.Context(), h.db.Reader(), h.app.ID)
			must(h.t, err)
			h.fail(a, d, errors.Join(errors.New("it did not come up"), h.m.Withdraw(h.t.Context(), a, d.number)))
			return false
		default:
			return false
		}
	}
	return true
}

// fail ends a deploy as Server.stopped and Server.failed do. What the node let through cannot fail any more.
func (h *history) fail(a *app.App, d *deployment, err error) {
	h.say("v%d failed: %v", d.number, err)
	if h.serves == d.number {
		h.breaks("v%d was let through by the node, and its deploy failed: %v", d.number, err)
	}
	h.deploy = nil
}

// settle takes the faults away and waits.
func (h *history) settle() {
	h.faults = false
	h.fill(false)
	h.say("nothing fails any more")
	for range 40 {
		h.now = h.now.Add(longestPause)
		h.alive(h.look)
		h.move()
		if h.deploy != nil {
			h.alive(h.deploying)
		}
	}
	ctx := h.t.Context()
	a, err := app.ByID(ctx, h.db.Reader(), h.app.ID)
	must(h.t, err)
	rows, err := Rows(ctx, h.db.Reader(), "")
	must(h.t, err)
	if h.deploy != nil {
		h.breaks("the deploy of v%d never ends", h.deploy.number)
	}
	if a.Promoted != h.serves {
		h.breaks("v%d serves, and v%d was acknowledged", a.Promoted, h.serves)
	}
	if len(rows) != h.count {
		h.breaks("there are %d rows, and %d instances were asked for", len(rows), h.count)
	}
	for _, r := range rows {
		if !r.Want || r.Candidate || r.Release != a.Promoted {
			h.breaks("row %s of v%d stays: want %t, candidate %t", short(r.ID), r.Release, r.Want, r.Candidate)
		}
		if h.node[r.ID].Phase != nodeapi.PhaseHealthy {
			h.breaks("%s of v%d is %q", short(r.ID), r.Release, h.node[r.ID].Phase)
		}
		if !h.table[r.ID] {
			h.breaks("%s gets no requests", short(r.ID))
		}
	}
	if len(h.node) != len(rows) || len(h.table) != len(rows) {
		h.breaks("%d rows, %d instances, %d in the table", len(rows), len(h.node), len(h.table))
	}
}

// modelNode does what the node does with verbs.
type modelNode history

func (n *modelNode) Call(ctx context.Context, verb string, in, out any) error {
	h := (*history)(n)
	away := bulwark.Failf(bulwark.KindUnavailable, "the node does not answer")
	if h.faults && h.chance(4) {
		panic(killed{})
	}
	if h.faults && h.chance(5) {
		return away
	}
	if err := n.do(ctx, verb, in, out); err != nil {
		return err
	}
	if h.faults && h.chance(4) {
		h.say("%s was done, and then", verb)
		panic(killed{})
	}
	if h.faults && h.chance(5) {
		h.say("%s was done, and nobody hears of it", verb)
		return away
	}
	return nil
}

func (n *modelNode) do(ctx context.Context, verb string, in, out any) error {
	h := (*history)(n)
	switch in := in.(type) {
	case nodeapi.Start:
		if _, ok := h.node[in.Instance]; ok {
			return nil
		}
		if h.faults && h.crash && h.chance(5) {
			return bulwark.Failf(bulwark.KindFailed, "it cannot be started")
		}
		r, err := rowByID(ctx, h.db.Reader(), in.Instance)
		must(h.t, err)
		h.node[in.Instance] = nodeapi.Instance{Instance: in.Instance, App: r.App, Process: in.Process, Generation: r.Release, Phase: nodeapi.PhaseStarting}
	case nodeapi.Stop:
		h.stopped(in.Instance)
		delete(h.node, in.Instance)
	case nodeapi.Promoted:
		*out.(*nodeapi.Promoted) = nodeapi.Promoted{App: in.App, Generation: h.serves}
	case nodeapi.Promote:
		for _, i := range h.node {
			if i.Generation == in.Generation && i.Phase == nodeapi.PhaseHealthy {
				h.serves = in.Generation
				return nil
			}
		}
		return bulwark.Failf(bulwark.KindConflict, "none of it is healthy")
	default:
		h.t.Fatalf("verb %s", verb)
	}
	return nil
}

// stopped holds what must be so when an instance ends.
func (h *history) stopped(id bulwark.InstanceID) {
	if h.node[id].Phase != nodeapi.PhaseHealthy {
		return
	}
	if h.table[id] {
		h.breaks("%s is stopped while it gets requests", short(id))
	}
	if !h.crash && h.serves > 0 && len(h.table) == 0 {
		h.breaks("%s is stopped, and nothing serves", short(id))
	}
}

// modelEdge does what the edge and its table do.
type modelEdge history

func (e *modelEdge) Sync(context.Context) error {
	h := (*history)(e)
	if h.faults && h.chance(4) {
		panic(killed{})
	}
	if h.faults && h.chance(8) {
		return bulwark.Failf(bulwark.KindUnavailable, "the edge is away")
	}
	e.follow()
	return nil
}

func (e *modelEdge) Drain(context.Context, bulwark.InstanceID, time.Duration) error {
	h := (*history)(e)
	if h.faults && h.chance(4) {
		panic(killed{})
	}
	return nil
}

// follow makes the table of the rows and of what is healthy, as route.Table and route.Next do.
func (e *modelEdge) follow() {
	h := (*history)(e)
	rows, err := Rows(h.t.Context(), h.db.Reader(), "")
	must(h.t, err)
	a, err := app.ByID(h.t.Context(), h.db.Reader(), h.app.ID)
	must(h.t, err)
	if h.m.heard == 0 {
		return // as the pusher, which knows the node's list first
	}
	next, kept := map[bulwark.InstanceID]bool{}, map[bulwark.InstanceID]bool{}
	for _, r := range rows {
		if r.Want && !r.Candidate && r.Release == a.Promoted && h.m.seen[r.ID].Phase == nodeapi.PhaseHealthy {
			next[r.ID] = true
		}
		if r.Want && h.table[r.ID] {
			kept[r.ID] = true
		}
	}
	if len(next) == 0 {
		next = kept
	}
	h.table = next
}
