// Package build is the second step of the pipeline: what becomes of a source. The node runs the builder; this package keeps
// the record of it. Whoever owns the server can spoil the record, not the image: the node admits that by its own
// measuring.
package build

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
)

// Migrations is the schema.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "build-1", SQL: `
CREATE TABLE build (
	id        TEXT PRIMARY KEY,
	project   TEXT NOT NULL,
	app       TEXT NOT NULL REFERENCES app (id),
	number    INTEGER NOT NULL,
	operation TEXT NOT NULL UNIQUE,
	source    TEXT NOT NULL,
	state     TEXT NOT NULL,
	image     TEXT NOT NULL DEFAULT '',
	reached   TEXT NOT NULL DEFAULT '[]',
	reason    TEXT NOT NULL DEFAULT '',
	created   TEXT NOT NULL,
	ended     TEXT NOT NULL DEFAULT '',
	UNIQUE (app, number)
) STRICT`}}
}

// Begin returns the build of an operation, making it at the first time. Running an operation again keeps its build.
func Begin(ctx context.Context, d *db.DB, a *app.App, op bulwark.OperationID, source string) (id bulwark.BuildID, number uint64, err error) {
	err = d.Tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow(`SELECT id, number FROM build WHERE operation = ?`, op).Scan(&id, &number)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		id = bulwark.NewBuildID()
		if err := tx.QueryRow(`SELECT coalesce(max(number), 0) + 1 FROM build WHERE app = ?`, a.ID).Scan(&number); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO build (id, project, app, number, operation, source, state, created) VALUES (?,?,?,?,?,?,'running',?)`,
			id, a.Project, a.ID, number, op, source, time.Now().UTC().Format(time.RFC3339Nano))
		return err
	})
	return id, number, err
}

// End writes down how a build ended.
func End(ctx context.Context, d *db.DB, id bulwark.BuildID, image bulwark.Digest, reached []client.Reached, failure error) error {
	state, reason := "succeeded", ""
	if failure != nil {
		state, reason = "failed", failure.Error()
		if e, ok := errors.AsType[*bulwark.Error](failure); ok {
			reason = e.Message
		}
		if bulwark.KindOf(failure) == bulwark.KindCanceled {
			state = "canceled"
		}
	}
	b, err := json.Marshal(reached)
	if err != nil {
		return err
	}
	return d.Tx(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE build SET state = ?, image = ?, reached = ?, reason = ?, ended = ? WHERE id = ?`,
			state, image, string(b), reason, time.Now().UTC().Format(time.RFC3339Nano), id)
		return err
	})
}

// Running returns the apps whose builds run, one for each build.
func Running(ctx context.Context, q app.Queryer) ([]bulwark.AppID, error) {
	rows, err := q.QueryContext(ctx, `SELECT app FROM build WHERE state = 'running'`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []bulwark.AppID
	for rows.Next() {
		var id bulwark.AppID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

// List returns an app's builds, newest first; number 0 means all.
func List(ctx context.Context, q app.Queryer, id bulwark.AppID, number uint64) ([]client.Build, error) {
	rows, err := q.QueryContext(ctx, `SELECT number, id, operation, state, source, image, reached, reason, created, ended FROM build
		WHERE app = ? AND (number = ? OR ? = 0) ORDER BY number DESC LIMIT 100`, id, number, number)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []client.Build{}
	for rows.Next() {
		var b client.Build
		var image, reached, created, ended string
		if err := rows.Scan(&b.Number, &b.ID, &b.Operation, &b.State, &b.Commit, &image, &reached, &b.Reason, &created, &ended); err != nil {
			return nil, err
		}
		b.Image = bulwark.Digest(image)
		b.Created, _ = time.Parse(time.RFC3339Nano, created) // written above
		b.Ended, _ = time.Parse(time.RFC3339Nano, ended)     // empty while it runs
		if err := json.Unmarshal([]byte(reached), &b.Reached); err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, rows.Err()
}
