package instance

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// CronRun is one run of a cron job, under the id of its instance. Its row is apart from those of services: nothing that keeps
// those up, counts or routes them looks here.
type CronRun struct {
	ID      bulwark.InstanceID
	Project bulwark.ProjectID
	App     bulwark.AppID
	Release uint64
	Job     bulwark.ProcessType
	Due     time.Time // the minute that it is for
	Manual  bool      // somebody asked for it
	State   CronState
	Started time.Time
	Ended   time.Time
	Code    int // exit code; 0 if it was not started
	Reason  string
}

// CronState is where a run stands.
type CronState string

// The states. A run that was skipped or that could not be started has no exit code.
const (
	CronWaiting   CronState = "waiting"
	CronRunning   CronState = "running"
	CronSucceeded CronState = "succeeded"
	CronFailed    CronState = "failed"
	CronSkipped   CronState = "skipped"
)

// keepRuns is how many runs of a job are kept.
const keepRuns = 50

// cronMigration is the schema; the index has a minute's run made once, whatever the clock and the server do.
func cronMigration() db.Migration {
	return db.Migration{ID: "instance-cron-1", SQL: `
CREATE TABLE cron_run (
	id      TEXT PRIMARY KEY,
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id),
	release INTEGER NOT NULL,
	job     TEXT NOT NULL,
	due     INTEGER NOT NULL,
	manual  INTEGER NOT NULL,
	state   TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'skipped')),
	started INTEGER NOT NULL DEFAULT 0,
	ended   INTEGER NOT NULL DEFAULT 0,
	code    INTEGER NOT NULL DEFAULT 0,
	reason  TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX cron_run_due ON cron_run (app, job, due) WHERE manual = 0;
CREATE INDEX cron_run_job ON cron_run (app, job, due);
CREATE INDEX cron_run_active ON cron_run (state) WHERE state IN ('waiting', 'running')`}
}

const cronColumns = `id, project, app, release, job, due, manual, state, started, ended, code, reason`

func scanCron(s interface{ Scan(...any) error }) (CronRun, error) {
	var r CronRun
	var due, started, ended int64
	err := s.Scan(&r.ID, &r.Project, &r.App, &r.Release, &r.Job, &due, &r.Manual, &r.State, &started, &ended, &r.Code, &r.Reason)
	r.Due, r.Started, r.Ended = instant(due), instant(started), instant(ended)
	return r, err
}

// instant reads a time that may be none.
func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func cronRows(ctx context.Context, q app.Queryer, where string, args ...any) ([]CronRun, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+cronColumns+` FROM cron_run WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []CronRun
	for rows.Next() {
		r, err := scanCron(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// activeCron returns the runs that are not over.
func activeCron(ctx context.Context, q app.Queryer) ([]CronRun, error) {
	return cronRows(ctx, q, `state IN ('waiting', 'running') ORDER BY due`)
}

// CronRuns returns the last runs of an app's jobs, newest first.
func CronRuns(ctx context.Context, q app.Queryer, id bulwark.AppID) ([]CronRun, error) {
	return cronRows(ctx, q, `app = ? ORDER BY rowid DESC`, id) // in the order of their making, whatever the clock said
}

// insertCron adds a run. One for a minute that has its run already is left out, one beside a run that goes on is skipped; it
// tells which state the run came to have, "" for none.
func insertCron(tx *sql.Tx, r CronRun) (CronState, error) {
	var active int
	if err := tx.QueryRow(`SELECT count(*) FROM cron_run WHERE app = ? AND job = ? AND state IN ('waiting', 'running')`, r.App, r.Job).Scan(&active); err != nil {
		return "", err
	}
	r.State = CronWaiting
	if active > 0 {
		r.State, r.Reason = CronSkipped, "the run before it still goes on"
	}
	res, err := tx.Exec(`INSERT INTO cron_run (`+cronColumns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`,
		r.ID, r.Project, r.App, r.Release, r.Job, milli(r.Due), r.Manual, r.State, 0, 0, 0, r.Reason)
	if err != nil {
		return "", err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return "", err
	}
	_, err = tx.Exec(`DELETE FROM cron_run WHERE app = ? AND job = ? AND state NOT IN ('waiting', 'running') AND id NOT IN
		(SELECT id FROM cron_run WHERE app = ? AND job = ? ORDER BY rowid DESC LIMIT ?)`, r.App, r.Job, r.App, r.Job, keepRuns)
	return r.State, err
}

func updateCron(ctx context.Context, d *db.DB, r CronRun) error {
	return d.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE cron_run SET release = ?, state = ?, started = ?, ended = ?, code = ?, reason = ? WHERE id = ?`,
			r.Release, r.State, milli(r.Started), milli(r.Ended), r.Code, r.Reason, r.ID)
		return err
	})
}

// cronState returns how a run stands; one that is not there is over.
func cronState(ctx context.Context, q app.Queryer, id bulwark.InstanceID) (state CronState, err error) {
	err = q.QueryRowContext(ctx, `SELECT state FROM cron_run WHERE id = ?`, id).Scan(&state)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return state, err
}
