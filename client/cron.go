package client

import (
	"context"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// CronJob is a cron job of the release that serves.
type CronJob struct {
	Name     bulwark.ProcessType `json:"name"`
	Schedule string              `json:"schedule" doc:"five fields, UTC"`
	Command  string              `json:"command"`
	Next     time.Time           `json:"next,omitzero" doc:"when it runs next"`
	Runs     []CronRun           `json:"runs" doc:"its last runs, newest first"`
}

// CronRun is one run of a cron job.
type CronRun struct {
	Instance bulwark.InstanceID `json:"instance"`
	Release  uint64             `json:"release"`
	Due      time.Time          `json:"due"`
	Manual   bool               `json:"manual,omitempty" doc:"somebody asked for it"`
	State    string             `json:"state" doc:"waiting, running, succeeded, failed, skipped"`
	Started  time.Time          `json:"started,omitzero"`
	Ended    time.Time          `json:"ended,omitzero"`
	ExitCode *int               `json:"exit_code,omitempty" doc:"absent if the command was not started or has not ended"`
	Reason   string             `json:"reason,omitempty"`
}

// Cron lists the cron jobs.
func (c *Client) Cron(ctx context.Context, app bulwark.AppName) ([]CronJob, error) {
	return ask[[]CronJob](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/cron", nil)
}

// RunCron has a cron job run now.
func (c *Client) RunCron(ctx context.Context, app bulwark.AppName, job bulwark.ProcessType) (CronRun, error) {
	return ask[CronRun](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/cron/"+esc(string(job))+"/run", struct{}{})
}
