package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// KeepImages is how many images of an app stay on the machine, newest first, beside those of its release that serves and of
// newer ones. A rollback to a release whose image has gone takes a push.
const KeepImages = 10

// Collect forgets the images that no app needs any more, but for those in use, and returns the layers of those that stay. It
// is one transaction: a release that is made of an image after it finds that the image is gone, one that is made before
// keeps it.
func (l *Ledger) Collect(ctx context.Context, use []bulwark.Digest) (stay map[bulwark.Digest][]Layer, err error) {
	stay = map[bulwark.Digest][]Layer{}
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		keep := map[bulwark.Digest]bool{}
		for _, d := range use {
			keep[d] = true
		}
		apps, err := column[bulwark.AppID](tx, `SELECT id FROM app WHERE destroyed < 2`)
		if err != nil {
			return err
		}
		for _, app := range apps {
			if err := keepOf(tx, app, keep); err != nil {
				return err
			}
		}
		all, err := column[bulwark.Digest](tx, `SELECT digest FROM image`)
		if err != nil {
			return err
		}
		for _, d := range all {
			if err := forgetUnless(tx, d, keep[d], stay); err != nil {
				return err
			}
		}
		return nil
	})
	return stay, err
}

// keepOf adds what one app needs.
func keepOf(tx *sql.Tx, app bulwark.AppID, keep map[bulwark.Digest]bool) error {
	live, err := column[bulwark.Digest](tx, `SELECT b.image FROM release r JOIN build b ON b.cause = r.origin JOIN app a ON a.id = r.app
		WHERE r.app = ? AND r.generation >= a.promoted`, app)
	if err != nil {
		return err
	}
	released, err := column[bulwark.Digest](tx, `SELECT b.image FROM release r JOIN build b ON b.cause = r.origin
		WHERE r.app = ? GROUP BY b.image ORDER BY max(r.generation) DESC LIMIT ?`, app, KeepImages)
	if err != nil {
		return err
	}
	built, err := column[bulwark.Digest](tx, `SELECT image FROM build WHERE app = ? GROUP BY image ORDER BY max(rowid) DESC LIMIT ?`, app, KeepImages)
	if err != nil {
		return err
	}
	for _, list := range [][]bulwark.Digest{live, released, built} {
		for _, d := range list {
			keep[d] = true
		}
	}
	return nil
}

func forgetUnless(tx *sql.Tx, d bulwark.Digest, keep bool, stay map[bulwark.Digest][]Layer) error {
	if !keep {
		_, err := tx.Exec(`DELETE FROM image WHERE digest = ?`, d)
		return err
	}
	var text []byte
	if err := tx.QueryRow(`SELECT layers FROM image WHERE digest = ?`, d).Scan(&text); err != nil {
		return err
	}
	var layers []Layer
	err := json.Unmarshal(text, &layers)
	stay[d] = layers
	return err
}

// Final tells whether an app is destroyed and past its grace; one that the ledger does not know is not.
func (l *Ledger) Final(ctx context.Context, app bulwark.AppID) (gone bool, err error) {
	err = l.db.Reader().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM app WHERE id = ? AND destroyed = 2)`, app).Scan(&gone)
	return gone, err
}

// haveImage refuses a release of an image that was collected.
func haveImage(tx *sql.Tx, app *App, generation uint64, image bulwark.Digest) error {
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM image WHERE digest = ?`, image).Scan(&n); err != nil || n > 0 {
		return err
	}
	return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("The image of release v%d of %s is no longer kept: the newest %d are.", generation, app.Name, KeepImages),
		"Push its commit again.", nil)
}

// column reads one column.
func column[T ~string](tx *sql.Tx, query string, args ...any) ([]T, error) {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		var v T
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// Serving returns the promoted release of each app that has one.
func (l *Ledger) Serving(ctx context.Context) (map[bulwark.AppID]*statement.Release, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT app.id, release.release FROM app JOIN release ON release.app = app.id AND release.generation = app.promoted
		WHERE app.destroyed = 0`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[bulwark.AppID]*statement.Release{}
	for rows.Next() {
		var id bulwark.AppID
		var envelope []byte
		if err := rows.Scan(&id, &envelope); err != nil {
			return nil, err
		}
		var r statement.Release
		if err := statement.Open(envelope, statement.ReleasePayloadType, l.public, &r); err != nil {
			return nil, err
		}
		out[id] = &r
	}
	return out, rows.Err()
}
