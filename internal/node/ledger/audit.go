package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The node's part in the audit log. It promises that the checkpoints that it signs are of one log that only grows, and
// that every document that it accepted has its place in a chain, from which none can be taken and in which none can be
// put elsewhere. The log itself is the server's; what the node does not sign is nobody's log.

func auditMigrations() []db.Migration {
	return []db.Migration{{ID: "ledger-audit", SQL: `
CREATE TABLE chain (
	seq      INTEGER PRIMARY KEY,
	link     BLOB NOT NULL,
	hash     TEXT NOT NULL,
	document TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE checkpoint (
	one  INTEGER PRIMARY KEY CHECK (one = 1),
	size INTEGER NOT NULL,
	root BLOB NOT NULL,
	note BLOB NOT NULL
) STRICT;
`}}
}

// link gives an accepted document its place in the chain.
func (l *Ledger) link(tx *sql.Tx, r *Receipt, at time.Time) error {
	head, err := l.chainHead(tx)
	if err != nil {
		return err
	}
	link, err := statement.Link{Version: 1, Seq: head.Seq + 1, Time: at.UTC(), Kind: r.Kind, Person: r.Person, Key: r.Key, App: r.App, Document: r.Digest}.Encode()
	if err != nil {
		return err
	}
	if head, err = head.Next(link); err != nil {
		return err
	}
	r.Chain = &head
	_, err = tx.Exec(`INSERT INTO chain (seq, link, hash, document) VALUES (?,?,?,?)`, head.Seq, link, head.Hash, r.Digest)
	return err
}

type headReader interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func (l *Ledger) chainHead(q headReader) (statement.ChainRef, error) {
	var head statement.ChainRef
	err := q.QueryRowContext(context.Background(), `SELECT seq, hash FROM chain ORDER BY seq DESC LIMIT 1`).Scan(&head.Seq, &head.Hash)
	if errors.Is(err, sql.ErrNoRows) {
		return statement.ChainStart(l.Node()), nil
	}
	return head, err
}

// chainOld gives their places to documents that were accepted before there was a chain, in the order in which they were.
func (l *Ledger) chainOld(ctx context.Context) error {
	return l.db.Tx(ctx, func(tx *sql.Tx) error {
		type old struct{ receipt, at string }
		rows, err := tx.Query(`SELECT receipt, at FROM document WHERE digest NOT IN (SELECT document FROM chain) ORDER BY seq`)
		if err != nil {
			return err
		}
		defer rows.Close()
		var all []old
		for rows.Next() {
			var o old
			if err := rows.Scan(&o.receipt, &o.at); err != nil {
				return err
			}
			all = append(all, o)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, o := range all {
			at, err := time.Parse(time.RFC3339Nano, o.at)
			if err != nil {
				return err
			}
			var r Receipt
			if err := json.Unmarshal([]byte(o.receipt), &r); err != nil {
				return err
			}
			if err := l.link(tx, &r, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// chainPage bounds the links of one answer.
const chainPage = 1000

// Chain returns the links after a place, at most a thousand, and the node's signed word on where the chain stands.
func (l *Ledger) Chain(ctx context.Context, after uint64) (links [][]byte, head []byte, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error { // one state for both answers
		rows, err := tx.QueryContext(ctx, `SELECT link FROM chain WHERE seq > ? ORDER BY seq LIMIT ?`, after, chainPage)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var link []byte
			if err := rows.Scan(&link); err != nil {
				return err
			}
			links = append(links, link)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		ref, err := l.chainHead(tx)
		if err != nil {
			return err
		}
		head, err = statement.Seal(statement.ChainPayloadType, statement.ChainHead{Version: 1, Node: l.Node(), Seq: ref.Seq, Hash: ref.Hash, Time: l.now().UTC()}, l.key)
		return err
	})
	return links, head, err
}

// LogKey returns the key that verifies the checkpoints, in the form of package note.
func (l *Ledger) LogKey() string { return l.logKey }

// Checkpointed returns the newest checkpoint that was signed; its size is 0 and the note empty if there is none.
func (l *Ledger) Checkpointed(ctx context.Context) (size uint64, signed []byte, err error) {
	err = l.db.Reader().QueryRowContext(ctx, `SELECT size, note FROM checkpoint`).Scan(&size, &signed)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return size, signed, err
}

// maxProof bounds the hashes of a proof: no tree of 2^64 leaves needs more.
const maxProof = 130

// Checkpoint signs that the log has size leaves with this root, if consistency proves that all that was signed before is in it.
// What it signs is of its own making: the caller gives numbers, no text.
func (l *Ledger) Checkpoint(ctx context.Context, size uint64, root []byte, consistency [][]byte) (signed []byte, err error) {
	if len(root) != rfc6962.DefaultHasher.Size() || len(consistency) > maxProof || size > 1<<62 {
		return nil, bulwark.Invalid("The checkpoint is not well formed.", "")
	}
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		var last uint64
		var lastRoot []byte
		err := tx.QueryRow(`SELECT size, root FROM checkpoint`).Scan(&last, &lastRoot)
		if errors.Is(err, sql.ErrNoRows) {
			lastRoot, err = rfc6962.DefaultHasher.EmptyRoot(), nil
		}
		if err != nil {
			return err
		}
		if err := follows(last, lastRoot, size, root, consistency); err != nil {
			return err
		}
		n := note.Note{Text: statement.CheckpointText(l.logSigner.Name(), size, root)}
		if signed, err = note.Sign(&n, l.logSigner); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO checkpoint (one, size, root, note) VALUES (1,?,?,?)
			ON CONFLICT DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note`, size, root, signed)
		return err
	})
	if err != nil {
		return nil, err
	}
	return signed, nil
}

// follows refuses a log that is not the one that was signed before, grown.
func follows(last uint64, lastRoot []byte, size uint64, root []byte, consistency [][]byte) error {
	const hint = "Put the server's folder audit-log back as it was; what was signed cannot be taken back."
	switch {
	case size < last:
		return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The audit log has %d entries, and had %d before: entries are missing at its end.", size, last), hint, nil)
	case size == last && !bytes.Equal(root, lastRoot), size == 0 && !bytes.Equal(root, rfc6962.DefaultHasher.EmptyRoot()):
		return bulwark.Fail(bulwark.KindForbidden, "The audit log is another one than before: an entry was changed.", hint, nil)
	case size == last, last == 0:
		return nil
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, last, size, consistency, lastRoot, root); err != nil {
		return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The audit log of %d entries does not hold the %d that were there before.", size, last), hint, err)
	}
	return nil
}
