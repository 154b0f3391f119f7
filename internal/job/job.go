// Package job runs operations: pieces of work on an app that take longer than a request. It promises that an operation is
// as durable as the change that caused it (it is enqueued in the same transaction), that one runs per app at a time, in
// order, a newer deploy taking the place of one that waits, that one which was cut off is run again from its beginning,
// and that each ends in a state with a reason that its user can read. The record is the lock and the cancel handle.
//
// Work must therefore be written so that a second run finds what the first one did. Whoever owns the server owns its
// operations; what they ask of the node is verified there.
package job

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// The states of an operation.
const (
	Waiting  = "waiting"
	Running  = "running"
	Done     = "done"
	Failed   = "failed"
	Canceled = "canceled"
	Replaced = "replaced" // by a newer one of the same kind, before it began
)

// Operation is one piece of work.
type Operation struct {
	ID      bulwark.OperationID
	Project bulwark.ProjectID
	App     bulwark.AppID
	Kind    string // "deploy", "change", "approve", "restart"
	Cause   bulwark.Digest
	Person  bulwark.PersonID
	Note    string
	State   string
	Error   *bulwark.Error
	Result  *client.Done
}

// Migrations is the schema.
func Migrations() []db.Migration {
	return []db.Migration{{ID: "job-1", SQL: `
CREATE TABLE operation (
	seq     INTEGER PRIMARY KEY AUTOINCREMENT,
	id      TEXT NOT NULL UNIQUE,
	project TEXT NOT NULL,
	app     TEXT NOT NULL,
	kind    TEXT NOT NULL,
	cause   TEXT NOT NULL,
	person  TEXT NOT NULL,
	note    TEXT NOT NULL,
	state   TEXT NOT NULL,
	error   TEXT NOT NULL DEFAULT '',
	result  TEXT NOT NULL DEFAULT '',
	created TEXT NOT NULL,
	ended   TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX operation_open ON operation (state, app)`}}
}

// Work performs one operation.
type Work func(ctx context.Context, op Operation, log *Log) (*client.Done, error)

// Engine runs operations.
type Engine struct {
	db   *db.DB
	logs *logs
	work Work
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	busy    map[bulwark.AppID]bool
	cancels map[bulwark.OperationID]handle
	ended   map[bulwark.OperationID]chan struct{}
	wg      sync.WaitGroup
}

// New makes an engine. dir is for logs.
func New(d *db.DB, dir string, log *slog.Logger, work Work) (*Engine, error) {
	l, err := newLogs(dir)
	return &Engine{db: d, logs: l, work: work, log: log, busy: map[bulwark.AppID]bool{},
		cancels: map[bulwark.OperationID]handle{}, ended: map[bulwark.OperationID]chan struct{}{}}, err
}

// Enqueue adds an operation in the transaction of its cause. Call Wake after the commit.
func Enqueue(tx *sql.Tx, op Operation) error {
	if op.Kind == "deploy" {
		if _, err := tx.Exec(`UPDATE operation SET state = ?, ended = ? WHERE app = ? AND kind = 'deploy' AND state = ?`,
			Replaced, now(), op.App, Waiting); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`INSERT INTO operation (id, project, app, kind, cause, person, note, state, created) VALUES (?,?,?,?,?,?,?,?,?)`,
		op.ID, op.Project, op.App, op.Kind, op.Cause, op.Person, op.Note, Waiting, now())
	return err
}

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// Start begins to run operations, those first that an earlier process did not finish. It returns at once.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	e.ctx = ctx
	e.mu.Unlock()
	err := e.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE operation SET state = ? WHERE state = ?`, Waiting, Running)
		return err
	})
	if err != nil {
		return err
	}
	e.Wake()
	return nil
}

// Wait waits until nothing runs any more, after Start's context has ended.
func (e *Engine) Wait() { e.wg.Wait() }

// Wake has the engine look for operations.
func (e *Engine) Wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx == nil || e.ctx.Err() != nil {
		return
	}
	rows, err := e.db.Reader().QueryContext(e.ctx, `SELECT DISTINCT app FROM operation WHERE state IN ('waiting', 'replaced') AND (state = 'waiting' OR ended > ?)`,
		time.Now().Add(-time.Minute).UTC().Format(time.RFC3339Nano))
	if err != nil {
		e.log.Error("operations cannot be read", "error", err)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var app bulwark.AppID
		if err := rows.Scan(&app); err != nil {
			e.log.Error("operations cannot be read", "error", err)
			return
		}
		if !e.busy[app] {
			e.busy[app] = true
			e.wg.Go(func() { e.loop(app) })
		}
	}
	e.logs.wake() // who watches an operation that was replaced learns of it
}

// loop runs an app's operations until there are none.
func (e *Engine) loop(app bulwark.AppID) {
	for {
		op, ok, err := e.next(app)
		if err != nil {
			e.log.Error("operations cannot be read", "error", err)
			select { // a full disk must not keep a processor busy
			case <-e.ctx.Done():
			case <-time.After(time.Second):
			}
		}
		if !ok {
			e.mu.Lock()
			// Looked at again under the lock: an operation may have come in between.
			more, _ := e.waiting(app)
			if !more || e.ctx.Err() != nil {
				delete(e.busy, app)
				e.mu.Unlock()
				return
			}
			e.mu.Unlock()
			continue
		}
		e.run(op)
	}
}

func (e *Engine) waiting(app bulwark.AppID) (bool, error) {
	var n int
	err := e.db.Reader().QueryRow(`SELECT count(*) FROM operation WHERE app = ? AND state = ?`, app, Waiting).Scan(&n)
	return n > 0 && err == nil, err
}

func (e *Engine) next(app bulwark.AppID) (op Operation, ok bool, err error) {
	if e.ctx.Err() != nil {
		return op, false, nil
	}
	err = e.db.Tx(e.ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow(`SELECT id, project, app, kind, cause, person, note FROM operation WHERE app = ? AND state = ? ORDER BY seq LIMIT 1`, app, Waiting).
			Scan(&op.ID, &op.Project, &op.App, &op.Kind, &op.Cause, &op.Person, &op.Note)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		ok = true
		// Before the commit: whoever cancels what they see running must find how.
		e.handle(op.ID)
		_, err = tx.Exec(`UPDATE operation SET state = ? WHERE id = ?`, Running, op.ID)
		return err
	})
	if ok && err != nil {
		e.drop(op.ID)(nil)
	}
	return op, ok && err == nil, err
}

// Open returns the apps that have an operation which is not over.
func (e *Engine) Open(ctx context.Context) (map[bulwark.AppID]bool, error) {
	rows, err := e.db.Reader().QueryContext(ctx, `SELECT DISTINCT app FROM operation WHERE state IN (?, ?)`, Waiting, Running)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[bulwark.AppID]bool{}
	for rows.Next() {
		var id bulwark.AppID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out[id] = true
	}
	return out, rows.Err()
}

// handle is how an operation is cancelled.
type handle struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// handle makes the handle of an operation that is about to run.
func (e *Engine) handle(id bulwark.OperationID) {
	ctx, cancel := context.WithCancelCause(e.ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancels[id] = handle{ctx, cancel}
}

// drop forgets the handle of an operation that does not run any more, and returns what frees its context.
func (e *Engine) drop(id bulwark.OperationID) context.CancelCauseFunc {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.cancels[id]
	delete(e.cancels, id)
	return h.cancel
}

// run performs one operation and writes down how it ended. When the engine stops meanwhile nothing is written: the
// operation is found running by the next one, and run again.
func (e *Engine) run(op Operation) {
	e.mu.Lock()
	ctx := e.cancels[op.ID].ctx
	e.mu.Unlock()
	log := e.logs.open(op.ID)
	result, err := e.work(ctx, op, log)
	defer e.drop(op.ID)(nil) // at once, but for the freeing
	if e.ctx.Err() != nil {
		log.close(nil)
		return
	}
	last := client.Event{Done: result}
	state := Done
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		state, last = Failed, client.Event{Error: public(err, e.log, op)}
		if last.Error.Kind == bulwark.KindCanceled {
			state = Canceled
		}
	} else if result == nil {
		last.Done = &client.Done{}
	}
	if err := e.finish(op.ID, state, last); err != nil {
		e.log.Error("an operation's end cannot be written", "operation", op.ID, "error", err)
	}
	log.close(&last)
	if err := e.forget(op.App); err != nil {
		e.log.Warn("old logs of operations stay", "app", op.App, "error", err)
	}
}

// keepLogs is how many operations of an app have a log; of older ones what they came to is kept.
const keepLogs = 100

// forget removes the logs of an app's older operations. Each end of one brings one more to remove; a few at a time make up for
// those that were missed.
func (e *Engine) forget(app bulwark.AppID) error {
	rows, err := e.db.Reader().QueryContext(context.WithoutCancel(e.ctx),
		`SELECT id FROM operation WHERE app = ? AND state NOT IN (?, ?) ORDER BY seq DESC LIMIT 20 OFFSET ?`, app, Waiting, Running, keepLogs)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id bulwark.OperationID
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if err := os.Remove(e.logs.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return rows.Err()
}

func public(err error, log *slog.Logger, op Operation) *bulwark.Error {
	if x, ok := errors.AsType[*bulwark.Error](err); ok && x.Kind != bulwark.KindInternal {
		if x.Cause != nil {
			log.Info("operation failed", "operation", op.ID, "error", err)
		}
		return x
	}
	log.Error("operation failed", "operation", op.ID, "error", err)
	return &bulwark.Error{Kind: bulwark.KindInternal, Message: "Something went wrong inside the platform.", Hint: "Try again; the server's log has the reason."}
}

func (e *Engine) finish(id bulwark.OperationID, state string, last client.Event) error {
	var result, failure []byte
	var err error
	if last.Done != nil {
		result, err = json.Marshal(last.Done)
	} else {
		failure, err = json.Marshal(last.Error)
	}
	if err != nil {
		return err
	}
	return e.db.Tx(context.WithoutCancel(e.ctx), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE operation SET state = ?, result = ?, error = ?, ended = ? WHERE id = ?`, state, string(result), string(failure), now(), id)
		return err
	})
}

// Cancel stops an app's operations of a kind, the one that runs and those that wait; it tells whether there were any.
func (e *Engine) Cancel(ctx context.Context, app bulwark.AppID, kind string, reason error) (bool, error) {
	var ids []bulwark.OperationID
	err := e.db.Tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT id FROM operation WHERE app = ? AND (kind = ? OR ? = '') AND state IN (?, ?)`, app, kind, kind, Running, Waiting)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id bulwark.OperationID
			if err := rows.Scan(&id); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		_, err = tx.Exec(`UPDATE operation SET state = ?, ended = ? WHERE app = ? AND (kind = ? OR ? = '') AND state = ?`, Canceled, now(), app, kind, kind, Waiting)
		return err
	})
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	for _, id := range ids {
		if h, ok := e.cancels[id]; ok {
			h.cancel(reason)
		}
	}
	e.mu.Unlock()
	e.logs.wake()
	return len(ids) > 0, nil
}

// Get returns an operation.
func (e *Engine) Get(ctx context.Context, app bulwark.AppID, id bulwark.OperationID) (*Operation, error) {
	op := &Operation{ID: id}
	var result, failure string
	err := e.db.Reader().QueryRowContext(ctx, `SELECT project, app, kind, cause, person, note, state, error, result FROM operation WHERE id = ? AND app = ?`, id, app).
		Scan(&op.Project, &op.App, &op.Kind, &op.Cause, &op.Person, &op.Note, &op.State, &failure, &result)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, bulwark.Failf(bulwark.KindNotFound, "There is no such operation.")
	}
	if err != nil {
		return nil, err
	}
	if failure != "" {
		op.Error = &bulwark.Error{}
		err = json.Unmarshal([]byte(failure), op.Error)
	}
	if result != "" {
		op.Result = &client.Done{}
		err = errors.Join(err, json.Unmarshal([]byte(result), op.Result))
	}
	return op, err
}

// Over tells that an operation has ended.
func (o Operation) Over() bool { return o.State != Waiting && o.State != Running }
