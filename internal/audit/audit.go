// Package audit records who did what, from where, and what came of it. It promises that a change and its entry are one
// transaction: no entry, no change. Entries are rows of the server's store in the order of their commit, and package
// translog puts them into a transparency log in that order; docs/audit.md says what an entry is made of.
//
// Whoever owns the server can write what they like into new entries. What is in the log they can neither change nor take
// away without being noticed, and what the node accepted they cannot leave out: the node signs the log's checkpoints and
// has a chain of its own.
package audit

import (
	"context"
	"database/sql"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// Entry is one action. It holds no secret and nobody's name: a person is an id, whose name is in the node's ledger alone.
type Entry struct {
	Project  bulwark.ProjectID
	Actor    bulwark.PersonID // empty for the platform itself, and for who is not known
	Key      string           // fingerprint of the key that acted; empty means that of the context's Origin
	From     string           // address; empty means that of the context's Origin
	Action   string           // "app.create"
	Resource string           // "app:shop"
	Outcome  Outcome
	Detail   string         // no secret, no personal data
	Document bulwark.Digest // of what was signed
	Chain    *Place         // where the document is in the node's chain
}

// Outcome is what came of an action.
type Outcome string

// The outcomes.
const (
	Asked    Outcome = "asked"    // it was begun; another entry says what came of it if it failed
	Accepted Outcome = "accepted" // it goes on in an operation
	Done     Outcome = "done"
	Refused  Outcome = "refused"
	Failed   Outcome = "failed"
	// Recorded is what the node accepted and what the server had no entry of: it was killed in between.
	Recorded Outcome = "recorded"
)

// Place is a place in the node's chain: that of the document, and the hash up to and with it.
type Place struct {
	Seq  uint64
	Hash bulwark.Digest
}

// Origin is where a request comes from; it travels in the context, because an entry is written far from where that is known.
type Origin struct {
	From  string
	Key   string
	wrote atomic.Bool
}

// originKey keeps a request's Origin in its context; nothing but this package looks at it.
type originKey struct{}

// WithOrigin returns a context whose entries say that they come from o.
func WithOrigin(ctx context.Context, o *Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// OriginOf returns the context's origin; an empty one if it has none.
func OriginOf(ctx context.Context) *Origin {
	if o, ok := ctx.Value(originKey{}).(*Origin); ok {
		return o
	}
	return &Origin{}
}

// Wrote tells whether an entry was written for the request.
func (o *Origin) Wrote() bool { return o.wrote.Load() }

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
) STRICT`}, {ID: "audit-2", SQL: `
ALTER TABLE audit ADD COLUMN key TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN document TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN chain_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN chain_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN place INTEGER; -- in the log; NULL until it is there
CREATE UNIQUE INDEX audit_place ON audit (place) WHERE place IS NOT NULL;
CREATE INDEX audit_waits ON audit (seq) WHERE place IS NULL;
CREATE UNIQUE INDEX audit_chain_seq ON audit (chain_seq) WHERE chain_seq > 0;
CREATE INDEX audit_resource ON audit (resource, seq);
CREATE TABLE audit_chain ( -- up to where the node's chain was compared with the entries
	one  INTEGER PRIMARY KEY CHECK (one = 1),
	seq  INTEGER NOT NULL,
	hash TEXT NOT NULL
) STRICT;
`}, {ID: "audit-3", SQL: `
CREATE TABLE audit_witness (
	witness TEXT PRIMARY KEY, -- its key
	note    BLOB NOT NULL,
	size    INTEGER NOT NULL,
	at      TEXT NOT NULL
) STRICT`}}
}

// Write adds e in the transaction of what it tells of.
func Write(ctx context.Context, tx *sql.Tx, e Entry) error {
	o := OriginOf(ctx)
	if e.Key == "" {
		e.Key = o.Key
	}
	if e.From == "" {
		e.From = o.From
	}
	var place Place
	if e.Chain != nil {
		told, err := Tells(ctx, tx, e.Chain.Seq)
		if err != nil {
			return full(err)
		}
		if !told { // else an entry of the kind Recorded was quicker
			place = *e.Chain
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO audit (at, project, actor, key, origin, action, resource, outcome, detail, document, chain_seq, chain_hash)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?)`, time.Now().UTC().Format(column), e.Project, e.Actor, text(e.Key, maxWord), text(e.From, maxWord),
		text(e.Action, maxWord), text(e.Resource, maxWord), e.Outcome, text(e.Detail, maxDetail), e.Document, place.Seq, place.Hash)
	if err != nil {
		return full(err)
	}
	o.wrote.Store(true)
	return nil
}

func full(err error) error {
	return bulwark.Fail(bulwark.KindUnavailable, "The audit log cannot take the entry, so nothing was changed.",
		"Check that the disk is not full and try again.", err)
}

// The bounds of an entry's texts, in bytes: a leaf of the log has at most 65,535.
const (
	maxWord   = 256
	maxDetail = 4096
)

// text is s as an entry has it: valid UTF-8, within its bound, with what was cut off marked.
func text(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	s = s[:most-len("…")]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}
