package job_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/job"
)

// step is a run of an operation that a test holds in its hand: it goes on when the test says how it ends.
type step struct {
	op  job.Operation
	ctx context.Context
	log *job.Log
	end chan error
}

// rig is an engine whose work is done by the test, over a store that outlives it.
type rig struct {
	t      *testing.T
	dir    string
	db     *db.DB
	engine *job.Engine
	steps  chan *step
	stop   context.CancelFunc
	output *syncBuffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), output: &syncBuffer{}}
	d, err := db.Open(t.Context(), filepath.Join(r.dir, "db"), job.Migrations())
	r.must(err)
	r.db = d
	t.Cleanup(func() { d.Close() })
	r.start()
	return r
}

// start makes an engine, as a new process does.
func (r *rig) start() {
	r.t.Helper()
	r.steps = make(chan *step)
	steps := r.steps
	ctx, stop := context.WithCancel(context.Background())
	e, err := job.New(r.db, filepath.Join(r.dir, "logs"), slog.New(slog.NewTextHandler(r.output, nil)), func(ctx context.Context, op job.Operation, log *job.Log) (*client.Done, error) {
		s := &step{op: op, ctx: ctx, log: log, end: make(chan error)}
		select {
		case steps <- s:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case err := <-s.end:
			return &client.Done{Release: 1}, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	r.must(err)
	r.engine, r.stop = e, stop
	r.must(e.Start(ctx))
	r.t.Cleanup(r.kill)
}

// kill ends the engine in the middle of whatever it does.
func (r *rig) kill() {
	r.stop()
	r.engine.Wait()
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) enqueue(app bulwark.AppID, kind string) bulwark.OperationID {
	r.t.Helper()
	id := bulwark.NewOperationID()
	r.must(r.db.Tx(r.t.Context(), func(tx *sql.Tx) error {
		return job.Enqueue(tx, job.Operation{ID: id, App: app, Project: "prj", Kind: kind, Cause: bulwark.Sum([]byte(id)), Note: "note"})
	}))
	r.engine.Wake()
	return id
}

// watch waits for the end of an operation and returns all its events.
func (r *rig) watch(app bulwark.AppID, id bulwark.OperationID) []client.Event {
	r.t.Helper()
	var all []client.Event
	r.must(r.engine.Watch(r.t.Context(), app, id, func(e client.Event) error {
		all = append(all, e)
		return nil
	}))
	return all
}

func (r *rig) state(app bulwark.AppID, id bulwark.OperationID) string {
	r.t.Helper()
	op, err := r.engine.Get(r.t.Context(), app, id)
	r.must(err)
	return op.State
}

type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// An operation runs to its end, and who watches sees every event, the last with its outcome, during it and long after.
func TestRun(t *testing.T) {
	r := newRig(t)
	app := bulwark.NewAppID()
	id := r.enqueue(app, "deploy")
	s := <-r.steps
	if s.op.ID != id || s.op.App != app || s.op.Note != "note" || s.op.Cause == "" {
		t.Fatalf("it runs %+v", s.op)
	}
	seen := make(chan []client.Event)
	go func() { seen <- r.watch(app, id) }()
	s.log.Stage("build")
	s.log.Say("line")
	s.end <- nil
	for _, all := range [][]client.Event{<-seen, r.watch(app, id)} {
		if len(all) != 3 || all[0].Stage != "build" || all[1].Log != "line" || all[2].Done == nil || all[2].Done.Release != 1 {
			t.Fatalf("%+v", all)
		}
	}
	if r.state(app, id) != job.Done {
		t.Fatal(r.state(app, id))
	}
	_, err := r.engine.Get(t.Context(), bulwark.NewAppID(), id) // an operation belongs to its app
	if bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Fatal(err)
	}
}

// A failure is told in its own words; one of ours stays in our log.
func TestFailure(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		kind  bulwark.Kind
		text  string
		state string
	}{
		"the user's":     {bulwark.Failf(bulwark.KindFailed, "Your build failed."), bulwark.KindFailed, "Your build failed.", job.Failed},
		"wrapped":        {fmt.Errorf("inside: %w", bulwark.Failf(bulwark.KindFailed, "Your build failed.")), bulwark.KindFailed, "Your build failed.", job.Failed},
		"ours":           {errors.New("password=hunter2"), bulwark.KindInternal, "Something went wrong inside the platform.", job.Failed},
		"ours, by kind":  {bulwark.Failf(bulwark.KindInternal, "password=hunter2"), bulwark.KindInternal, "Something went wrong inside the platform.", job.Failed},
		"a cancellation": {bulwark.Failf(bulwark.KindCanceled, "It was canceled."), bulwark.KindCanceled, "It was canceled.", job.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			app := bulwark.NewAppID()
			id := r.enqueue(app, "deploy")
			(<-r.steps).end <- c.err
			all := r.watch(app, id)
			last := all[len(all)-1].Error
			if last == nil || last.Kind != c.kind || last.Message != c.text || r.state(app, id) != c.state {
				t.Fatalf("%+v, %s", last, r.state(app, id))
			}
		})
	}
}

// One at a time and in order within an app; apps do not wait for each other.
func TestOrder(t *testing.T) {
	r := newRig(t)
	a, b := bulwark.NewAppID(), bulwark.NewAppID()
	ids := []bulwark.OperationID{r.enqueue(a, "change"), r.enqueue(a, "restart"), r.enqueue(a, "deploy")}
	first := <-r.steps
	other := r.enqueue(b, "deploy")
	if s := <-r.steps; s.op.ID != other { // a's second would come here if two ran at a time
		t.Fatalf("%s runs", s.op.Kind)
	} else {
		s.end <- nil
	}
	if r.state(a, ids[1]) != job.Waiting {
		t.Fatal(r.state(a, ids[1]))
	}
	var ran []bulwark.OperationID
	for s := first; ; s = <-r.steps {
		ran = append(ran, s.op.ID)
		s.end <- nil
		if len(ran) == 3 {
			break
		}
	}
	if !slices.Equal(ran, ids) {
		t.Fatalf("%v ran, want %v", ran, ids)
	}
}

// A newer deploy takes the place of one that waits, not of the one that runs and not of another kind; who watched the old
// one is told.
func TestReplaced(t *testing.T) {
	r := newRig(t)
	app := bulwark.NewAppID()
	running := r.enqueue(app, "deploy")
	s := <-r.steps
	waiting, change := r.enqueue(app, "deploy"), r.enqueue(app, "change")
	seen := make(chan []client.Event)
	go func() { seen <- r.watch(app, waiting) }()
	newest := r.enqueue(app, "deploy")
	all := <-seen
	if len(all) != 1 || all[0].Error == nil || all[0].Error.Kind != bulwark.KindConflict {
		t.Fatalf("%+v", all)
	}
	s.end <- nil
	for _, want := range []bulwark.OperationID{change, newest} {
		s := <-r.steps
		if s.op.ID != want {
			t.Fatalf("a %s ran", s.op.Kind)
		}
		s.end <- nil
		r.watch(app, want)
	}
	for id, want := range map[bulwark.OperationID]string{running: job.Done, waiting: job.Replaced, change: job.Done, newest: job.Done} {
		if got := r.state(app, id); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Cancel ends what runs with the reason that was given, and what waits before it begins; other kinds and apps go on.
func TestCancel(t *testing.T) {
	r := newRig(t)
	a, b := bulwark.NewAppID(), bulwark.NewAppID()
	runs := r.enqueue(a, "deploy")
	s := <-r.steps
	waits, change, other := r.enqueue(a, "deploy"), r.enqueue(a, "change"), r.enqueue(b, "deploy")
	bs := <-r.steps
	reason := bulwark.Failf(bulwark.KindCanceled, "Somebody stopped it.")
	if any, err := r.engine.Cancel(t.Context(), a, "deploy", reason); err != nil || !any {
		t.Fatal(any, err)
	}
	<-s.ctx.Done()
	all := r.watch(a, runs)
	if e := all[len(all)-1].Error; e == nil || e.Message != "Somebody stopped it." {
		t.Fatalf("%+v", all)
	}
	if all := r.watch(a, waits); len(all) != 1 || all[0].Error == nil || all[0].Error.Kind != bulwark.KindCanceled {
		t.Fatalf("%+v", all)
	}
	next := <-r.steps
	if next.op.ID != change || bs.op.ID != other || bs.ctx.Err() != nil {
		t.Fatalf("a %s runs", next.op.Kind)
	}
	next.end <- nil
	bs.end <- nil
	r.watch(a, change)
	r.watch(b, other)
	if any, err := r.engine.Cancel(t.Context(), a, "", reason); err != nil || any {
		t.Fatal(any, err)
	}
	if r.state(a, runs) != job.Canceled || r.state(a, waits) != job.Canceled {
		t.Fatal(r.state(a, runs), r.state(a, waits))
	}
}

// A process that dies in the middle leaves the operation as it was; the next one runs it again, from its beginning and once,
// and who watches over both sees it end.
func TestResumed(t *testing.T) {
	r := newRig(t)
	app := bulwark.NewAppID()
	cut, behind := r.enqueue(app, "deploy"), r.enqueue(app, "change")
	(<-r.steps).log.Say("first run")
	r.kill()
	if r.state(app, cut) != job.Running {
		t.Fatalf("it was left %s", r.state(app, cut))
	}
	r.start()
	s := <-r.steps
	if s.op.ID != cut {
		t.Fatalf("a %s ran before it", s.op.Kind)
	}
	s.log.Say("second run")
	s.end <- nil
	all := r.watch(app, cut)
	if len(all) != 3 || all[0].Log != "first run" || all[1].Log != "second run" || all[2].Done == nil {
		t.Fatalf("%+v", all)
	}
	(<-r.steps).end <- nil
	r.watch(app, behind)
	if r.state(app, cut) != job.Done || r.state(app, behind) != job.Done {
		t.Fatal(r.state(app, cut), r.state(app, behind))
	}
}

// What was done before the process ended is not done again.
func TestNotRepeated(t *testing.T) {
	r := newRig(t)
	app := bulwark.NewAppID()
	done := r.enqueue(app, "deploy")
	(<-r.steps).end <- nil
	r.watch(app, done)
	r.kill()
	r.start()
	next := r.enqueue(app, "deploy")
	s := <-r.steps
	if s.op.ID != next {
		t.Fatal("what was done ran again")
	}
	s.end <- nil
	r.watch(app, next)
}

// An operation exists exactly if the change that caused it does.
func TestEnqueueIsPartOfTheChange(t *testing.T) {
	r := newRig(t)
	app, id := bulwark.NewAppID(), bulwark.NewOperationID()
	failed := errors.New("the change failed")
	err := r.db.Tx(t.Context(), func(tx *sql.Tx) error {
		return errors.Join(job.Enqueue(tx, job.Operation{ID: id, App: app, Kind: "deploy"}), failed)
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if _, err := r.engine.Get(t.Context(), app, id); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Fatal(err)
	}
}

// Who watches and goes away holds nothing up.
func TestWatcherGoes(t *testing.T) {
	r := newRig(t)
	app := bulwark.NewAppID()
	id := r.enqueue(app, "deploy")
	s := <-r.steps
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { gone <- r.engine.Watch(ctx, app, id, func(client.Event) error { leave(); return nil }) }()
	s.log.Say("line")
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s.end <- nil
	r.watch(app, id)
}

// The logs of the newest hundred operations of an app are kept; of older ones who watches learns what they came to. Another app's are not
// touched.
func TestOldLogs(t *testing.T) {
	r := newRig(t)
	app, other := bulwark.NewAppID(), bulwark.NewAppID()
	once := func(app bulwark.AppID) bulwark.OperationID {
		id := r.enqueue(app, "deploy")
		s := <-r.steps
		s.log.Say("line")
		s.end <- nil
		r.watch(app, id)
		return id
	}
	theirs, first := once(other), once(app)
	var last bulwark.OperationID
	for range 101 {
		last = once(app)
	}
	r.kill() // what the last end removes is removed
	r.start()
	if all := r.watch(app, first); len(all) != 1 || all[0].Done == nil {
		t.Errorf("the oldest: %+v", all)
	}
	for a, id := range map[bulwark.AppID]bulwark.OperationID{app: last, other: theirs} {
		if all := r.watch(a, id); len(all) != 2 {
			t.Errorf("%s: %+v", a, all)
		}
	}
	left, err := filepath.Glob(filepath.Join(r.dir, "logs", "*"))
	r.must(err)
	if len(left) != 101 {
		t.Errorf("%d logs are kept", len(left))
	}
}
