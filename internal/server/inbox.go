package server

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// inbox makes one change of two: a statement takes effect in the node's ledger, and what follows from it is in the server's
// store. A row says that a statement is on its way; it is written before the node is asked and goes in the transaction
// that writes the effect. What a killed server leaves is settled by its successor, which asks the node what became of it:
// the node answers a second question about a document with the receipt of the first.
//
// A row stays when its effect is written: whoever plays an old statement again gets the node's old receipt, and must not have
// its effect once more, after what came since.
//
// A statement of which the node knows nothing is dropped: nobody was told that it was taken.
type inbox struct {
	db   *db.DB
	node caller
	// effect writes what follows from an accepted statement that nobody waits for any more.
	effect effect
	// done is called after effects were settled; what reconciles looks again.
	done func()
	log  *slog.Logger
	mu   sync.Mutex // one statement at a time: effects are written in the node's order
}

// effect writes what follows from an accepted statement.
type effect func(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error

// caller is the node's client.
type caller interface {
	Call(ctx context.Context, verb string, in, out any) error
}

// How long things take.
const (
	submitTime  = 30 * time.Second
	settleEvery = time.Second
	// forgetAfter is when a statement that the node does not know is dropped: no call of a server that was killed is under
	// way then.
	forgetAfter = 10 * time.Second
)

var inboxMigrations = []db.Migration{{ID: "inbox-1", SQL: `
CREATE TABLE inbox (
	digest TEXT PRIMARY KEY,
	at     INTEGER NOT NULL
) STRICT`}, {ID: "inbox-2", SQL: `ALTER TABLE inbox ADD COLUMN done INTEGER NOT NULL DEFAULT 0`}, {ID: "inbox-3", SQL: `ALTER TABLE inbox ADD COLUMN room BLOB`}}

// room is how many bytes a row keeps free for the effect and its audit entry, which must not fail for a full disk after the
// node has taken the statement. It is given back in the transaction that writes them.
const room = 64 << 10

// take has the node take a statement and writes the effect. It goes on when the caller goes away: a change is made in
// whole or not at all.
func (b *inbox) take(ctx context.Context, verb string, envelope []byte, effect effect) (*nodeapi.Receipt, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), submitTime)
	defer cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	digest := bulwark.Sum(envelope)
	err := b.db.Tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`INSERT INTO inbox (digest, at, room) VALUES (?,?,zeroblob(?)) ON CONFLICT DO UPDATE SET at = excluded.at, room = excluded.room WHERE done = 0`,
			digest, time.Now().UnixMilli(), room)
		if err != nil {
			return err
		}
		if n, _ := res.RowsAffected(); n == 0 {
			return bulwark.Fail(bulwark.KindForbidden, "The statement was used before.", "Run the command again.", nil)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var r nodeapi.Receipt
	if err := b.node.Call(ctx, verb, nodeapi.Document{Envelope: envelope}, &r); err != nil {
		if refused(err) {
			return nil, errors.Join(err, b.forget(ctx, digest))
		}
		return nil, err // whether it took effect is found out later
	}
	err = b.apply(ctx, &r, effect)
	if bulwark.KindOf(err) == bulwark.KindUnavailable {
		err = bulwark.Fail(bulwark.KindUnavailable, "The node took the change, and the server's store cannot: it is completed as soon as the store can be written.",
			"Check that the disk is not full. Do not run the command again.", err)
	}
	return &r, err
}

// refused tells that the node answered, and did not take the statement.
func refused(err error) bool {
	e, ok := errors.AsType[*bulwark.Error](err)
	return ok && e.Kind != bulwark.KindUnavailable && e.Kind != bulwark.KindInternal
}

// apply writes an effect once.
func (b *inbox) apply(ctx context.Context, r *nodeapi.Receipt, effect effect) error {
	return b.db.Tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`UPDATE inbox SET done = 1, room = NULL WHERE digest = ? AND done = 0`, r.Digest)
		if err != nil {
			return err
		}
		if n, _ := res.RowsAffected(); n == 0 {
			return bulwark.Fail(bulwark.KindInternal, "The node answered about another statement.", "", nil)
		}
		return effect(ctx, tx, r)
	})
}

func (b *inbox) forget(ctx context.Context, digest bulwark.Digest) error {
	return b.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM inbox WHERE digest = ? AND done = 0`, digest)
		return err
	})
}

// run settles what is open until ctx ends.
func (b *inbox) run(ctx context.Context) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		if err := b.settle(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("it is not known yet what became of a statement", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settle asks the node about each open statement, in the order in which they came.
func (b *inbox) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, submitTime) // a node that hangs must not hold those who come with a statement
	defer cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	type open struct {
		digest bulwark.Digest
		at     time.Time
	}
	rows, err := b.db.Reader().QueryContext(ctx, `SELECT digest, at FROM inbox WHERE done = 0 ORDER BY at`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []open
	for rows.Next() {
		var o open
		var at int64
		if err := rows.Scan(&o.digest, &at); err != nil {
			return err
		}
		o.at = time.UnixMilli(at)
		all = append(all, o)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, o := range all {
		var r nodeapi.Receipt
		err := b.node.Call(ctx, "receipt", nodeapi.Accepted{Digest: o.digest}, &r)
		switch {
		case err == nil:
			err := b.apply(ctx, &r, b.effect)
			if bulwark.KindOf(err) == bulwark.KindNotFound { // its app was destroyed meanwhile
				err = b.forget(ctx, o.digest)
			}
			if err != nil {
				return err
			}
			b.log.Info("an interrupted change was completed", "statement", o.digest, "kind", r.Kind)
			b.done()
		case bulwark.KindOf(err) != bulwark.KindNotFound:
			return err
		case time.Since(o.at).Abs() > forgetAfter:
			if err := b.forget(ctx, o.digest); err != nil {
				return err
			}
			b.log.Info("an interrupted change was not made", "statement", o.digest)
		}
	}
	return nil
}
