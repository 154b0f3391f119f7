package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

func (c *cli) cronCommand() *cobra.Command {
	var detach bool
	show := c.forApp(command("show JOB", "Show the last runs of a cron job", "  $ bulwark cron show cleanup", exactly(1, "the name of a cron job"), c.showCron))
	now := c.forApp(command("run JOB", "Run a cron job now, and wait for its end", "  $ bulwark cron run cleanup\n  $ bulwark cron run cleanup --detach",
		exactly(1, "the name of a cron job"), func(ctx context.Context, args []string) error { return c.runCron(ctx, args, detach) }))
	now.Long = "Runs a cron job now, unless it runs already, and waits for its end; the exit code is the job's. Ctrl-C ends the waiting, not the job."
	now.Flags().BoolVar(&detach, "detach", false, "do not wait for its end")
	cmd := c.forApp(group("cron", "List and run cron jobs", "  $ bulwark cron\n  $ bulwark cron run cleanup", c.listCron, show, now))
	cmd.Long = `Lists the cron jobs of the release that serves, with when they run (in UTC), how they ended last and when they run next.
They are written in bulwark.toml. Each run is an instance of its own; a job that still runs when it is due again is left
out that time, and what was due while the platform was down is not made up for. What jobs print is in bulwark logs.`
	return cmd
}

func (c *cli) listCron(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	jobs, err := s.Cron(ctx, name)
	if err != nil {
		return err
	}
	return c.result(list(jobs), func() {
		if len(jobs) == 0 {
			c.empty("%s has no cron jobs. They are written in bulwark.toml.", name)
			return
		}
		rows := [][]string{{"JOB", "SCHEDULE", "LAST RUN", "", "NEXT RUN", "COMMAND"}}
		for _, j := range jobs {
			state, when := "never", ""
			if r, ok := lastRun(j.Runs); ok {
				state, when = cronState(r), ago(c.now(), cronTime(r))
			}
			rows = append(rows, []string{string(j.Name), j.Schedule, state, when, c.ahead(j.Next), j.Command})
		}
		c.table(rows)
	})
}

// lastRun is the newest run that was not left out.
func lastRun(runs []client.CronRun) (client.CronRun, bool) {
	for _, r := range runs {
		if r.State != "skipped" {
			return r, true
		}
	}
	return client.CronRun{}, false
}

// cronState says how a run stands, with the exit code of one that failed.
func cronState(r client.CronRun) string {
	if r.ExitCode != nil && *r.ExitCode != 0 {
		return fmt.Sprintf("%s (%d)", r.State, *r.ExitCode)
	}
	return r.State
}

// cronTime is when a run began, or should have.
func cronTime(r client.CronRun) time.Time {
	if r.Started.IsZero() {
		return r.Due
	}
	return r.Started
}

// ahead says when something is due.
func (c *cli) ahead(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if d := t.Sub(c.now()); d < time.Hour {
		return "in " + span(max(d, 0).Round(time.Second))
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

func (c *cli) showCron(ctx context.Context, args []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	job, err := findCron(ctx, s, name, args[0])
	if err != nil {
		return err
	}
	return c.result(job, func() {
		c.head("%s (%s): %s", job.Name, job.Schedule, job.Command)
		if len(job.Runs) == 0 {
			c.empty("It has not run yet; it does %s.", c.ahead(job.Next))
			return
		}
		var rows [][]string
		for _, r := range job.Runs {
			took := ""
			if !r.Ended.IsZero() {
				took = r.Ended.Sub(r.Started).Round(100 * time.Millisecond).String()
			}
			note := r.Reason
			if r.Manual {
				note = strings.TrimSuffix("asked for; "+note, "; ")
			}
			rows = append(rows, []string{cronTime(r).UTC().Format("2006-01-02 15:04:05 UTC"), cronState(r), took, releaseName(r.Release), note})
		}
		c.table(rows)
	})
}

func findCron(ctx context.Context, s *session, name bulwark.AppName, job string) (client.CronJob, error) {
	jobs, err := s.Cron(ctx, name)
	if err != nil {
		return client.CronJob{}, err
	}
	for _, j := range jobs {
		if string(j.Name) == job {
			return j, nil
		}
	}
	return client.CronJob{}, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("App %s has no cron job %s.", name, quote(job)), "See bulwark cron.", nil)
}

func (c *cli) runCron(ctx context.Context, args []string, detach bool) error {
	job, err := bulwark.ParseProcessType(args[0])
	if err != nil {
		return usage(err)
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	run, err := s.RunCron(ctx, name, job)
	if err != nil {
		return err
	}
	if !detach {
		err = c.during("Running "+string(job), func() error {
			run, err = ended(ctx, s, name, job, run)
			return err
		})
		if err != nil {
			return err
		}
	}
	err = c.result(run, func() {
		switch {
		case detach:
			c.say("%s is started. See bulwark cron and bulwark logs.", job)
		case run.ExitCode == nil:
			c.say("%s did not run: %s.", job, run.Reason)
		default:
			c.say("%s ended with exit code %d after %s. What it printed is in bulwark logs.", job, *run.ExitCode, run.Ended.Sub(run.Started).Round(100*time.Millisecond))
		}
	})
	if err == nil && !detach && run.State == "failed" {
		err = &exitError{exitFailure}
		if run.ExitCode != nil {
			err = &exitError{*run.ExitCode}
		}
	}
	return err
}

// ended waits until a run is over.
func ended(ctx context.Context, s *session, name bulwark.AppName, job bulwark.ProcessType, run client.CronRun) (client.CronRun, error) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		j, err := findCron(ctx, s, name, string(job))
		if err != nil {
			return run, err
		}
		for _, r := range j.Runs {
			if r.Instance == run.Instance && !r.Ended.IsZero() {
				return r, nil
			}
		}
		select {
		case <-ctx.Done():
			return run, ctx.Err()
		case <-tick.C:
		}
	}
}
