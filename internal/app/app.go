// Package app is the first noun of the pipeline: an app with its name, its domains and its config's variable names. It
// promises that a row follows from a statement that the node accepted; it holds no value of a variable, only names.
//
// Whoever owns the server can change the rows; the node's ledger decides whose name and host it really is.
package app

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// App is a row.
type App struct {
	ID       bulwark.AppID
	Project  bulwark.ProjectID
	Name     bulwark.AppName
	Promoted uint64 // number of the release that serves, 0 for none
	Config   uint64 // newest config revision
	Created  time.Time
	// Protection is what the node said last, to be shown; it is the node that holds to it.
	Protection statement.Protection
	Destroyed  bool // and still in its grace
}

// Migrations is the schema.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "app-1", SQL: `
CREATE TABLE app (
	id        TEXT PRIMARY KEY,
	project   TEXT NOT NULL,
	name      TEXT NOT NULL,
	promoted  INTEGER NOT NULL DEFAULT 0,
	config    INTEGER NOT NULL DEFAULT 0,
	destroyed INTEGER NOT NULL DEFAULT 0,
	created   TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX app_name ON app (name) WHERE destroyed = 0;
CREATE TABLE domain (
	host    TEXT PRIMARY KEY,
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id)
) STRICT;
CREATE TABLE variable (
	project  TEXT NOT NULL,
	app      TEXT NOT NULL REFERENCES app (id),
	name     TEXT NOT NULL,
	revision INTEGER NOT NULL,
	PRIMARY KEY (app, name)
) STRICT;
CREATE TABLE egress (
	project TEXT NOT NULL,
	app     TEXT NOT NULL REFERENCES app (id),
	rule    TEXT NOT NULL,
	PRIMARY KEY (app, rule)
) STRICT`}, {ID: "app-settings", SQL: settings},
		{ID: "app-protection", SQL: `ALTER TABLE app ADD COLUMN protection TEXT NOT NULL DEFAULT '{}'`},
		{ID: "app-grace", SQL: grace}}
}

// Queryer is a transaction or the reader.
type Queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

const columns = `id, project, name, promoted, config, created, protection, destroyed`

func scan(row interface{ Scan(...any) error }) (*App, error) {
	var a App
	var created, protection string
	err := row.Scan(&a.ID, &a.Project, &a.Name, &a.Promoted, &a.Config, &created, &protection, &a.Destroyed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, bulwark.NoSuchApp()
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(protection), &a.Protection); err != nil {
		return nil, err
	}
	a.Created, err = time.Parse(time.RFC3339Nano, created)
	return &a, err
}

// ByName returns an app of a tenant's. Of one that was destroyed and is in its grace, who may know of it is told so.
func ByName(ctx context.Context, q Queryer, in bulwark.Tenant, name bulwark.AppName) (*App, error) {
	a, err := KeptByName(ctx, q, in, name)
	if err == nil && a.Destroyed {
		return nil, bulwark.WasDestroyed(a.Name)
	}
	return a, err
}

// inTenant is the condition that a row belongs to a tenant; its two parameters come from lists.
const inTenant = `project IN (SELECT id FROM project WHERE org IN (SELECT value FROM json_each(?)) UNION SELECT value FROM json_each(?))`

func lists(in bulwark.Tenant) (orgs, projects string, err error) {
	o, err := json.Marshal(append([]bulwark.OrgID{}, in.Orgs...))
	if err != nil {
		return "", "", err
	}
	p, err := json.Marshal(append([]bulwark.ProjectID{}, in.Projects...))
	return string(o), string(p), err
}

// PlaceOf returns where the app of a name is, one in its grace too. It is for the decision whether somebody may know, and for nothing else.
func PlaceOf(ctx context.Context, q Queryer, name bulwark.AppName) (id bulwark.AppID, project bulwark.ProjectID, org bulwark.OrgID, err error) {
	err = q.QueryRowContext(ctx, `SELECT a.id, p.id, p.org FROM app a JOIN project p ON p.id = a.project WHERE a.name = ? AND a.destroyed < 2`, name).Scan(&id, &project, &org)
	if errors.Is(err, sql.ErrNoRows) {
		err = bulwark.NoSuchApp()
	}
	return id, project, org, err
}

// ByID returns an app that was not destroyed.
func ByID(ctx context.Context, q Queryer, id bulwark.AppID) (*App, error) {
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM app WHERE id = ? AND destroyed = 0`, id))
}

// All returns a tenant's apps that were not destroyed, by name.
func All(ctx context.Context, q Queryer, in bulwark.Tenant) ([]App, error) {
	orgs, projects, err := lists(in)
	if err != nil {
		return nil, err
	}
	return apps(q.QueryContext(ctx, `SELECT `+columns+` FROM app WHERE destroyed = 0 AND `+inTenant+` ORDER BY name`, orgs, projects))
}

// Everywhere returns every app that was not destroyed, for what keeps the platform as it should be; no person asks it.
func Everywhere(ctx context.Context, q Queryer) ([]App, error) {
	return apps(q.QueryContext(ctx, `SELECT `+columns+` FROM app WHERE destroyed = 0 ORDER BY name`))
}

func apps(rows *sql.Rows, err error) ([]App, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []App
	for rows.Next() {
		a, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, *a)
	}
	return out, rows.Err()
}

// Insert adds an app.
func Insert(tx *sql.Tx, a App) error {
	_, err := tx.Exec(`INSERT INTO app (id, project, name, created) VALUES (?,?,?,?) ON CONFLICT (id) DO NOTHING`,
		a.ID, a.Project, a.Name, a.Created.UTC().Format(time.RFC3339Nano))
	return err
}

// SetPromoted notes which release serves.
func SetPromoted(tx *sql.Tx, id bulwark.AppID, release uint64) error {
	_, err := tx.Exec(`UPDATE app SET promoted = ? WHERE id = ? AND promoted <= ?`, release, id, release)
	return err
}

// SetVariables notes the names that a config revision changed.
func SetVariables(tx *sql.Tx, a *App, revision uint64, set, unset []bulwark.ConfigName) error {
	for _, n := range set {
		if _, err := tx.Exec(`INSERT INTO variable (project, app, name, revision) VALUES (?,?,?,?) ON CONFLICT (app, name) DO UPDATE SET revision = excluded.revision`,
			a.Project, a.ID, n, revision); err != nil {
			return err
		}
	}
	for _, n := range unset {
		if _, err := tx.Exec(`DELETE FROM variable WHERE app = ? AND name = ?`, a.ID, n); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`UPDATE app SET config = max(config, ?) WHERE id = ?`, revision, a.ID)
	return err
}

// Variable is the name of a config variable and the revision that set it.
type Variable struct {
	Name     bulwark.ConfigName
	Revision uint64
}

// Variables returns the names of an app's config variables.
func Variables(ctx context.Context, q Queryer, id bulwark.AppID) ([]Variable, error) {
	rows, err := q.QueryContext(ctx, `SELECT name, revision FROM variable WHERE app = ? ORDER BY name`, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Variable
	for rows.Next() {
		var v Variable
		if err := rows.Scan(&v.Name, &v.Revision); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// AddDomain and RemoveDomain follow the node's acceptance of the claim.
func AddDomain(tx *sql.Tx, a *App, host bulwark.HostName) error {
	_, err := tx.Exec(`INSERT INTO domain (host, project, app) VALUES (?,?,?) ON CONFLICT (host) DO UPDATE SET app = excluded.app, project = excluded.project`, host, a.Project, a.ID)
	return err
}

// RemoveDomain takes a host name away from an app.
func RemoveDomain(tx *sql.Tx, a *App, host bulwark.HostName) error {
	_, err := tx.Exec(`DELETE FROM domain WHERE host = ? AND app = ?`, host, a.ID)
	return err
}

// Domains returns the claimed host names of every app.
func Domains(ctx context.Context, q Queryer) (map[bulwark.AppID][]bulwark.HostName, error) {
	rows, err := q.QueryContext(ctx, `SELECT app, host FROM domain ORDER BY host`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[bulwark.AppID][]bulwark.HostName{}
	for rows.Next() {
		var id bulwark.AppID
		var h bulwark.HostName
		if err := rows.Scan(&id, &h); err != nil {
			return nil, err
		}
		out[id] = append(out[id], h)
	}
	return out, rows.Err()
}
