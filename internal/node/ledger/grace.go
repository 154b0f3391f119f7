package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// An app that was destroyed is kept for a while, the grace, and its owners can bring it back: destroyed is 1. Nothing starts,
// builds, is released or is read of it meanwhile, because every look-up but those in this file takes apps with destroyed 0
// alone. When the grace is over, destroyed is 2 for ever: name, hosts and values are gone, and what it was stays as history.
//
// How long the grace is was decided by the node when the app was destroyed, and is counted in time that the node has itself
// lived through: by the monotonic clock, summed over its starts. The clock of the machine has no say in it. One that jumps a
// year forward, while the node runs or between two starts, ends no grace, and one that jumps back keeps none for ever. Time
// during which the node did not run is not counted, and neither is up to a minute of each run that was cut off: a grace may
// be longer than was said, and never shorter.

func graceMigrations() []db.Migration {
	return []db.Migration{{ID: "ledger-grace", SQL: `
ALTER TABLE app ADD COLUMN grace INTEGER NOT NULL DEFAULT 0; -- ms, while destroyed is 1
ALTER TABLE app ADD COLUMN lived INTEGER NOT NULL DEFAULT 0; -- ms of it that have been counted
UPDATE app SET destroyed = 2 WHERE destroyed <> 0; -- there was no grace, and nothing of them is left
DROP INDEX app_name;
CREATE UNIQUE INDEX app_name ON app (name) WHERE destroyed < 2;
`}}
}

// nowFor is how old, or how far in the future, a statement may be that ends an app for good when it comes: a server that held
// one back must not use it after the app was brought back, or destroyed with a grace.
const nowFor = 10 * time.Minute

// keptApp returns an app that is there or in its grace, and whether it is in its grace: of it, what the statements here need.
func keptApp(q queryer, id bulwark.AppID) (a *App, org bulwark.OrgID, graced bool, err error) {
	a = &App{ID: id}
	err = q.QueryRow(`SELECT a.name, a.project, a.promoted, a.config, a.destroyed, p.org FROM app a JOIN project p ON p.id = a.project WHERE a.id = ? AND a.destroyed < 2`, id).
		Scan(&a.Name, &a.Project, &a.Promoted, &a.Config, &graced, &org)
	if errors.Is(err, sql.ErrNoRows) {
		err = bulwark.NoSuchApp()
	}
	return a, org, graced, err
}

// destroyedTo returns an app that is in its grace, to who may look at it; to anybody else it is as one that is there, and nil.
func destroyedTo(q queryer, p *Principal, id bulwark.AppID) *App {
	app, org, graced, err := keptApp(q, id)
	if err == nil && graced && right.Has(p.Grants, org, app.Project, bulwark.Owner, bulwark.Developer, bulwark.Viewer, bulwark.Auditor) {
		return app
	}
	return nil
}

// destroyApp begins the grace, or ends the app for good if its owner says so or the node gives none.
func (l *Ledger) destroyApp(tx *sql.Tx, s *statement.Statement, b statement.AppDestroy, r *Receipt) error {
	app, _, graced, err := keptApp(tx, s.App)
	if err != nil {
		return err
	}
	if b.Name != app.Name {
		return bulwark.Invalid("The statement names another app.", "")
	}
	if b.Now && l.now().Sub(s.Time).Abs() > nowFor {
		return bulwark.Fail(bulwark.KindForbidden, "A statement that ends an app for good is good for minutes, and this one is too old.",
			"Run the command again; if it is refused again, set this machine's clock.", nil)
	}
	switch {
	case b.Now:
		return finish(tx, app.ID)
	case graced:
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s was destroyed before.", app.Name),
			fmt.Sprintf("Bring it back with bulwark apps restore %[1]s, or end it for good with bulwark apps destroy %[1]s --now.", app.Name), nil)
	case l.grace == 0:
		return finish(tx, app.ID)
	}
	// What has gone by since the last count will be added by the next, and was before this grace.
	before := l.ran() - l.counted
	until := l.now().Add(l.grace).UTC().Truncate(time.Second)
	r.Until = &until
	_, err = tx.Exec(`UPDATE app SET destroyed = 1, grace = ?, lived = ? WHERE id = ?`, l.grace.Milliseconds(), -before.Milliseconds(), app.ID)
	return err
}

// restoreApp brings an app back as it was: nothing of it had been taken away.
func restoreApp(tx *sql.Tx, id bulwark.AppID, b statement.AppRestore, r *Receipt) error {
	app, _, graced, err := keptApp(tx, id)
	if err != nil {
		return err
	}
	if b.Name != app.Name {
		return bulwark.Invalid("The statement names another app.", "")
	}
	if !graced {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s was not destroyed, so there is nothing to restore.", app.Name), "See bulwark apps info.", nil)
	}
	r.Promoted = app.Promoted
	_, err = tx.Exec(`UPDATE app SET destroyed = 0, grace = 0, lived = 0 WHERE id = ?`, app.ID)
	return err
}

// finish forgets an app's name, hosts and values for ever; its releases and documents stay as history.
func finish(tx *sql.Tx, app bulwark.AppID) error {
	for _, q := range []string{
		`UPDATE app SET destroyed = 2 WHERE id = ?`,
		`DELETE FROM host WHERE app = ?`,
		`DELETE FROM config_value WHERE app = ?`,
		`DELETE FROM build_secret WHERE app = ?`,
		`DELETE FROM certificate WHERE app = ?`,
		`DELETE FROM egress WHERE app = ?`,
		`DELETE FROM shield WHERE app = ?`,
		`DELETE FROM protect_request WHERE app = ?`,
		`DELETE FROM approver WHERE app = ?`,
		`DELETE FROM nonce WHERE app = ?`,
	} {
		if _, err := tx.Exec(q, app); err != nil {
			return err
		}
	}
	return nil
}

// Finish counts the time that the node has lived through, and ends for good the apps whose grace is over. next is how long the
// next grace has to go, 0 if there is none. Being asked again, or killed in between, does no harm: counting and ending are one
// transaction.
func (l *Ledger) Finish(ctx context.Context) (done []bulwark.AppID, next time.Duration, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		passed := max(0, l.ran()-l.counted).Truncate(time.Millisecond)
		l.counted += passed // if this is rolled back, it is lost, and the graces are longer by it
		if _, err := tx.Exec(`UPDATE app SET lived = lived + ? WHERE destroyed = 1`, passed.Milliseconds()); err != nil {
			return err
		}
		if done, err = column[bulwark.AppID](tx, `SELECT id FROM app WHERE destroyed = 1 AND lived >= grace`); err != nil {
			return err
		}
		for _, app := range done {
			if err := finish(tx, app); err != nil {
				return err
			}
		}
		var left sql.NullInt64
		err := tx.QueryRow(`SELECT min(grace - lived) FROM app WHERE destroyed = 1`).Scan(&left)
		next = time.Duration(left.Int64) * time.Millisecond
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return done, next, nil
}

// Grace is how an app stands that was destroyed.
type Grace struct {
	App   bulwark.AppID
	Final bool
	Until time.Time // by this machine's clock as it is now, if the node goes on running; zero if it is final
}

// Graces tells of each app how it stands; one that was not destroyed, or that the ledger does not know, is left out.
func (l *Ledger) Graces(ctx context.Context, apps []bulwark.AppID) (out []Grace, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, id := range apps {
			g := Grace{App: id}
			var state int
			var left int64
			err := tx.QueryRow(`SELECT destroyed, grace - lived FROM app WHERE id = ? AND destroyed <> 0`, id).Scan(&state, &left)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			if g.Final = state == 2; !g.Final {
				g.Until = l.now().Add(time.Duration(left)*time.Millisecond - (l.ran() - l.counted)).UTC().Truncate(time.Second)
			}
			out = append(out, g)
		}
		return nil
	})
	return out, err
}
