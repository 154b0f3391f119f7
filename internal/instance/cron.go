package instance

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
)

// Cron runs the cron jobs of the releases that serve: each in an instance of its own, one run of a job at a time. What was
// missed while the server was down is not made up for: a job that must not be missed looks at what there is to do.
type Cron struct {
	m    *Manager
	log  *slog.Logger
	now  func() time.Time
	last time.Time                      // the minute that was looked at
	jobs map[bulwark.AppID]promotedJobs // of the releases that serve

	wake chan struct{}

	mu    sync.Mutex                    // guards what follows
	began map[bulwark.InstanceID]uint64 // how many of the node's lists were seen when a run began, of those that this server began
}

// promotedJobs are the jobs of a release.
type promotedJobs struct {
	release uint64
	jobs    []bulwark.CronJob
}

// The patience of a run.
const (
	startFor = 10 * time.Minute // with a node that is away
	seenFor  = 30 * time.Second // with an instance that the node does not show
)

// NewCron makes the scheduler; it sees instances through m.
func NewCron(m *Manager, log *slog.Logger) *Cron {
	return &Cron{m: m, log: log, now: time.Now, jobs: map[bulwark.AppID]promotedJobs{}, began: map[bulwark.InstanceID]uint64{}, wake: make(chan struct{}, 1)}
}

// Run runs jobs until ctx ends.
func (c *Cron) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		changed := c.m.Changed()
		c.due(ctx)
		c.advance(ctx, &wg)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-c.wake:
		case <-tick.C:
		}
	}
}

// due makes the runs of a minute, once.
func (c *Cron) due(ctx context.Context) {
	minute := c.now().UTC().Truncate(time.Minute)
	if minute.Equal(c.last) {
		return
	}
	apps, err := app.Everywhere(ctx, c.m.db.Reader())
	if err != nil {
		c.log.Error("apps cannot be read", "error", err)
		return
	}
	for _, a := range apps {
		jobs, err := c.of(ctx, &a)
		if err != nil {
			c.log.Error("a release cannot be read", "app", a.Name, "error", err)
			continue
		}
		for _, j := range jobs {
			if s, err := ParseSchedule(j.Schedule); err == nil && s.Matches(minute) {
				c.enqueue(ctx, &a, j.Name, minute)
			}
		}
	}
	c.last = minute
}

// of returns the jobs of the release of an app that serves.
func (c *Cron) of(ctx context.Context, a *app.App) ([]bulwark.CronJob, error) {
	if a.Promoted == 0 {
		return nil, nil
	}
	if have, ok := c.jobs[a.ID]; ok && have.release == a.Promoted {
		return have.jobs, nil
	}
	full, err := release.Get(ctx, c.m.db.Reader(), a.ID, a.Promoted)
	if err != nil {
		return nil, err
	}
	c.jobs[a.ID] = promotedJobs{a.Promoted, full.Release.Plan.Cron}
	return full.Release.Plan.Cron, nil
}

func (c *Cron) enqueue(ctx context.Context, a *app.App, job bulwark.ProcessType, minute time.Time) {
	var state CronState
	err := c.m.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		state, err = insertCron(tx, CronRun{ID: bulwark.NewInstanceID(), Project: a.Project, App: a.ID, Release: a.Promoted, Job: job, Due: minute})
		return err
	})
	switch {
	case err != nil:
		c.log.Error("a cron run cannot be written", "app", a.Name, "job", job, "error", err)
	case state == CronSkipped:
		c.log.Info("a cron run was skipped: the one before it still goes on", "app", a.Name, "job", job)
	}
}

// Now makes a run of a job at once, because a person asks for it.
func (c *Cron) Now(ctx context.Context, a *app.App, job bulwark.ProcessType, person bulwark.PersonID, action, resource string) (CronRun, error) {
	none := bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("App %s has no cron job %s.", a.Name, job), "See bulwark cron.", nil)
	if a.Promoted == 0 {
		return CronRun{}, none
	}
	full, err := release.Get(ctx, c.m.db.Reader(), a.ID, a.Promoted)
	if err != nil {
		return CronRun{}, err
	}
	if !slices.ContainsFunc(full.Release.Plan.Cron, func(j bulwark.CronJob) bool { return j.Name == job }) {
		return CronRun{}, none
	}
	r := CronRun{ID: bulwark.NewInstanceID(), Project: a.Project, App: a.ID, Release: a.Promoted, Job: job, Due: c.now().UTC().Truncate(time.Millisecond),
		Manual: true, State: CronWaiting}
	err = c.m.db.Tx(ctx, func(tx *sql.Tx) error {
		state, err := insertCron(tx, r)
		if err == nil && state == CronSkipped {
			err = bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The cron job %s runs already.", job), "Wait for its end, see bulwark cron.", nil)
		}
		if err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Entry{Project: a.Project, Actor: person, Action: action, Resource: resource, Outcome: "accepted", Detail: string(job)})
	})
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return r, err
}

// advance takes each run a step further, and stops the instances of those that are over.
func (c *Cron) advance(ctx context.Context, wg *sync.WaitGroup) {
	active, err := activeCron(ctx, c.m.db.Reader())
	if err != nil {
		c.log.Error("cron runs cannot be read", "error", err)
		return
	}
	heard := c.heard() // before the list is read, which may be newer then, and never older
	for _, d := range cronDecisions(active, c.m.Once(""), heard, c.now()) {
		c.m.do(wg, d.id, func() { c.carryOut(ctx, d) })
	}
}

// cronDecision is what is to be done about a run, or about an instance of none.
type cronDecision struct {
	id   bulwark.InstanceID
	what cronAction
	run  CronRun
	seen nodeapi.Instance
}

// cronAction is what a run needs.
type cronAction int

const (
	cronStart cronAction = iota
	cronFinish
	cronLose // its instance is nowhere
	cronStop // the instance of a run that is over
)

// cronDecisions is what is to be done about all runs: a pure function of those that are not over, of what runs once as the node says, of
// of whether the node has said anything since the server's start, or since a run's, and of the time.
func cronDecisions(active []CronRun, once []nodeapi.Instance, heard func(since bulwark.InstanceID) bool, now time.Time) (out []cronDecision) {
	mine, seen, busy := map[bulwark.InstanceID]bool{}, map[bulwark.InstanceID]nodeapi.Instance{}, map[cronJob]bulwark.InstanceID{}
	for _, r := range active {
		mine[r.ID] = true
	}
	for _, i := range once {
		if i.Kind != nodeapi.KindJob {
			continue
		}
		if seen[i.Instance] = i; !mine[i.Instance] {
			out = append(out, cronDecision{id: i.Instance, what: cronStop})
		}
		if !i.Phase.Over() {
			busy[cronJob{i.App, i.Process}] = i.Instance
		}
	}
	for _, r := range active {
		i, ok := seen[r.ID]
		other, taken := busy[cronJob{r.App, r.Job}]
		switch {
		case r.State == CronWaiting:
			// What an earlier run left behind still works, or may: who comes up does not know before the node has said so.
			if taken && other != r.ID || !heard("") && now.Sub(r.Due).Abs() < startFor {
				continue
			}
			out = append(out, cronDecision{r.ID, cronStart, r, i})
		case ok && i.Phase.Over():
			out = append(out, cronDecision{r.ID, cronFinish, r, i})
		case !ok && heard(r.ID) && now.Sub(r.Started).Abs() > seenFor: // on either side: the clock may have been set back since
			out = append(out, cronDecision{r.ID, cronLose, r, i})
		}
	}
	return out
}

// heard returns what tells whether the node has said what runs since a run began, or, for a run of an earlier server or none, since the start.
func (c *Cron) heard() func(bulwark.InstanceID) bool {
	lists := c.m.lists()
	return func(since bulwark.InstanceID) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return lists > c.began[since]
	}
}

// cronJob is a job of an app.
type cronJob struct {
	app bulwark.AppID
	job bulwark.ProcessType
}

func (c *Cron) carryOut(ctx context.Context, d cronDecision) {
	switch d.what {
	case cronStart:
		c.start(ctx, d.run)
	case cronFinish:
		c.finish(ctx, d.run, d.seen.ExitCode, d.seen.Reason)
	case cronLose:
		c.finish(ctx, d.run, -1, "it was lost with the machine's or the engine's restart, or its app was destroyed")
	case cronStop:
		c.stray(ctx, d.id)
	}
}

func (c *Cron) start(ctx context.Context, r CronRun) {
	if state, err := cronState(ctx, c.m.db.Reader(), r.ID); err != nil || state != CronWaiting {
		return // what was seen is old
	}
	a, err := app.ByID(ctx, c.m.db.Reader(), r.App)
	if err == nil {
		r.Release = a.Promoted // the newest word on what the job is
		var full *nodeapi.Released
		if full, err = release.Get(ctx, c.m.db.Reader(), r.App, r.Release); err == nil {
			err = c.m.node.Call(ctx, "start", nodeapi.Start{Bundle: full.Bundle, Instance: r.ID, Process: r.Job, Job: true}, nil)
		}
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		r.State, r.Started = CronRunning, c.now()
		c.mu.Lock()
		c.began[r.ID] = c.m.lists()
		c.mu.Unlock()
		c.write(ctx, r)
	case bulwark.KindOf(err) == bulwark.KindUnavailable && c.now().Sub(r.Due) < startFor:
		c.log.Debug("a cron run waits for the node", "job", r.Job, "error", err)
	default:
		c.log.Warn("a cron run was not started", "job", r.Job, "error", err)
		reason := "it cannot be started"
		if e, ok := asUser(err); ok {
			reason = e.Message
		}
		c.finish(ctx, r, -1, reason)
	}
}

// finish notes how a run ended. Its instance is a stray then, and stopped as one.
func (c *Cron) finish(ctx context.Context, r CronRun, code int, reason string) {
	r.State, r.Ended, r.Code, r.Reason = CronFailed, c.now(), code, reason
	if code == 0 {
		r.State = CronSucceeded
	}
	if r.Started.IsZero() {
		r.Started = r.Ended
	}
	c.mu.Lock()
	delete(c.began, r.ID)
	c.mu.Unlock()
	c.write(ctx, r)
}

func (c *Cron) write(ctx context.Context, r CronRun) {
	if err := updateCron(ctx, c.m.db, r); err != nil && ctx.Err() == nil {
		c.log.Error("a cron run cannot be written", "job", r.Job, "error", err)
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// stray stops an instance without a run that goes on, after a second look.
func (c *Cron) stray(ctx context.Context, id bulwark.InstanceID) {
	if state, err := cronState(ctx, c.m.db.Reader(), id); err != nil || state == CronWaiting || state == CronRunning {
		return
	}
	c.m.stop(ctx, id, 10*time.Second)
}
