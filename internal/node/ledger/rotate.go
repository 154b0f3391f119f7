package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The keys of projects, and what makes a new version of one current. The row of a project names the version that counts; it
// is changed in the transaction that seals every value to it, so at each moment all values open with the key that the row
// names, and a rotation happened or did not. The private halves are files (package projectkeys): one is on disk before a
// row names it, and removed after none does (Settle).

// keyMigrations gives each project the version of its key. 0 is one from before there were versions, which Open looks at.
func keyMigrations() []db.Migration {
	return []db.Migration{{ID: "ledger-keys", SQL: `
ALTER TABLE project ADD COLUMN key_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE project ADD COLUMN key_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE project ADD COLUMN key_public BLOB NOT NULL DEFAULT x'';
`}}
}

// secret returns the private key of a project that counts, and its version. It is asked for in the transaction that uses it:
// no rotation comes between.
func (l *Ledger) secret(tx *sql.Tx, p bulwark.ProjectID) (*seal.Key, uint64, error) {
	var version uint64
	var public []byte
	err := tx.QueryRow(`SELECT key_version, key_public FROM project WHERE id = ?`, p).Scan(&version, &public)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, bulwark.Failf(bulwark.KindNotFound, "This site holds no key of the project.")
	}
	if err != nil {
		return nil, 0, err
	}
	k, err := l.keys.Key(p, version)
	if err == nil && !bytes.Equal(k.Public(), public) {
		err = bulwark.Fail(bulwark.KindUnavailable, "A project's key is another than the one that the node's ledger names.",
			fmt.Sprintf("Put the node's folder keys and its ledger back from backups of the same time (%s, version %d); nothing was changed.", p, version), nil)
	}
	return k, version, err
}

// firstKey makes the first version of a project's key, or takes the one that is there already.
func (l *Ledger) firstKey(tx *sql.Tx, p bulwark.ProjectID, since time.Time) error {
	k, err := l.makeKey(p, 1, nil)
	if err != nil {
		return err
	}
	return setKey(tx, p, 1, k, since)
}

func (l *Ledger) makeKey(p bulwark.ProjectID, version uint64, before *seal.Key) (*seal.Key, error) {
	k, err := l.keys.Make(p, version, before)
	if _, said := errors.AsType[*bulwark.Error](err); err != nil && !said {
		err = bulwark.Fail(bulwark.KindUnavailable, "The node cannot write the new key, so nothing was changed.", "Check that the disk is not full and try again.", err)
	}
	return k, err
}

func setKey(tx *sql.Tx, p bulwark.ProjectID, version uint64, k *seal.Key, since time.Time) error {
	_, err := tx.Exec(`UPDATE project SET key_version = ?, key_since = ?, key_public = ? WHERE id = ?`, version, since.Unix(), k.Public(), p)
	return err
}

// openKeys sees to it that every project has the key that its row names. Without it nothing is served: a value that does not
// open would be found out at the next start of an app.
func (l *Ledger) openKeys(ctx context.Context) error {
	return l.db.Tx(ctx, func(tx *sql.Tx) error {
		all, err := projectKeys(ctx, tx)
		if err != nil {
			return err
		}
		for _, k := range all {
			if k.Version == 0 {
				err = l.adopt(tx, k.Project)
			} else {
				_, _, err = l.secret(tx, k.Project)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// adopt gives a project's row the key that it has had all along, or makes one if nothing was ever sealed to it.
func (l *Ledger) adopt(tx *sql.Tx, p bulwark.ProjectID) error {
	since := l.now()
	there, err := l.keys.Has(p, 1)
	if err != nil {
		return err
	}
	if there {
		if since, err = l.keys.Made(p, 1); err != nil {
			return err
		}
		return l.firstKey(tx, p, since)
	}
	var sealed int
	err = tx.QueryRow(`SELECT (SELECT count(*) FROM config_value v JOIN app a ON a.id = v.app WHERE a.project = ?)
		+ (SELECT count(*) FROM build_secret s JOIN app a ON a.id = s.app WHERE a.project = ?)
		+ (SELECT count(*) FROM certificate c JOIN app a ON a.id = c.app WHERE a.project = ?)`, p, p, p).Scan(&sealed)
	if err != nil {
		return err
	}
	if sealed > 0 { // a lost key must not be replaced in silence
		_, err := l.keys.Key(p, 1)
		return err
	}
	return l.firstKey(tx, p, since)
}

// ProjectKeys returns the public keys of all projects, as they count now.
func (l *Ledger) ProjectKeys(ctx context.Context) ([]statement.ProjectKey, error) {
	return projectKeys(ctx, l.db.Reader())
}

func projectKeys(ctx context.Context, q interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}) ([]statement.ProjectKey, error) {
	rows, err := q.QueryContext(ctx, `SELECT id, key_version, key_since, key_public FROM project ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []statement.ProjectKey
	for rows.Next() {
		var k statement.ProjectKey
		var since int64
		if err := rows.Scan(&k.Project, &k.Version, &since, &k.Public); err != nil {
			return nil, err
		}
		k.Since = time.Unix(since, 0).UTC()
		out = append(out, k)
	}
	return out, rows.Err()
}

// rotate makes the next version of a project's key current, and returns its number. The new key is on disk, with its copy
// for the recovery key, before the row names it. What is killed before the commit leaves a file that no row names.
func (l *Ledger) rotate(tx *sql.Tx, p bulwark.ProjectID) (uint64, error) {
	old, version, err := l.secret(tx, p)
	if err != nil {
		return 0, err
	}
	next, err := l.makeKey(p, version+1, old)
	if err != nil {
		return 0, err
	}
	for _, r := range []resealing{
		{seal.UseConfig, `SELECT v.rowid, v.app, v.name FROM config_value v JOIN app a ON a.id = v.app WHERE a.project = ?`,
			`SELECT sealed FROM config_value WHERE rowid = ?`, `UPDATE config_value SET sealed = ? WHERE rowid = ?`},
		{seal.UseBuild, `SELECT s.rowid, s.app, s.name FROM build_secret s JOIN app a ON a.id = s.app WHERE a.project = ?`,
			`SELECT sealed FROM build_secret WHERE rowid = ?`, `UPDATE build_secret SET sealed = ? WHERE rowid = ?`},
		{seal.UseCert, `SELECT c.rowid, c.app, c.name FROM certificate c JOIN app a ON a.id = c.app WHERE a.project = ?`,
			`SELECT sealed FROM certificate WHERE rowid = ?`, `UPDATE certificate SET sealed = ? WHERE rowid = ?`},
	} {
		if err := l.reseal(tx, p, r, old, next); err != nil {
			return 0, err
		}
	}
	return version + 1, setKey(tx, p, version+1, next, l.now())
}

// resealing says where values of one use lie.
type resealing struct{ use, all, get, put string }

// reseal opens each value of a project's with one key and seals it to the other: those of old config revisions, too, since a
// rollback may take them. One that does not open stops the rotation: the key that would open it must not be thrown away.
func (l *Ledger) reseal(tx *sql.Tx, p bulwark.ProjectID, r resealing, old, next *seal.Key) error {
	type value struct {
		row  int64
		app  bulwark.AppID
		name bulwark.ConfigName
	}
	rows, err := tx.Query(r.all, p)
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []value
	for rows.Next() {
		var v value
		if err := rows.Scan(&v.row, &v.app, &v.name); err != nil {
			return err
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	public := next.Public()
	for _, v := range all { // one at a time: together they may be large
		var sealed []byte
		if err := tx.QueryRow(r.get, v.row).Scan(&sealed); err != nil {
			return err
		}
		at := seal.Place{Node: l.Node(), Project: p, App: v.app, Use: r.use, Name: v.name}
		plain, err := old.Open(at, sealed)
		if err != nil {
			return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("A value of %s in the node's ledger does not open, so the key was not changed and nothing is lost.", v.name),
				fmt.Sprintf("The ledger was damaged: put it back from a backup (%s, %s).", v.app, r.use), err)
		}
		if sealed, err = seal.Value(public, at, plain); err != nil {
			return err
		}
		if _, err := tx.Exec(r.put, sealed, v.row); err != nil {
			return err
		}
	}
	return nil
}

// rotateFor is the effect of a person's statement.
func (l *Ledger) rotateFor(tx *sql.Tx, b statement.ProjectRotate, r *Receipt) (err error) {
	r.Rotated, err = l.rotate(tx, b.Project)
	return err
}

// RotateDue makes new versions of the keys that are older than age, and returns which. Each leaves a document that the node
// signed by itself, with its place in the chain, so that nobody can leave it out of the audit log.
func (l *Ledger) RotateDue(ctx context.Context, age time.Duration) ([]statement.ProjectKey, error) {
	all, err := l.ProjectKeys(ctx)
	if err != nil {
		return nil, err
	}
	var out []statement.ProjectKey
	for _, k := range all {
		// One from the future was made by a clock that was wrong: how old it is nobody knows.
		if l.now().Sub(k.Since).Abs() < age {
			continue
		}
		made := uint64(0)
		rerr := l.db.Tx(ctx, func(tx *sql.Tx) error {
			var version uint64
			if err := tx.QueryRow(`SELECT key_version FROM project WHERE id = ?`, k.Project).Scan(&version); err != nil || version != k.Version {
				return err // somebody was quicker
			}
			r := &Receipt{Kind: statement.KindProjectRotate, Key: l.Node()}
			if err := l.rotateFor(tx, statement.ProjectRotate{Project: k.Project}, r); err != nil {
				return err
			}
			s, err := statement.New(l.Node(), r.Kind, "", statement.ProjectRotate{Project: k.Project}, l.now())
			if err != nil {
				return err
			}
			document, err := statement.Seal(statement.OwnPayloadType, s, l.key)
			if err != nil {
				return err
			}
			r.Digest, r.Body = bulwark.Sum(document), s.Body
			made = r.Rotated
			return l.record(tx, r, string(s.ID), document)
		})
		if rerr == nil && made > 0 {
			k.Version = made
			out = append(out, k)
		}
		err = errors.Join(err, rerr) // one that cannot be must not keep the others from it
	}
	return out, err
}

// Settle removes the private keys that no row names any more, and those that none came to name: after a rotation, and after a
// node was killed in one. It is a transaction, so that no rotation is under way.
func (l *Ledger) Settle(ctx context.Context) error {
	return l.db.Tx(ctx, func(tx *sql.Tx) error {
		all, err := projectKeys(ctx, tx)
		if err != nil {
			return err
		}
		keep := map[bulwark.ProjectID]uint64{}
		for _, k := range all {
			if _, _, kerr := l.secret(tx, k.Project); kerr != nil {
				err = errors.Join(err, kerr) // then nothing of it goes
				continue
			}
			keep[k.Project] = k.Version
		}
		return errors.Join(err, l.keys.Retire(keep))
	})
}

// sealedTo returns the key that a statement's values must be sealed to. A value that was sealed to one that was replaced
// meanwhile is refused by a kind of its own, upon which the person's machine asks for the new key and seals again.
func (l *Ledger) sealedTo(tx *sql.Tx, app *App, b statement.ConfigSet) (*seal.Key, error) {
	k, version, err := l.secret(tx, app.Project)
	if err == nil && len(b.Set) > 0 && max(b.Key, 1) != version {
		err = bulwark.Fail(bulwark.KindStale, fmt.Sprintf("The key of the project of %s was changed meanwhile, so nothing was set.", app.Name),
			"Run the command again; if it is refused again, use a bulwark command of the same version as the server.", nil)
	}
	return k, err
}
