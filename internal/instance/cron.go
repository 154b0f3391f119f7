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
	return &Cron{m: m, log: log, now: time.Now, jobs: map[bulwark.AppID]promotedJobs{}, wake: make(chan struct{}, 1)}
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
	mine := map[bulwark.InstanceID]bool{}
	for _, r := range active {
		mine[r.ID] = true
		i, seen := c.m.State(r.ID)
		switch {
		case r.State == CronWaiting:
			c.m.do(wg, r.ID, func() { c.start(ctx, r) })
		case seen && i.Phase.Over():
			c.m.do(wg, r.ID, func() { c.finish(ctx, r, i.ExitCode, i.Reason) })
		case !seen && c.m.knows() && c.now().Sub(r.Started).Abs() > seenFor: // on either side: the clock may have been set back since
			c.m.do(wg, r.ID, func() {
				c.finish(ctx, r, -1, "it was lost with the machine's or the engine's restart, or its app was destroyed")
			})
		}
	}
	for _, i := range c.m.Once("") {
		if i.Kind == nodeapi.KindJob && !mine[i.Instance] {
			c.m.do(wg, i.Instance, func() { c.stray(ctx, i.Instance) })
		}
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
