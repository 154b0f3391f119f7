// Package translog puts audit entries into a transparency log, in the order in which they were committed, and has the node
// sign where it stands. The log is tiles in files (C2SP tlog-tiles), kept by Tessera; anybody can check it with other
// tools than ours.
//
// It promises that an entry is in the log once and in its place, whatever is killed when: what is in the log is found out
// from its last entries, not from a mark. It does not promise that the log is the true one: whoever owns the server can
// write into its files. What the node signed cannot be taken back, though; see docs/audit.md.
package translog

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// Config is what a log needs.
type Config struct {
	DB   *db.DB
	Dir  string // of the log alone
	Node Node
	Log  *slog.Logger
	// Every is how long a checkpoint waits for more entries; 0 means a second.
	Every time.Duration
}

// Node signs checkpoints.
type Node interface {
	// Checkpoint returns the signed checkpoint of a log that holds what was signed before.
	Checkpoint(ctx context.Context, size uint64, root []byte, consistency [][]byte) ([]byte, error)
	// Checkpointed returns the size that was signed last, and the verifier key in the form of package note.
	Checkpointed(ctx context.Context) (size uint64, key string, err error)
}

// Log is the log of a server.
type Log struct {
	c     Config
	files client.FileFetcher

	mu      sync.Mutex // guards what follows
	trouble error      // why entries are not in a signed log; nil if nothing is known to be wrong
}

// How long things take.
const (
	signTime = 20 * time.Second
	lookFor  = 250 * time.Millisecond // new entries
	retry    = 2 * time.Second
	batch    = 512
)

// New makes a log in c.Dir, which may hold one already.
func New(c Config) *Log {
	if c.Every == 0 {
		c.Every = time.Second
	}
	return &Log{c: c, files: client.FileFetcher{Root: c.Dir}}
}

// Run integrates entries until ctx ends.
func (l *Log) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		l.c.Log.Error("entries of the audit log wait", "error", err)
		l.troubled(err)
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

func (l *Log) troubled(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble = err
}

// Trouble returns why entries are not in a signed log, nil if nothing is known to be wrong.
func (l *Log) Trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}

// session opens the log, finds out what is in it, and adds entries until ctx ends or something fails. After a failure the
// next session begins with what is in the log.
func (l *Log) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends what the appender started
	if err := os.MkdirAll(l.c.Dir, 0o700); err != nil {
		return err
	}
	sign, err := l.signer(ctx)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: l.c.Dir})
	if err != nil {
		return err
	}
	appender, _, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().WithCheckpointSigner(sign).
		WithCheckpointInterval(l.c.Every).WithCheckpointRepublishInterval(0).WithBatching(layout.EntryBundleWidth, 20*time.Millisecond))
	if err != nil {
		return err
	}
	next, err := l.recover(ctx, reader)
	if err != nil {
		return err
	}
	tick := time.NewTicker(lookFor)
	defer tick.Stop()
	for {
		added, err := l.integrate(ctx, appender, next)
		if err != nil {
			return err
		}
		next += added
		if added == batch {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// recover finds out what is in the log and marks it, and returns the place of the next entry.
func (l *Log) recover(ctx context.Context, reader tessera.LogReader) (uint64, error) {
	size, err := reader.IntegratedSize(ctx)
	if err != nil {
		return 0, err
	}
	last, err := audit.Last(ctx, l.c.DB.Reader())
	if err != nil {
		return 0, err
	}
	from := uint64(0)
	if last != nil {
		from = *last.Index + 1
		if from > size {
			return 0, fmt.Errorf("translog: the log has %d entries, %d were put into it: its folder was cut off, or an older one was put back", size, from)
		}
		if err := l.same(ctx, reader, size, *last); err != nil {
			return 0, err
		}
	}
	if from == size {
		return size, nil
	}
	return size, l.adopt(ctx, reader, from, size)
}

// same checks that a record is where it is marked to be.
func (l *Log) same(ctx context.Context, reader tessera.LogReader, size uint64, r audit.Record) error {
	want, err := r.Leaf()
	if err != nil {
		return err
	}
	leaves, err := read(ctx, reader, *r.Index, *r.Index+1, size)
	if err != nil {
		return err
	}
	if !bytes.Equal(leaves[0], want) {
		return fmt.Errorf("translog: entry %d is another in the log than in the store", *r.Index)
	}
	return nil
}

// adopt marks the records that are in the log already: a process before this one put them there and was killed. Entries that
// the store does not know mean that an older store was put back; they stay in the log, and that it happened becomes an entry.
func (l *Log) adopt(ctx context.Context, reader tessera.LogReader, from, size uint64) error {
	unknown, highest := 0, uint64(0)
	for at := from; at < size; {
		to := min(size, (at/layout.EntryBundleWidth+1)*layout.EntryBundleWidth)
		leaves, err := read(ctx, reader, at, to, size)
		if err != nil {
			return err
		}
		err = l.c.DB.Tx(ctx, func(tx *sql.Tx) error {
			waiting, err := audit.Waiting(ctx, tx, len(leaves))
			if err != nil {
				return err
			}
			for i, found := range leaves {
				if len(waiting) > 0 {
					want, err := waiting[0].Leaf()
					if err != nil {
						return err
					}
					if bytes.Equal(want, found) {
						if err := waiting[0].Place(ctx, tx, at+uint64(i)); err != nil {
							return err
						}
						waiting = waiting[1:]
						continue
					}
				}
				unknown++
				if r, err := audit.ParseLeaf(found); err == nil {
					highest = max(highest, r.Seq)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		at = to
	}
	if unknown == 0 {
		return nil
	}
	l.c.Log.Error("the audit log holds entries that the store does not know: an older store was put back", "entries", unknown)
	return l.c.DB.Tx(ctx, func(tx *sql.Tx) error {
		if err := audit.GoOnAfter(ctx, tx, highest); err != nil {
			return err
		}
		return audit.Write(ctx, tx, audit.Entry{Action: "audit.restored", Resource: "platform", Outcome: audit.Done,
			Detail: fmt.Sprintf("the log holds %d entries that the store does not know", unknown)})
	})
}

// integrate adds the oldest entries that wait, and returns how many.
func (l *Log) integrate(ctx context.Context, appender *tessera.Appender, next uint64) (uint64, error) {
	waiting, err := audit.Waiting(ctx, l.c.DB.Reader(), batch)
	if err != nil || len(waiting) == 0 {
		return 0, err
	}
	var leaves [][]byte
	for _, r := range waiting {
		leaf, err := r.Leaf()
		if err != nil {
			return 0, err
		}
		leaves = append(leaves, leaf)
	}
	if err := add(ctx, appender, leaves, next); err != nil {
		return 0, err
	}
	err = l.c.DB.Tx(ctx, func(tx *sql.Tx) error {
		for i, r := range waiting {
			if err := r.Place(ctx, tx, next+uint64(i)); err != nil {
				return err
			}
		}
		return nil
	})
	return uint64(len(waiting)), err
}

// add writes leaves into the log and waits until all are in it, also after an error: the next session must not begin while this
// one's writes are under way. After ctx has ended they may never end: neither adding nor waiting looks at it.
func add(ctx context.Context, appender *tessera.Appender, leaves [][]byte, next uint64) error {
	done := make(chan error, 1)
	go func() {
		// One after the other, from here alone: the log has them in this order.
		var futures []tessera.IndexFuture
		for _, leaf := range leaves {
			futures = append(futures, appender.Add(ctx, tessera.NewEntry(leaf)))
		}
		var errs error
		for i, f := range futures {
			index, err := f()
			if err == nil && index.Index != next+uint64(i) {
				err = fmt.Errorf("translog: an entry came to place %d, not %d: somebody else writes into the log", index.Index, next+uint64(i))
			}
			if errs == nil {
				errs = err
			}
		}
		done <- errs
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

// read returns leaves of the log as they are in its files; from and to are in the same bundle.
func read(ctx context.Context, reader tessera.LogReader, from, to, size uint64) ([][]byte, error) {
	bundle := from / layout.EntryBundleWidth
	b, err := reader.ReadEntryBundle(ctx, bundle, layout.PartialTileSize(0, bundle, size))
	if err != nil {
		return nil, err
	}
	var e api.EntryBundle
	if err := e.UnmarshalText(b); err != nil {
		return nil, err
	}
	first := bundle * layout.EntryBundleWidth
	if uint64(len(e.Entries)) < to-first {
		return nil, fmt.Errorf("translog: bundle %d of the log is cut off", bundle)
	}
	return e.Entries[from-first : to-first], nil
}

// Settle waits until what was written before is in a signed checkpoint, until ctx ends, or until something is known to be
// wrong.
func (l *Log) Settle(ctx context.Context) error {
	newest, err := audit.Newest(ctx, l.c.DB.Reader())
	if err != nil {
		return err
	}
	for {
		done, err := l.holds(ctx, newest)
		if err != nil || done {
			return err
		}
		if err := l.Trouble(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// holds reports whether all records up to one are in the newest checkpoint.
func (l *Log) holds(ctx context.Context, seq uint64) (bool, error) {
	var waiting bool
	var end uint64
	err := l.c.DB.Reader().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM audit WHERE place IS NULL AND seq <= ?), coalesce((SELECT place + 1 FROM audit WHERE seq = ?), 0)`,
		seq, seq).Scan(&waiting, &end)
	if err != nil || waiting {
		return false, err
	}
	_, size, err := l.published()
	return size >= end, err
}

func (l *Log) published() ([]byte, uint64, error) {
	b, err := os.ReadFile(filepath.Join(l.c.Dir, layout.CheckpointPath))
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	size, _, err := parseText(b)
	return b, size, err
}

// Checkpoint returns the newest signed checkpoint.
func (l *Log) Checkpoint() ([]byte, error) {
	b, _, err := l.published()
	if err == nil && b == nil {
		err = bulwark.Fail(bulwark.KindUnavailable, "The audit log has no signed checkpoint yet.", "Try again in a moment; if it stays so, see the server's log.", l.Trouble())
	}
	return b, err
}

// Tile returns a tile of hashes: width hashes, 0 for a full one.
func (l *Log) Tile(ctx context.Context, level, index uint64, width uint8) ([]byte, error) {
	b, err := l.files.ReadTile(ctx, level, index, width)
	return b, missing(err)
}

// Entries returns a bundle of entries: width of them, 0 for a full one.
func (l *Log) Entries(ctx context.Context, index uint64, width uint8) ([]byte, error) {
	b, err := l.files.ReadEntryBundle(ctx, index, width)
	return b, missing(err)
}

func missing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return bulwark.Failf(bulwark.KindNotFound, "The audit log has no such part.")
	}
	return err
}

// Consistency proves that the log of to entries holds that of from.
func (l *Log) Consistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	_, size, err := l.published()
	if err != nil {
		return nil, err
	}
	if from > to || to > size {
		return nil, bulwark.Failf(bulwark.KindNotFound, "The audit log has %d entries.", size)
	}
	return l.prove(ctx, from, to)
}

func (l *Log) prove(ctx context.Context, from, to uint64) ([][]byte, error) {
	if from == 0 || from == to {
		return nil, nil
	}
	pb, err := client.NewProofBuilder(ctx, to, l.files.ReadTile)
	if err != nil {
		return nil, err
	}
	return pb.ConsistencyProof(ctx, from, to)
}
