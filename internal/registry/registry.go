// Package registry keeps the list of hosts that all builds may reach beside those of the toolchains: registries whose
// images a Dockerfile's FROM may name, and hosts for packages. It promises that a row follows from a statement that the
// node accepted, with its audit entry in the same transaction.
//
// Whoever owns the server can change the rows, which are for people to read; what builders reach is decided by the node
// from its own ledger.
package registry

import (
	"context"
	"database/sql"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Migrations is the schema. The rows belong to the installation, so they have the default project.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "registry-1", SQL: `
CREATE TABLE registry (
	host     TEXT PRIMARY KEY,
	project  TEXT NOT NULL,
	packages INTEGER NOT NULL,
	ca       TEXT NOT NULL,
	person   TEXT NOT NULL,
	created  TEXT NOT NULL
) STRICT`}}
}

// Allow notes that the node opened a host.
func Allow(tx *sql.Tx, project bulwark.ProjectID, by bulwark.PersonID, r statement.Registry) error {
	var ca bulwark.Digest
	if r.CA != "" {
		ca = bulwark.Sum([]byte(r.CA))
	}
	_, err := tx.Exec(`INSERT INTO registry (host, project, packages, ca, person, created) VALUES (?,?,?,?,?,?)
		ON CONFLICT (host) DO UPDATE SET packages = excluded.packages, ca = excluded.ca, person = excluded.person, created = excluded.created`,
		r.Host, project, r.Packages, ca, by, time.Now().UTC().Format(time.RFC3339Nano))
	return err
}

// Remove notes that the node closed a host.
func Remove(tx *sql.Tx, host string) error {
	_, err := tx.Exec(`DELETE FROM registry WHERE host = ?`, host)
	return err
}

// All returns the hosts, in order.
func All(ctx context.Context, q app.Queryer) ([]client.Registry, error) {
	rows, err := q.QueryContext(ctx, `SELECT host, packages, ca, person, created FROM registry ORDER BY host`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []client.Registry{}
	for rows.Next() {
		var r client.Registry
		var created string
		if err := rows.Scan(&r.Host, &r.Packages, &r.CA, &r.Person, &created); err != nil {
			return nil, err
		}
		r.Created, _ = time.Parse(time.RFC3339Nano, created) // written above
		out = append(out, r)
	}
	return out, rows.Err()
}
