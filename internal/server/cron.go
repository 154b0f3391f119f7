package server

import (
	"context"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/instance"
	"github.com/bulwark-paas/bulwark/internal/release"
)

// cronIn names a cron job of an app.
type cronIn struct {
	AppPath
	Job bulwark.ProcessType `path:"job" doc:"name of the cron job"`
}

func (s *Server) listCron(ctx context.Context, actor access.Actor, in *AppPath) ([]client.CronJob, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	out := []client.CronJob{}
	if a.Promoted == 0 {
		return out, nil
	}
	full, err := release.Get(ctx, s.db.Reader(), a.ID, a.Promoted)
	if err != nil {
		return nil, err
	}
	runs, err := instance.CronRuns(ctx, s.db.Reader(), a.ID)
	if err != nil {
		return nil, err
	}
	for _, j := range full.Release.Plan.Cron {
		v := client.CronJob{Name: j.Name, Schedule: j.Schedule, Command: strings.Join(j.Command.Argv, " "), Runs: []client.CronRun{}}
		if schedule, err := instance.ParseSchedule(j.Schedule); err == nil {
			v.Next = schedule.Next(time.Now())
		}
		for _, r := range runs {
			if r.Job == j.Name {
				v.Runs = append(v.Runs, cronRun(r))
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func (s *Server) runCron(ctx context.Context, actor access.Actor, in *cronIn) (client.CronRun, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.CronRun{}, err
	}
	r, err := s.cron.Now(ctx, a, in.Job, actor.Person, string(access.RunCron), access.App(a.Name).String())
	return cronRun(r), err
}

func cronRun(r instance.CronRun) client.CronRun {
	v := client.CronRun{Instance: r.ID, Release: r.Release, Due: r.Due, Manual: r.Manual, State: string(r.State), Started: r.Started, Ended: r.Ended, Reason: r.Reason}
	if (r.State == instance.CronSucceeded || r.State == instance.CronFailed) && r.Code >= 0 {
		v.ExitCode = &r.Code
	}
	return v
}

// once lists what runs once of an app.
func (s *Server) once(id bulwark.AppID) []client.Instance {
	var out []client.Instance
	for _, i := range s.instances.Once(id) {
		v := client.Instance{ID: i.Instance, Name: i.Name, Process: i.Process, Release: i.Generation, State: string(i.Phase), Reason: i.Reason,
			Size: i.Size, Command: i.Command, Since: i.Since.UTC()}
		if v.Size == "" {
			v.Size = bulwark.SizeSmall
		}
		out = append(out, v)
	}
	return out
}
