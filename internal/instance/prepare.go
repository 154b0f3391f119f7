package instance

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
)

// releaseTime is how long a release command may take.
const releaseTime = 20 * time.Minute

// Prepare runs a release's release command, if it has one, before any instance of it starts: once, in an instance of the
// new release with the new config. What serves goes on meanwhile and is untouched if the command fails.
func (m *Manager) Prepare(ctx context.Context, a *app.App, full *nodeapi.Released, log *job.Log) error {
	r := full.Release
	if _, ok := r.Plan.Processes[bulwark.ProcessRelease]; !ok {
		return nil
	}
	done, err := release.Prepared(ctx, m.db.Reader(), a.ID, r.Generation)
	if err != nil || done {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, releaseTime, bulwark.Fail(bulwark.KindFailed,
		fmt.Sprintf("The release command took longer than %d minutes and was stopped.", int(releaseTime.Minutes())),
		"What served before still does; see the lines above.", nil))
	defer cancel()
	log.Say("-----> Running the release command")
	row, err := m.prepareRow(ctx, a, r.Generation)
	if err != nil {
		return err
	}
	code, err := m.finished(ctx, row, log)
	if werr := m.Withdraw(ctx, a, r.Generation); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return bulwark.Fail(bulwark.KindFailed, fmt.Sprintf("The release command failed with exit code %d.", code),
			"What served before still does; see the lines above.", nil)
	}
	return release.SetPrepared(ctx, m.db, a.ID, r.Generation)
}

// prepareRow returns the row of the release command's one instance, of an earlier run of the operation if there is one.
func (m *Manager) prepareRow(ctx context.Context, a *app.App, number uint64) (Row, error) {
	rows, err := Rows(ctx, m.db.Reader(), a.ID)
	if err != nil {
		return Row{}, err
	}
	for _, r := range rows {
		if r.Release == number && r.Process == bulwark.ProcessRelease && r.Want {
			return r, nil
		}
	}
	r := Row{ID: bulwark.NewInstanceID(), Project: a.Project, App: a.ID, Release: number, Process: bulwark.ProcessRelease, Index: 1, Candidate: true, Want: true}
	err = m.db.Tx(ctx, func(tx *sql.Tx) error { return insert(tx, r) })
	m.Kick()
	return r, err
}

// finished waits for the end of an instance, with its output in the operation's log, and returns its exit code.
func (m *Manager) finished(ctx context.Context, row Row, log *job.Log) (int, error) {
	var output sync.WaitGroup
	reading := false
	for {
		changed := m.Changed()
		i, ok := m.State(row.ID)
		if ok && !reading {
			reading = true
			output.Go(func() { m.echo(ctx, row.ID, log) })
		}
		if ok && i.Phase.Over() {
			output.Wait()
			return i.ExitCode, nil
		}
		if !ok {
			if r, err := rowByID(ctx, m.db.Reader(), row.ID); err == nil && r.Crashes > 0 {
				return 0, failed(r, r.Reason)
			}
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// lastWords copies the end of an instance's output into the operation's log: most often it says what is wrong.
func (m *Manager) lastWords(ctx context.Context, r Row, log *job.Log) {
	first := true
	err := nodeapi.Stream(ctx, m.client, "logs", nodeapi.Logs{Instance: r.ID, Tail: 20}, func(l nodeapi.LogLine) error {
		if first {
			first = false
			log.Say(fmt.Sprintf("-----> The last lines of %s", r.Name()))
		}
		log.Say("       " + l.Text)
		return nil
	})
	if err != nil {
		m.log.Debug("an instance's output cannot be read", "instance", r.ID, "error", err)
	}
}

// echo copies an instance's output into the operation's log until the instance has ended.
func (m *Manager) echo(ctx context.Context, id bulwark.InstanceID, log *job.Log) {
	err := nodeapi.Stream(ctx, m.client, "logs", nodeapi.Logs{Instance: id, Follow: true, UntilEnd: true}, func(l nodeapi.LogLine) error {
		log.Say("       " + l.Text)
		return nil
	})
	if err != nil && ctx.Err() == nil {
		m.log.Warn("the release command's output was not read to its end", "error", err)
	}
}
