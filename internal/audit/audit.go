// Package audit records who did what. It promises that a change and its entry are one transaction: no entry, no change. The
// entries are rows of the server's store for now, in the order of their commit; the transparency log integrates them
// from here.
//
// Whoever owns the server can rewrite them; the node's ledger, which the server cannot reach, holds every signed statement
// in its own order.
package audit

import (
	"database/sql"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// Entry is one action.
type Entry struct {
	Project  bulwark.ProjectID
	Actor    bulwark.PersonID // empty for the platform itself
	Action   string           // "app.create"
	Resource string           // "app:shop"
	Outcome  string           // "allowed", "refused", "done", "failed"
	Detail   string           // no secret, no personal data
}

// Migrations is the schema.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "audit-1", SQL: `
CREATE TABLE audit (
	seq      INTEGER PRIMARY KEY AUTOINCREMENT,
	at       TEXT NOT NULL,
	project  TEXT NOT NULL,
	actor    TEXT NOT NULL,
	action   TEXT NOT NULL,
	resource TEXT NOT NULL,
	outcome  TEXT NOT NULL,
	detail   TEXT NOT NULL
) STRICT`}}
}

// Write adds e in the transaction of what it tells of.
func Write(tx *sql.Tx, e Entry) error {
	_, err := tx.Exec(`INSERT INTO audit (at, project, actor, action, resource, outcome, detail) VALUES (?,?,?,?,?,?,?)`,
		time.Now().UTC().Format(time.RFC3339Nano), e.Project, e.Actor, e.Action, e.Resource, e.Outcome, e.Detail)
	return err
}
