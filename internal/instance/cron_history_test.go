package instance

import (
	"context"
	"database/sql"
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
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// Random histories of cron jobs: minutes pass, the clock is set back and forward, people ask for runs, jobs end, the machine is started
// anew, the node does not answer, or answers and nobody hears it, the store takes nothing, and the server is killed before and after each
// thing that it asks for. The store, and what decides and acts, are the real ones; the node is a model, and time is one.
//
// Always: no two instances of a job work at once, and what has ended is not started again, but for what ended with the machine. In the end,
// when nothing fails any more: each run is over, a minute has one at most, what a job ended with is in its run, and nothing is left on the node.
func TestCronHistories(t *testing.T) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm") // as in TestHistories
	}
	w := newWorld(t, bulwark.CronJob{Name: "often", Schedule: "* * * * *", Command: bulwark.Command{Argv: []string{"true"}}},
		bulwark.CronJob{Name: "seldom", Schedule: "*/5 * * * *", Command: bulwark.Command{Argv: []string{"true"}}})
	must(t, w.db.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`CREATE TABLE disk (full INTEGER); INSERT INTO disk VALUES (0);
CREATE TRIGGER full_insert BEFORE INSERT ON cron_run WHEN (SELECT full FROM disk) BEGIN SELECT raise(ABORT, 'database or disk is full'); END;
CREATE TRIGGER full_update BEFORE UPDATE ON cron_run WHEN (SELECT full FROM disk) BEGIN SELECT raise(ABORT, 'database or disk is full'); END`)
		return err
	}))
	first, last := uint64(1), uint64(*histories)/2 // each takes twice as long as one of TestHistories
	if *historySeed != 0 {
		first, last = *historySeed, *historySeed
	}
	for seed := first; seed <= last; seed++ {
		h := newCronHistory(t, w, seed)
		for range 80 {
			h.step()
		}
		h.settle()
		if *historySeed != 0 {
			t.Log(strings.Join(h.lines, "\n"))
		}
		if h.broken != "" {
			t.Fatalf("%s\nsee it with: go test ./internal/instance -run TestCronHistories -history.seed %d -v\n%s", h.broken, seed, strings.Join(tail(h.lines, 40), "\n"))
		}
	}
}

// cronHistory is one of them, and the model of the node in it.
type cronHistory struct {
	*world
	t      *testing.T
	rng    *rand.Rand
	c      *Cron
	node   map[bulwark.InstanceID]nodeapi.Instance
	ended  map[bulwark.InstanceID]int // what instances ended with
	lost   map[bulwark.InstanceID]bool
	faults bool
	lines  []string
	broken string
}

func newCronHistory(t *testing.T, w *world, seed uint64) *cronHistory {
	h := &cronHistory{world: w, t: t, rng: rand.New(rand.NewPCG(seed, 13)), faults: true,
		node: map[bulwark.InstanceID]nodeapi.Instance{}, ended: map[bulwark.InstanceID]int{}, lost: map[bulwark.InstanceID]bool{}}
	must(t, h.db.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE disk SET full = 0; DELETE FROM cron_run`)
		return err
	}))
	h.restartServer()
	return h
}

func (h *cronHistory) say(format string, args ...any) {
	h.lines = append(h.lines, h.now.Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

func (h *cronHistory) breaks(format string, args ...any) {
	if h.broken == "" {
		h.broken = fmt.Sprintf(format, args...)
		h.say("BROKEN: %s", h.broken)
	}
}

func (h *cronHistory) chance(n int) bool { return h.rng.IntN(100) < n }

func (h *cronHistory) restartServer() {
	h.m = New(h.db, nil, nobody, slog.New(slog.DiscardHandler))
	h.m.node = (*cronNode)(h)
	h.c = h.cron()
}

// alive runs what the server does; when it is killed in it another takes its place.
func (h *cronHistory) alive(f func()) {
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

func (h *cronHistory) step() {
	switch n := h.rng.IntN(100); {
	case n < 45:
		h.alive(h.look)
	case n < 65:
		h.end()
	case n < 80:
		h.now = h.now.Add(time.Duration(h.rng.IntN(90)) * time.Second)
	case n < 82:
		h.now = h.now.Add(time.Duration(h.rng.IntN(7200)-3600) * time.Second)
		h.say("the clock is set")
	case n < 88:
		job := []bulwark.ProcessType{"often", "seldom"}[h.rng.IntN(2)]
		h.alive(func() {
			r, err := h.c.Now(h.t.Context(), h.app, job, "p_x", "cron.run", "app:shop")
			h.say("%s is asked for: %s %v", job, r.ID, err)
		})
	case n < 92:
		h.alive(func() { panic(killed{}) })
	case n < 94:
		h.say("the machine is started anew")
		for id := range h.node {
			h.lost[id] = true
		}
		clear(h.node)
	case n < 97:
		h.fill(h.chance(60))
	}
}

func (h *cronHistory) fill(full bool) {
	h.say("the store takes nothing: %t", full)
	must(h.t, h.db.Tx(h.t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec(`UPDATE disk SET full = ?`, full); return err }))
}

// look is a turn of the scheduler; some of what it begins is not seen to do anything.
func (h *cronHistory) look() {
	ctx := h.t.Context()
	if !h.faults || h.chance(80) {
		h.m.seen = maps.Clone(h.node)
		h.m.heard++
	}
	h.c.due(ctx)
	active, err := activeCron(ctx, h.db.Reader())
	must(h.t, err)
	all := cronDecisions(active, h.m.Once(""), h.c.heard(), h.now)
	h.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, d := range all {
		if h.faults && h.chance(20) {
			continue
		}
		h.say("%s: %s", short(d.id), [...]string{"start", "finish", "lose", "stop a stray"}[d.what])
		h.c.carryOut(ctx, d)
	}
}

// end has jobs come to their end.
func (h *cronHistory) end() {
	for _, id := range slices.Sorted(maps.Keys(h.node)) {
		if i := h.node[id]; !i.Phase.Over() && (!h.faults || h.chance(50)) {
			i.Phase, i.ExitCode = nodeapi.PhaseExited, h.rng.IntN(3)
			h.node[id], h.ended[id] = i, i.ExitCode
			h.say("%s ends with %d", short(id), i.ExitCode)
		}
	}
}

// settle takes the faults away and waits.
func (h *cronHistory) settle() {
	h.faults = false
	h.fill(false)
	h.say("nothing fails any more")
	for range 12 {
		h.now = h.now.Add(2 * seenFor)
		h.end()
		h.alive(h.look)
	}
	h.c.last = h.now.UTC().Truncate(time.Minute) // no further runs are made
	for range 4 {
		h.end()
		h.alive(h.look)
	}
	runs, err := CronRuns(h.t.Context(), h.db.Reader(), h.app.ID)
	must(h.t, err)
	minutes := map[string]bool{}
	for _, r := range runs {
		code, ended := h.ended[r.ID]
		switch {
		case r.State == CronWaiting || r.State == CronRunning:
			h.breaks("run %s of %s, due %s, is %s for ever", short(r.ID), r.Job, r.Due, r.State)
		case r.State == CronSucceeded && (!ended || code != 0), r.State == CronFailed && r.Code >= 0 && (!ended || code != r.Code):
			h.breaks("run %s of %s %s with %d, and its instance ended with %d (%t)", short(r.ID), r.Job, r.State, r.Code, code, ended)
		}
		if minute := fmt.Sprint(r.Job, r.Due); !r.Manual && minutes[minute] {
			h.breaks("%s has two runs of %s", r.Due, r.Job)
		} else if !r.Manual {
			minutes[minute] = true
		}
	}
	if len(h.node) > 0 {
		h.breaks("%d instances are left on the node", len(h.node))
	}
}

// cronNode does what the node does with verbs.
type cronNode cronHistory

func (n *cronNode) Call(_ context.Context, verb string, in, _ any) error {
	h := (*cronHistory)(n)
	away := bulwark.Failf(bulwark.KindUnavailable, "the node does not answer")
	if h.faults && h.chance(4) {
		panic(killed{})
	}
	if h.faults && h.chance(8) {
		return away
	}
	switch in := in.(type) {
	case nodeapi.Start:
		n.start(in)
	case nodeapi.Stop:
		if i, ok := h.node[in.Instance]; ok && !i.Phase.Over() {
			h.lost[in.Instance] = true
		}
		delete(h.node, in.Instance)
	default:
		h.t.Fatalf("verb %s", verb)
	}
	if h.faults && h.chance(4) {
		h.say("%s was done, and then", verb)
		panic(killed{})
	}
	if h.faults && h.chance(8) {
		h.say("%s was done, and nobody hears of it", verb)
		return away
	}
	return nil
}

func (n *cronNode) start(in nodeapi.Start) {
	h := (*cronHistory)(n)
	if _, ok := h.node[in.Instance]; ok {
		return
	}
	if _, ok := h.ended[in.Instance]; ok && !h.lost[in.Instance] {
		h.breaks("%s of %s had ended and is started again", short(in.Instance), in.Process)
	}
	for id, i := range h.node {
		if i.Process == in.Process && !i.Phase.Over() {
			h.breaks("%s of %s is started while %s works", short(in.Instance), in.Process, short(id))
		}
	}
	h.node[in.Instance] = nodeapi.Instance{Instance: in.Instance, App: h.app.ID, Process: in.Process, Kind: nodeapi.KindJob, Phase: nodeapi.PhaseHealthy}
}
