package instance

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// fakeNode is a node that starts and ends instances when a test says so.
type fakeNode struct {
	mu      sync.Mutex // guards all, refuse and starts
	all     map[bulwark.InstanceID]nodeapi.Instance
	refuse  error
	starts  []nodeapi.Start
	changed chan struct{}
	app     bulwark.AppID
}

func (n *fakeNode) serve(t *testing.T) *nodeapi.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/events", func(w http.ResponseWriter, r *http.Request) {
		for {
			n.mu.Lock()
			list := []nodeapi.Instance{}
			for _, i := range n.all {
				list = append(list, i)
			}
			wake := n.changed
			json.NewEncoder(w).Encode(list)
			n.mu.Unlock()
			w.(http.Flusher).Flush()
			select {
			case <-wake:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST /v1/start", func(w http.ResponseWriter, r *http.Request) {
		var in nodeapi.Start
		json.NewDecoder(r.Body).Decode(&in)
		n.change(func() {
			n.starts = append(n.starts, in)
			if n.refuse != nil {
				w.WriteHeader(http.StatusUnprocessableEntity)
				json.NewEncoder(w).Encode(n.refuse)
				return
			}
			n.all[in.Instance] = nodeapi.Instance{Instance: in.Instance, App: n.app, Process: in.Process, Phase: nodeapi.PhaseHealthy, Kind: nodeapi.KindJob}
			json.NewEncoder(w).Encode(n.all[in.Instance])
		})
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		var in nodeapi.Stop
		json.NewDecoder(r.Body).Decode(&in)
		n.change(func() { delete(n.all, in.Instance) })
		w.Write([]byte("null"))
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return nodeapi.NewClient(path)
}

// change does something and tells who listens.
func (n *fakeNode) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// end ends every instance with a code.
func (n *fakeNode) end(code int) {
	n.change(func() {
		for id, i := range n.all {
			i.Phase, i.ExitCode = nodeapi.PhaseExited, code
			n.all[id] = i
		}
	})
}

// world is a store with one app whose release has jobs, and a node.
type world struct {
	t    *testing.T
	db   *db.DB
	node *fakeNode
	m    *Manager
	app  *app.App
	now  time.Time
}

func newWorld(t *testing.T, jobs ...bulwark.CronJob) *world {
	t.Helper()
	var migrations []db.Migration
	for _, m := range [][]db.Migration{audit.Migrations(), app.Migrations(), release.Migrations(), Migrations()} {
		migrations = append(migrations, m...)
	}
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "db"), migrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	w := &world{t: t, db: d, node: &fakeNode{all: map[bulwark.InstanceID]nodeapi.Instance{}, changed: make(chan struct{})},
		now: time.Date(2026, 3, 1, 3, 30, 10, 0, time.UTC)}
	w.m = New(d, w.node.serve(t), nobody, slog.New(slog.DiscardHandler))
	w.app = &app.App{ID: bulwark.NewAppID(), Project: bulwark.NewProjectID(), Name: "shop", Created: w.now, Promoted: 1}
	w.node.app = w.app.ID
	some := bulwark.Sum([]byte("something"))
	full := &nodeapi.Released{Release: statement.Release{Project: w.app.Project, App: w.app.ID, Name: w.app.Name, Generation: 1, Image: some, Provenance: some,
		Cause: statement.Cause{Person: bulwark.NewPersonID(), Digest: some}, Plan: bulwark.Plan{Cron: jobs}}}
	err = d.Tx(t.Context(), func(tx *sql.Tx) error {
		if err := app.Insert(tx, *w.app); err != nil {
			return err
		}
		return app.SetPromoted(tx, w.app.ID, 1)
	})
	if err == nil {
		err = release.Insert(t.Context(), d, full, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// nobody has an operation.
func nobody(context.Context) (map[bulwark.AppID]bool, error) { return nil, nil }

// cron is a scheduler as after a start of the server.
func (w *world) cron() *Cron {
	c := NewCron(w.m, slog.New(slog.DiscardHandler))
	c.now = func() time.Time { return w.now }
	return c
}

func (w *world) states() (out []CronState) {
	w.t.Helper()
	runs, err := CronRuns(w.t.Context(), w.db.Reader(), w.app.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range slices.Backward(runs) {
		out = append(out, r.State)
	}
	return out
}

func (w *world) expect(want ...CronState) {
	w.t.Helper()
	if got := w.states(); !slices.Equal(got, want) {
		w.t.Fatalf("runs are %v, not %v", got, want)
	}
}

func daily(name bulwark.ProcessType) bulwark.CronJob {
	return bulwark.CronJob{Name: name, Schedule: "30 3 * * *", Command: bulwark.Command{Argv: []string{"true"}}}
}

// A minute makes one run, whatever the server does in it; what was missed stays missed; a clock that is set back repeats
// nothing.
func TestCronDue(t *testing.T) {
	w := newWorld(t, daily("cleanup"))
	ctx := t.Context()
	w.cron().due(ctx)
	w.cron().due(ctx) // the server was started again
	w.expect(CronWaiting)
	w.finishAll()
	w.now = w.now.Add(time.Minute)
	c := w.cron()
	c.due(ctx)
	w.now = w.now.Add(-time.Minute)
	c.due(ctx)
	w.expect(CronSucceeded)
	w.now = w.now.Add(3*24*time.Hour + 5*time.Minute) // down for three days
	w.cron().due(ctx)
	w.expect(CronSucceeded)
}

// finishAll ends the runs that are not over.
func (w *world) finishAll() {
	w.t.Helper()
	err := w.db.Tx(w.t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE cron_run SET state = 'succeeded' WHERE state IN ('waiting', 'running')`)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// One run of a job at a time: the next is left out, and a person who asks is told.
func TestCronOneAtATime(t *testing.T) {
	w := newWorld(t, daily("cleanup"))
	ctx := t.Context()
	c := w.cron()
	c.due(ctx)
	w.now = w.now.Add(24 * time.Hour)
	c.due(ctx)
	w.expect(CronWaiting, CronSkipped)
	if _, err := c.Now(ctx, w.app, "cleanup", "p_x", "cron.run", "app:shop"); bulwark.KindOf(err) != bulwark.KindConflict {
		t.Error(err)
	}
	if _, err := c.Now(ctx, w.app, "nope", "p_x", "cron.run", "app:shop"); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Error(err)
	}
	w.finishAll()
	if _, err := c.Now(ctx, w.app, "cleanup", "p_x", "cron.run", "app:shop"); err != nil {
		t.Error(err)
	}
	w.expect(CronSucceeded, CronSkipped, CronWaiting)
}

// Old runs are forgotten, those that go on never.
func TestCronKeeps(t *testing.T) {
	w := newWorld(t, daily("cleanup"))
	c := w.cron()
	for range keepRuns + 20 {
		w.now = w.now.Add(24 * time.Hour)
		c.due(t.Context())
		w.finishAll()
	}
	if n := len(w.states()); n != keepRuns {
		t.Error(n)
	}
}

// until waits for a state of the world that the scheduler brings about.
func (w *world) until(what string, f func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("it does not come to pass that %s: %v", what, w.states())
		}
	}
}

// A run from its minute to its end: it is started once, as a job; its exit code is kept; its instance is stopped, and the
// manager of services, which runs beside, leaves it alone.
func TestCronRuns(t *testing.T) {
	w := newWorld(t, daily("cleanup"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.m.Run(ctx, nil) })
	wg.Go(func() { w.cron().Run(ctx) })
	defer wg.Wait()
	defer cancel()
	w.until("the job runs", func() bool { return slices.Equal(w.states(), []CronState{CronRunning}) })
	w.node.end(3)
	w.until("the job has failed", func() bool { return slices.Equal(w.states(), []CronState{CronFailed}) })
	runs, err := CronRuns(ctx, w.db.Reader(), w.app.ID)
	if err != nil || runs[0].Code != 3 || runs[0].Ended.IsZero() {
		t.Error(runs, err)
	}
	w.until("the instance is gone", func() bool {
		w.node.mu.Lock()
		defer w.node.mu.Unlock()
		return len(w.node.all) == 0
	})
	w.node.mu.Lock()
	defer w.node.mu.Unlock()
	if len(w.node.starts) != 1 || !w.node.starts[0].Job || w.node.starts[0].Process != "cleanup" || w.node.starts[0].Instance != runs[0].ID {
		t.Error(w.node.starts)
	}
}

// A job that cannot be started says why.
func TestCronRefused(t *testing.T) {
	w := newWorld(t, daily("cleanup"))
	w.node.refuse = bulwark.Failf(bulwark.KindForbidden, "The image was tampered with.")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.m.Run(ctx, nil) })
	wg.Go(func() { w.cron().Run(ctx) })
	defer wg.Wait()
	defer cancel()
	w.until("the job has failed", func() bool { return slices.Equal(w.states(), []CronState{CronFailed}) })
	runs, err := CronRuns(ctx, w.db.Reader(), w.app.ID)
	if err != nil || runs[0].Code != -1 || runs[0].Reason != "The image was tampered with." {
		t.Error(runs, err)
	}
}

// What is done about a run depends on what the node has said since it began, and on what else of its job works.
func TestCronDecisions(t *testing.T) {
	now := time.Date(2026, 3, 1, 3, 30, 0, 0, time.UTC)
	run := func(state CronState, due, started time.Time) CronRun {
		return CronRun{ID: "ins_mine", App: "app_x", Job: "cleanup", State: state, Due: due, Started: started}
	}
	instance := func(id bulwark.InstanceID, phase nodeapi.Phase) nodeapi.Instance {
		return nodeapi.Instance{Instance: id, App: "app_x", Process: "cleanup", Kind: nodeapi.KindJob, Phase: phase}
	}
	long := now.Add(-time.Hour)
	for what, c := range map[string]struct {
		run   CronRun
		once  []nodeapi.Instance
		heard bool
		want  []cronAction
	}{
		"it is due":                                    {run(CronWaiting, now, time.Time{}), nil, true, []cronAction{cronStart}},
		"nothing is known yet":                         {run(CronWaiting, now, time.Time{}), nil, false, nil},
		"nothing is known for long":                    {run(CronWaiting, long, time.Time{}), nil, false, []cronAction{cronStart}},
		"what an earlier run left works":               {run(CronWaiting, now, time.Time{}), []nodeapi.Instance{instance("ins_other", nodeapi.PhaseHealthy)}, true, []cronAction{cronStop}},
		"what an earlier run left is over":             {run(CronWaiting, now, time.Time{}), []nodeapi.Instance{instance("ins_other", nodeapi.PhaseExited)}, true, []cronAction{cronStop, cronStart}},
		"it was started, and nobody heard":             {run(CronWaiting, now, time.Time{}), []nodeapi.Instance{instance("ins_mine", nodeapi.PhaseHealthy)}, true, []cronAction{cronStart}},
		"it works":                                     {run(CronRunning, long, long), []nodeapi.Instance{instance("ins_mine", nodeapi.PhaseHealthy)}, true, nil},
		"it is over":                                   {run(CronRunning, long, long), []nodeapi.Instance{instance("ins_mine", nodeapi.PhaseExited)}, true, []cronAction{cronFinish}},
		"the node shows it nowhere":                    {run(CronRunning, long, long), nil, true, []cronAction{cronLose}},
		"the node shows it nowhere, and it just began": {run(CronRunning, now, now), nil, true, nil},
		"the node has said nothing since it began":     {run(CronRunning, long, long), nil, false, nil},
	} {
		var got []cronAction
		for _, d := range cronDecisions([]CronRun{c.run}, c.once, func(bulwark.InstanceID) bool { return c.heard }, now) {
			got = append(got, d.what)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, not %v", what, got, c.want)
		}
	}
}
