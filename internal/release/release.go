// Package release is the fourth step of the pipeline: numbered, immutable releases, first candidates, then promoted. What a
// release is made of was decided and signed by the node; a row here keeps the bundle, to be handed back at each start.
//
// Whoever owns the server can withhold a bundle, not write one.
package release

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// The states of a release.
const (
	Candidate  = "candidate"
	Waiting    = "waiting" // for the approval of others
	Promoted   = "promoted"
	Superseded = "superseded"
	Failed     = "failed"
)

// Migrations is the schema.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "release-1", SQL: `
CREATE TABLE release (
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id),
	number  INTEGER NOT NULL,
	state   TEXT NOT NULL,
	bundle  TEXT NOT NULL,
	note    TEXT NOT NULL,
	reason  TEXT NOT NULL DEFAULT '',
	PRIMARY KEY (app, number)
) STRICT`}, {ID: "release-2", SQL: `ALTER TABLE release ADD COLUMN prepared INTEGER NOT NULL DEFAULT 0`},
		{ID: "release-3", SQL: approvals}}
}

// Insert keeps a release that the node made, as a candidate; older ones that waited for an approval wait no more. Running an
// operation again finds the row.
func Insert(ctx context.Context, d *db.DB, r *nodeapi.Released, note string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return d.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO release (project, app, number, state, bundle, note) VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING`,
			r.Release.Project, r.Release.App, r.Release.Generation, Candidate, string(b), note)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE release SET state = ? WHERE app = ? AND state = ? AND number < ?`, Superseded, r.Release.App, Waiting, r.Release.Generation)
		return err
	})
}

// Promote marks number as the one that serves.
func Promote(tx *sql.Tx, id bulwark.AppID, number uint64) error {
	if _, err := tx.Exec(`UPDATE release SET state = ? WHERE app = ? AND state = ? AND number <> ?`, Superseded, id, Promoted, number); err != nil {
		return err
	}
	_, err := tx.Exec(`UPDATE release SET state = ?, reason = '' WHERE app = ? AND number = ?`, Promoted, id, number)
	return err
}

// Prepared tells whether the release command of a release has ended well.
func Prepared(ctx context.Context, q app.Queryer, id bulwark.AppID, number uint64) (done bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT prepared FROM release WHERE app = ? AND number = ?`, id, number).Scan(&done)
	return done, err
}

// SetPrepared notes that it has, so that an operation that is run again does not repeat it.
func SetPrepared(ctx context.Context, d *db.DB, id bulwark.AppID, number uint64) error {
	return d.Tx(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE release SET prepared = 1 WHERE app = ? AND number = ?`, id, number)
		return err
	})
}

// Fail marks a candidate that did not become healthy.
func Fail(ctx context.Context, d *db.DB, id bulwark.AppID, number uint64, failure error) error {
	reason := "it failed"
	if e, ok := errors.AsType[*bulwark.Error](failure); ok {
		reason = e.Message
	}
	return d.Tx(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE release SET state = ?, reason = ? WHERE app = ? AND number = ? AND state = ?`, Failed, reason, id, number, Candidate)
		return err
	})
}

// Get returns a release with its bundle.
func Get(ctx context.Context, q app.Queryer, id bulwark.AppID, number uint64) (*nodeapi.Released, error) {
	var b string
	err := q.QueryRowContext(ctx, `SELECT bundle FROM release WHERE app = ? AND number = ?`, id, number).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, bulwark.Fail(bulwark.KindNotFound, "There is no such release.", "See bulwark releases.", nil)
	}
	if err != nil {
		return nil, err
	}
	var r nodeapi.Released
	return &r, json.Unmarshal([]byte(b), &r)
}

// List returns an app's releases, newest first.
func List(ctx context.Context, q app.Queryer, id bulwark.AppID) ([]client.Release, error) {
	rows, err := q.QueryContext(ctx, `SELECT number, state, bundle, note, reason FROM release WHERE app = ? ORDER BY number DESC LIMIT 200`, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []client.Release{}
	for rows.Next() {
		var r client.Release
		var b string
		var full nodeapi.Released
		if err := rows.Scan(&r.Number, &r.State, &b, &r.Note, &r.Reason); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(b), &full); err != nil {
			return nil, err
		}
		r.Image, r.Config, r.Cause = full.Release.Image, full.Release.Config.Revision, string(full.Release.Cause.Kind)
		r.Person, r.Created = string(full.Release.Cause.Person), full.Release.Time.Truncate(time.Second)
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return out, approved(ctx, q, id, out)
}
