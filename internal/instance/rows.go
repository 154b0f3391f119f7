package instance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// Row is one instance that should run, or should end.
type Row struct {
	ID        bulwark.InstanceID
	Project   bulwark.ProjectID
	App       bulwark.AppID
	Release   uint64
	Process   bulwark.ProcessType
	Index     int // 1, 2, …: the number in its name
	Want      bool
	Candidate bool // of a release that is not promoted: it is not started again by itself
	Crashes   int
	NotBefore time.Time
	Started   time.Time
	Reason    string
}

// Name is what users see: web.1.
func (r Row) Name() string { return fmt.Sprintf("%s.%d", r.Process, r.Index) }

// Migrations is the schema.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "instance-1", SQL: `
CREATE TABLE instance (
	id         TEXT PRIMARY KEY,
	project    TEXT NOT NULL,
	app        TEXT NOT NULL REFERENCES app (id),
	release    INTEGER NOT NULL,
	process    TEXT NOT NULL,
	number     INTEGER NOT NULL,
	want       INTEGER NOT NULL,
	candidate  INTEGER NOT NULL,
	crashes    INTEGER NOT NULL DEFAULT 0,
	not_before INTEGER NOT NULL DEFAULT 0,
	started    INTEGER NOT NULL,
	reason     TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE formation (
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id),
	process TEXT NOT NULL,
	count   INTEGER NOT NULL,
	PRIMARY KEY (app, process)
) STRICT`}, cronMigration()}
}

const columns = `id, project, app, release, process, number, want, candidate, crashes, not_before, started, reason`

func scanRow(s interface{ Scan(...any) error }) (Row, error) {
	var r Row
	var before, started int64
	err := s.Scan(&r.ID, &r.Project, &r.App, &r.Release, &r.Process, &r.Index, &r.Want, &r.Candidate, &r.Crashes, &before, &started, &r.Reason)
	r.NotBefore, r.Started = time.UnixMilli(before), time.UnixMilli(started)
	return r, err
}

// Rows returns the rows of an app, or of all.
func Rows(ctx context.Context, q app.Queryer, id bulwark.AppID) ([]Row, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+columns+` FROM instance WHERE app = ? OR ? = '' ORDER BY app, process, number, release`, id, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Row
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func rowByID(ctx context.Context, q app.Queryer, id bulwark.InstanceID) (Row, error) {
	r, err := scanRow(q.QueryRowContext(ctx, `SELECT `+columns+` FROM instance WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = bulwark.Failf(bulwark.KindNotFound, "There is no such instance.")
	}
	return r, err
}

func insert(tx *sql.Tx, r Row) error {
	_, err := tx.Exec(`INSERT INTO instance (id, project, app, release, process, number, want, candidate, started) VALUES (?,?,?,?,?,?,1,?,?)`,
		r.ID, r.Project, r.App, r.Release, r.Process, r.Index, r.Candidate, time.Now().UnixMilli())
	return err
}

// update rewrites the row that had the id old.
func update(ctx context.Context, d *db.DB, r Row, old bulwark.InstanceID) error {
	return d.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE instance SET id = ?, crashes = ?, not_before = ?, started = ?, reason = ? WHERE id = ?`,
			r.ID, r.Crashes, r.NotBefore.UnixMilli(), r.Started.UnixMilli(), r.Reason, old)
		return err
	})
}

func remove(ctx context.Context, d *db.DB, id bulwark.InstanceID) error {
	return d.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM instance WHERE id = ?`, id)
		return err
	})
}

// EndAll has every instance of an app end.
func EndAll(tx *sql.Tx, id bulwark.AppID) error {
	_, err := tx.Exec(`UPDATE instance SET want = 0 WHERE app = ?`, id)
	return err
}

// Again has an app that was brought back run as it was scaled: rows of its own, whatever is still ending.
func Again(ctx context.Context, tx *sql.Tx, a *app.App, plan bulwark.Plan) error {
	if err := EndAll(tx, a.ID); err != nil { // an operation that was cut off may have left some
		return err
	}
	formation, err := Formation(ctx, tx, a.ID, plan)
	if err != nil {
		return err
	}
	return fill(tx, a, a.Promoted, formation, false)
}

// MaxCount bounds the instances of one process type.
const MaxCount = 100

// Formation returns how many instances each process type of a plan has: as scaled, else one of web and none of others.
func Formation(ctx context.Context, q app.Queryer, id bulwark.AppID, plan bulwark.Plan) (map[bulwark.ProcessType]int, error) {
	out := map[bulwark.ProcessType]int{}
	for p := range plan.Processes {
		if p != bulwark.ProcessRelease {
			out[p] = 0
		}
	}
	if _, ok := out[bulwark.ProcessWeb]; ok {
		out[bulwark.ProcessWeb] = 1
	}
	rows, err := q.QueryContext(ctx, `SELECT process, count FROM formation WHERE app = ?`, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p bulwark.ProcessType
		var n int
		if err := rows.Scan(&p, &n); err != nil {
			return nil, err
		}
		if _, ok := out[p]; ok {
			out[p] = n
		}
	}
	return out, rows.Err()
}

func setFormation(tx *sql.Tx, a *app.App, p bulwark.ProcessType, n int) error {
	_, err := tx.Exec(`INSERT INTO formation (project, app, process, count) VALUES (?,?,?,?) ON CONFLICT (app, process) DO UPDATE SET count = excluded.count`,
		a.Project, a.ID, p, n)
	return err
}
