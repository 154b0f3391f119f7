// Package tenant is who an app belongs to, as the server has it: organisations and their projects. It promises that a row
// follows from a statement that the node accepted. People, their roles and their tokens are in the node's ledger alone, which is
// asked at each request: what is taken away there counts here at once.
//
// Whoever owns the server can change the rows, and thereby see what it holds of any tenant; what may be done to an app is
// decided by the node, which has rows of its own.
package tenant

import (
	"context"
	"database/sql"
	"errors"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// Migrations is the schema. The first organisation and project are there from the beginning.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "tenant-1", SQL: `
CREATE TABLE org (
	id   TEXT PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE project (
	id   TEXT PRIMARY KEY,
	org  TEXT NOT NULL REFERENCES org (id),
	name TEXT NOT NULL,
	UNIQUE (org, name)
) STRICT;
INSERT INTO org (id, name) VALUES ('org_00000000000000000000000000', 'main');
INSERT INTO project (id, org, name) VALUES ('prj_00000000000000000000000000', 'org_00000000000000000000000000', 'main');
`}, {ID: "tenant-posture", SQL: `
INSERT INTO org (id, name) VALUES ('org_00000000000000000000000004', 'bulwark-posture');
INSERT INTO project (id, org, name) VALUES ('prj_00000000000000000000000004', 'org_00000000000000000000000004', 'probes');
`}}
}

// Queryer is a transaction or the reader.
type Queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Org is an organisation.
type Org struct {
	ID   bulwark.OrgID
	Name bulwark.OrgName
}

// Project is a project of an organisation's.
type Project struct {
	ID   bulwark.ProjectID
	Org  bulwark.OrgID
	Name bulwark.ProjectName
}

// InsertOrg and InsertProject follow the node's acceptance.
func InsertOrg(tx *sql.Tx, o Org) error {
	_, err := tx.Exec(`INSERT INTO org (id, name) VALUES (?,?) ON CONFLICT (id) DO NOTHING`, o.ID, o.Name)
	return err
}

// InsertProject adds a project.
func InsertProject(tx *sql.Tx, p Project) error {
	_, err := tx.Exec(`INSERT INTO project (id, org, name) VALUES (?,?,?) ON CONFLICT (id) DO NOTHING`, p.ID, p.Org, p.Name)
	return err
}

// OrgOf returns the organisation of a project.
func OrgOf(ctx context.Context, q Queryer, id bulwark.ProjectID) (org bulwark.OrgID, err error) {
	err = q.QueryRowContext(ctx, `SELECT org FROM project WHERE id = ?`, id).Scan(&org)
	if errors.Is(err, sql.ErrNoRows) {
		err = bulwark.Fail(bulwark.KindNotFound, "There is no such organisation or project.", "See bulwark orgs.", nil)
	}
	return org, err
}

// Orgs returns all organisations, by name; who asks keeps what the actor may see.
func Orgs(ctx context.Context, q Queryer) ([]Org, error) {
	rows, err := q.QueryContext(ctx, `SELECT id, name FROM org ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Org
	for rows.Next() {
		var o Org
		if err := rows.Scan(&o.ID, &o.Name); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, rows.Err()
}

// Projects returns the projects of an organisation, by name.
func Projects(ctx context.Context, q Queryer, org bulwark.OrgID) ([]Project, error) {
	rows, err := q.QueryContext(ctx, `SELECT id, org, name FROM project WHERE org = ? ORDER BY name`, org)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Project
	for rows.Next() {
		var p Project
		if err := rows.Scan(&p.ID, &p.Org, &p.Name); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
