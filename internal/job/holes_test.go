// What did not hold once: each test tells of a hole that was found by looking for it, and that stays closed.

package job_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/job"
)

// A store that cannot be written (the disk is full) must not be asked again without a pause, with a line in the log each
// time: that fills the disk for good and takes a whole core.
func TestHoleBusyLoop(t *testing.T) {
	dir := t.TempDir()
	d, err := db.Open(t.Context(), filepath.Join(dir, "db"), job.Migrations())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	app := bulwark.NewAppID()
	err = d.Tx(t.Context(), func(tx *sql.Tx) error {
		if err := job.Enqueue(tx, job.Operation{ID: bulwark.NewOperationID(), App: app, Kind: "deploy"}); err != nil {
			return err
		}
		_, err := tx.Exec(`CREATE TRIGGER full BEFORE UPDATE ON operation WHEN new.state = 'running' BEGIN SELECT raise(ABORT, 'database or disk is full'); END`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	lines := &countingHandler{Handler: slog.DiscardHandler, hundred: make(chan struct{})}
	e, err := job.New(d, filepath.Join(dir, "logs"), slog.New(lines), func(context.Context, job.Operation, *job.Log) (*client.Done, error) {
		return nil, errors.New("it must not run")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer e.Wait()
	defer stop()
	select {
	case <-lines.hundred:
		t.Fatal("a hundred attempts were made in less than a second")
	case <-second():
	}
}

// countingHandler tells of the hundredth line.
type countingHandler struct {
	slog.Handler
	n       atomic.Int64
	hundred chan struct{}
}

func (h *countingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *countingHandler) Handle(context.Context, slog.Record) error {
	if h.n.Add(1) == 100 {
		close(h.hundred)
	}
	return nil
}

func second() <-chan time.Time { return time.After(time.Second) }
