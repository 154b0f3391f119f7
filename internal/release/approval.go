package release

import (
	"context"
	"database/sql"
	"errors"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// approvals is the part of the schema that came with approvals. A row follows from a statement that the node accepted, and is
// for people to see; the node counts its own.
const approvals = `
CREATE TABLE approval (
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id),
	number  INTEGER NOT NULL,
	person  TEXT NOT NULL,
	PRIMARY KEY (app, number, person)
) STRICT`

// Approve notes that somebody approved a release.
func Approve(tx *sql.Tx, a *app.App, number uint64, person bulwark.PersonID) error {
	_, err := tx.Exec(`INSERT INTO approval (project, app, number, person) VALUES (?,?,?,?) ON CONFLICT DO NOTHING`, a.Project, a.ID, number, person)
	return err
}

// Wait notes that a candidate waits for approvals.
func Wait(ctx context.Context, d *db.DB, id bulwark.AppID, number uint64) error {
	return move(ctx, d, id, number, Candidate, Waiting)
}

// Resume notes that it has them, and is a candidate again.
func Resume(ctx context.Context, d *db.DB, id bulwark.AppID, number uint64) error {
	return move(ctx, d, id, number, Waiting, Candidate)
}

func move(ctx context.Context, d *db.DB, id bulwark.AppID, number uint64, from, to string) error {
	return d.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE release SET state = ? WHERE app = ? AND number = ? AND state = ?`, to, id, number, from)
		return err
	})
}

// State returns what has become of a release.
func State(ctx context.Context, q app.Queryer, id bulwark.AppID, number uint64) (state string, err error) {
	err = q.QueryRowContext(ctx, `SELECT state FROM release WHERE app = ? AND number = ?`, id, number).Scan(&state)
	if errors.Is(err, sql.ErrNoRows) {
		err = bulwark.Fail(bulwark.KindNotFound, "There is no such release.", "See bulwark releases.", nil)
	}
	return state, err
}

// Waits returns the number of the release of an app that waits for approvals, 0 if none does.
func Waits(ctx context.Context, q app.Queryer, id bulwark.AppID) (number uint64, err error) {
	err = q.QueryRowContext(ctx, `SELECT number FROM release WHERE app = ? AND state = ? ORDER BY number DESC LIMIT 1`, id, Waiting).Scan(&number)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return number, err
}

// approved fills in who approved each of an app's releases.
func approved(ctx context.Context, q app.Queryer, id bulwark.AppID, all []client.Release) error {
	rows, err := q.QueryContext(ctx, `SELECT number, person FROM approval WHERE app = ? ORDER BY rowid`, id)
	if err != nil {
		return err
	}
	defer rows.Close()
	by := map[uint64][]string{}
	for rows.Next() {
		var number uint64
		var person string
		if err := rows.Scan(&number, &person); err != nil {
			return err
		}
		by[number] = append(by[number], person)
	}
	for i := range all {
		all[i].Approved = by[all[i].Number]
	}
	return rows.Err()
}
