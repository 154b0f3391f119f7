package app

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// settings is the part of the schema that came with the lists of build secrets and egress rules.
const settings = `
CREATE TABLE build_secret (
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id),
	name    TEXT NOT NULL,
	changed TEXT NOT NULL,
	PRIMARY KEY (app, name)
) STRICT;
ALTER TABLE egress ADD COLUMN created TEXT NOT NULL DEFAULT ''`

// SetBuildSecrets notes the names that a statement set and unset; no value is ever here.
func SetBuildSecrets(tx *sql.Tx, a *App, set, unset []bulwark.ConfigName) error {
	for _, n := range set {
		if _, err := tx.Exec(`INSERT INTO build_secret (project, app, name, changed) VALUES (?,?,?,?) ON CONFLICT (app, name) DO UPDATE SET changed = excluded.changed`,
			a.Project, a.ID, n, now()); err != nil {
			return err
		}
	}
	for _, n := range unset {
		if _, err := tx.Exec(`DELETE FROM build_secret WHERE app = ? AND name = ?`, a.ID, n); err != nil {
			return err
		}
	}
	return nil
}

// BuildSecrets returns the names of an app's build secrets, and when each was set last.
func BuildSecrets(ctx context.Context, q Queryer, id bulwark.AppID) ([]client.BuildSecret, error) {
	return list(ctx, q, `SELECT name, changed FROM build_secret WHERE app = ? ORDER BY name`, id, func(rows *sql.Rows) (s client.BuildSecret, err error) {
		var at string
		err = rows.Scan(&s.Name, &at)
		s.Set, _ = time.Parse(time.RFC3339Nano, at) // written by now
		return s, err
	})
}

// SetProtection notes what the node says of who has to approve an app's releases.
func SetProtection(tx *sql.Tx, a *App, p statement.Protection) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE app SET protection = ? WHERE id = ?`, string(b), a.ID)
	return err
}

// AllowEgress and DenyEgress follow the node's acceptance of the rule.
func AllowEgress(tx *sql.Tx, a *App, rule string) error {
	_, err := tx.Exec(`INSERT INTO egress (project, app, rule, created) VALUES (?,?,?,?) ON CONFLICT DO NOTHING`, a.Project, a.ID, rule, now())
	return err
}

// DenyEgress takes a destination away from an app.
func DenyEgress(tx *sql.Tx, a *App, rule string) error {
	_, err := tx.Exec(`DELETE FROM egress WHERE app = ? AND rule = ?`, a.ID, rule)
	return err
}

// Egress returns the destinations that an app's owners opened.
func Egress(ctx context.Context, q Queryer, id bulwark.AppID) ([]client.EgressRule, error) {
	return list(ctx, q, `SELECT rule, created FROM egress WHERE app = ? ORDER BY rule`, id, func(rows *sql.Rows) (r client.EgressRule, err error) {
		var at string
		err = rows.Scan(&r.Rule, &at)
		r.Created, _ = time.Parse(time.RFC3339Nano, at) // written by now
		return r, err
	})
}

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }

func list[T any](ctx context.Context, q Queryer, query string, id bulwark.AppID, scan func(*sql.Rows) (T, error)) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
