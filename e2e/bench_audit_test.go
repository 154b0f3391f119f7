//go:build bench

package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/audit/translog"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// auditEntries is how many entries the measured log has.
const auditEntries = 1_000_000

// auditBench is the part of an installation that the audit log is about, in one process and with real files.
type auditBench struct {
	store *db.DB
	book  *ledger.Ledger
	keys  inspect.Keys
	log   *translog.Log
}

// Checkpoint implements [translog.Node].
func (a *auditBench) Checkpoint(ctx context.Context, size uint64, root []byte, consistency [][]byte) ([]byte, error) {
	return a.book.Checkpoint(ctx, size, root, consistency)
}

// Checkpointed implements [translog.Node].
func (a *auditBench) Checkpointed(ctx context.Context) (uint64, string, error) {
	size, _, err := a.book.Checkpointed(ctx)
	return size, a.book.LogKey(), err
}

// benchAudit measures what an entry costs, how many a second come into the log, and how long a log of a million is checked.
func benchAudit(b *bench) error {
	dir, err := os.MkdirTemp(b.work, "audit-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a, err := openAuditBench(ctx, dir)
	if err != nil {
		return err
	}
	defer a.store.Close()
	defer a.book.Close()
	if err := a.call(ctx, b); err != nil {
		return err
	}
	if err := a.fill(ctx, auditEntries); err != nil {
		return err
	}
	began := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.log.Run(ctx)
	}()
	if err := a.log.Settle(ctx); err != nil {
		return err
	}
	b.add(result{Name: "entries that come into the signed log", Unit: "1/s", Ours: digested(auditEntries / time.Since(began).Seconds()), How: "a million rows that wait, until the checkpoint over all of them is signed"}, nil)
	cancel()
	<-done
	var whole []float64
	var state inspect.State
	for range min(3, *benchRuns) {
		began := time.Now()
		r, err := inspect.Inspect(context.Background(), auditSource{a}, a.keys, inspect.Options{})
		if err != nil {
			return err
		}
		if !r.Holds() || r.Checked < auditEntries {
			return fmt.Errorf("of %d entries: %q", r.Checked, r.Findings)
		}
		whole, state = append(whole, time.Since(began).Seconds()), r.State
	}
	b.add(result{Name: "audit verify over a million entries", Unit: "s", Ours: digested(whole...), How: "from the files, without the network: every leaf, every hash, the chain"}, nil)
	var again []float64
	for range *benchRuns {
		began := time.Now()
		if _, err := inspect.Inspect(context.Background(), auditSource{a}, a.keys, inspect.Options{State: state}); err != nil {
			return err
		}
		again = append(again, 1000*time.Since(began).Seconds())
	}
	b.add(result{Name: "audit verify --new, nothing new", Unit: "ms", Ours: digested(again...), How: "the same log, checked before"}, nil)
	return nil
}

func openAuditBench(ctx context.Context, dir string) (*auditBench, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	spare, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, err
	}
	a := &auditBench{}
	if a.store, err = db.Open(ctx, filepath.Join(dir, "bulwark.db"), audit.Migrations()); err != nil {
		return nil, err
	}
	if a.book, err = ledger.Open(ctx, ledger.Config{Path: filepath.Join(dir, "ledger.db"), Key: key, Domain: "apps.example.org",
		Keys: projectkeys.Open(dir, spare.Recipient())}); err != nil {
		return nil, err
	}
	a.keys = inspect.Keys{Node: statement.NewKey(key.Public().(ed25519.PublicKey)), Log: a.book.LogKey()}
	a.log = translog.New(translog.Config{DB: a.store, Dir: filepath.Join(dir, "audit-log"), Node: a, Log: slog.New(slog.DiscardHandler)})
	return a, nil
}

// auditEntry is one of an ordinary length.
func auditEntry(i int) audit.Entry {
	return audit.Entry{Project: bulwark.FirstProject, Actor: "p_00000000000000000000000008", Key: "SHA256:R96ljqAPrpQX7hnXZ1W/72kImQIRMu/7BP4fnk8MgFk",
		From: "192.0.2.1", Action: "app.scale", Resource: "app:shop", Outcome: audit.Done, Detail: fmt.Sprintf("map[web:%d]", i)}
}

// call measures a transaction with one row, and with an entry beside it.
func (a *auditBench) call(ctx context.Context, b *bench) error {
	err := a.store.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`CREATE TABLE row (id INTEGER PRIMARY KEY) STRICT`)
		return err
	})
	if err != nil {
		return err
	}
	var with, without []float64
	for i := range 20 * *benchRuns {
		for _, entry := range []bool{false, true} {
			began := time.Now()
			err := a.store.Tx(ctx, func(tx *sql.Tx) error {
				if _, err := tx.Exec(`INSERT INTO row DEFAULT VALUES`); err != nil || !entry {
					return err
				}
				return audit.Write(ctx, tx, auditEntry(i))
			})
			if err != nil {
				return err
			}
			if took := 1000 * time.Since(began).Seconds(); entry {
				with = append(with, took)
			} else {
				without = append(without, took)
			}
		}
	}
	b.add(result{Name: "a change with its entry", Unit: "ms", Ours: digested(with...), Peer: digested(without...), Whom: "without",
		How: "a transaction with one row, committed to disk"}, nil)
	return nil
}

func (a *auditBench) fill(ctx context.Context, n int) error {
	for done := 0; done < n; done += 10_000 {
		err := a.store.Tx(ctx, func(tx *sql.Tx) error {
			for i := range 10_000 {
				if err := audit.Write(ctx, tx, auditEntry(done+i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// auditSource reads the log where it lies.
type auditSource struct{ a *auditBench }

// Checkpoint implements [inspect.Source].
func (s auditSource) Checkpoint(context.Context) ([]byte, error) { return s.a.log.Checkpoint() }

// Tile implements [inspect.Source].
func (s auditSource) Tile(ctx context.Context, level, index uint64, width uint8) ([]byte, error) {
	return s.a.log.Tile(ctx, level, index, width)
}

// Entries implements [inspect.Source].
func (s auditSource) Entries(ctx context.Context, index uint64, width uint8) ([]byte, error) {
	return s.a.log.Entries(ctx, index, width)
}

// Chain implements [inspect.Source].
func (s auditSource) Chain(ctx context.Context, after uint64) ([][]byte, []byte, error) {
	return s.a.book.Chain(ctx, after)
}
