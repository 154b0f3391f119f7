package app

import (
	"context"
	"database/sql"

	"github.com/bulwark-paas/bulwark"
)

// An app's row says how the node said last that it stands: destroyed is 0, 1 in its grace, 2 when it is final. In its grace
// everything of it stays, and nothing finds it but what asks for apps that are kept.

// grace is the part of the schema that came with it. What was destroyed before had none.
const grace = `
UPDATE app SET destroyed = 2 WHERE destroyed <> 0;
DROP INDEX app_name;
CREATE UNIQUE INDEX app_name ON app (name) WHERE destroyed < 2`

// KeptByName returns an app of a tenant's, also in its grace.
func KeptByName(ctx context.Context, q Queryer, in bulwark.Tenant, name bulwark.AppName) (*App, error) {
	orgs, projects, err := lists(in)
	if err != nil {
		return nil, err
	}
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM app WHERE name = ? AND destroyed < 2 AND `+inTenant, name, orgs, projects))
}

// KeptByID returns an app, also in its grace: what the node accepted before it was destroyed must be there when it comes back.
func KeptByID(ctx context.Context, q Queryer, id bulwark.AppID) (*App, error) {
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM app WHERE id = ? AND destroyed < 2`, id))
}

// Kept returns a tenant's apps, by name, with those that are in their grace.
func Kept(ctx context.Context, q Queryer, in bulwark.Tenant) ([]App, error) {
	orgs, projects, err := lists(in)
	if err != nil {
		return nil, err
	}
	return apps(q.QueryContext(ctx, `SELECT `+columns+` FROM app WHERE destroyed < 2 AND `+inTenant+` ORDER BY name`, orgs, projects))
}

// Graced returns all apps that are in their grace, for what asks the node about them.
func Graced(ctx context.Context, q Queryer) ([]App, error) {
	return apps(q.QueryContext(ctx, `SELECT `+columns+` FROM app WHERE destroyed = 1`))
}

// GracedNamed returns the app in its grace that has a name, whosever it is.
func GracedNamed(ctx context.Context, q Queryer, name bulwark.AppName) (*App, error) {
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM app WHERE name = ? AND destroyed = 1`, name))
}

// Final tells whether nothing brings an app back any more; one that is not known may be one that is on its way.
func Final(ctx context.Context, q Queryer, id bulwark.AppID) (final bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM app WHERE id = ? AND destroyed = 2)`, id).Scan(&final)
	return final, err
}

// Destroy begins an app's grace.
func Destroy(tx *sql.Tx, id bulwark.AppID) error {
	_, err := tx.Exec(`UPDATE app SET destroyed = 1 WHERE id = ? AND destroyed = 0`, id)
	return err
}

// Restore ends it well.
func Restore(tx *sql.Tx, id bulwark.AppID) error {
	_, err := tx.Exec(`UPDATE app SET destroyed = 0 WHERE id = ? AND destroyed = 1`, id)
	return err
}

// Finish forgets an app, whose name is free again. It is safe twice.
func Finish(tx *sql.Tx, id bulwark.AppID) error {
	for _, q := range []string{`DELETE FROM domain WHERE app = ?`, `DELETE FROM variable WHERE app = ?`, `DELETE FROM build_secret WHERE app = ?`,
		`DELETE FROM egress WHERE app = ?`, `UPDATE app SET destroyed = 2 WHERE id = ?`} {
		if _, err := tx.Exec(q, id); err != nil {
			return err
		}
	}
	return nil
}
