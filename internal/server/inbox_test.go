package server

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// book is a node that remembers what it accepted, as the real one does.
type book struct {
	accepted map[bulwark.Digest]bool
	refuse   error // what it answers in place of accepting
	lose     bool  // its answer is lost: the caller or the node was killed
	away     bool
}

func (b *book) Call(_ context.Context, verb string, in, out any) error {
	if b.away {
		return bulwark.Failf(bulwark.KindUnavailable, "The node does not answer.")
	}
	switch in := in.(type) {
	case nodeapi.Document:
		if b.refuse != nil {
			return b.refuse
		}
		d := bulwark.Sum(in.Envelope)
		b.accepted[d] = true
		if b.lose {
			return bulwark.Failf(bulwark.KindUnavailable, "The node does not answer.")
		}
		out.(*nodeapi.Receipt).Digest = d
		return nil
	case nodeapi.Accepted:
		if !b.accepted[in.Digest] {
			return bulwark.Failf(bulwark.KindNotFound, "No such document was accepted.")
		}
		out.(*nodeapi.Receipt).Digest = in.Digest
		return nil
	}
	return errors.New("no such verb: " + verb)
}

// inboxBed is a store with an inbox; effects counts what was written.
type inboxBed struct {
	*inbox
	book    *book
	effects int
}

func newInboxBed(t *testing.T) *inboxBed {
	t.Helper()
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), inboxMigrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	b := &inboxBed{book: &book{accepted: map[bulwark.Digest]bool{}}}
	b.inbox = &inbox{db: d, node: b.book, effect: b.write, done: func() {}, log: slog.New(slog.DiscardHandler)}
	return b
}

func (b *inboxBed) write(context.Context, *sql.Tx, *nodeapi.Receipt) error { b.effects++; return nil }

func (b *inboxBed) open(t *testing.T) (n int) {
	t.Helper()
	if err := b.db.Reader().QueryRow(`SELECT count(*) FROM inbox WHERE done = 0`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (b *inboxBed) expect(t *testing.T, when string, effects, open int) {
	t.Helper()
	if got := b.open(t); b.effects != effects || got != open {
		t.Errorf("%s: %d effects, %d open; want %d, %d", when, b.effects, got, effects, open)
	}
}

func TestAStatementTakesEffectOnce(t *testing.T) {
	b := newInboxBed(t)
	if _, err := b.take(t.Context(), "submit", []byte("one"), b.write); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "taken", 1, 0)
	if err := b.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "settled", 1, 0)
}

// Somebody plays a statement again that took effect: the node knows it and gives the same receipt.
func TestAStatementThatIsPlayedAgainHasNoEffect(t *testing.T) {
	b := newInboxBed(t)
	if _, err := b.take(t.Context(), "submit", []byte("one"), b.write); err != nil {
		t.Fatal(err)
	}
	if _, err := b.take(t.Context(), "submit", []byte("one"), b.write); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Fatalf("got %v", err)
	}
	b.expect(t, "played again", 1, 0)
}

func TestWhatTheNodeRefusesLeavesNothing(t *testing.T) {
	b := newInboxBed(t)
	b.book.refuse = bulwark.Failf(bulwark.KindConflict, "The config was changed meanwhile.")
	if _, err := b.take(t.Context(), "submit", []byte("one"), b.write); bulwark.KindOf(err) != bulwark.KindConflict {
		t.Fatalf("got %v", err)
	}
	b.expect(t, "refused", 0, 0)
}

// The server is killed after the node accepted, or the answer is lost: the successor writes the effect.
func TestAnAcceptedStatementIsNotLost(t *testing.T) {
	b := newInboxBed(t)
	b.book.lose = true
	if _, err := b.take(t.Context(), "submit", []byte("one"), b.write); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Fatalf("got %v", err)
	}
	b.expect(t, "lost", 0, 1)
	b.book.away = true
	if err := b.settle(t.Context()); err == nil {
		t.Error("settled without the node")
	}
	b.expect(t, "the node is away", 0, 1)
	b.book.away = false
	if err := b.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "settled", 1, 0)
}

// The effect cannot be written, because the disk is full: it is written as soon as it can be.
func TestAnEffectThatFailsIsTriedAgain(t *testing.T) {
	b := newInboxBed(t)
	full := errors.New("the disk is full")
	_, err := b.take(t.Context(), "submit", []byte("one"), func(context.Context, *sql.Tx, *nodeapi.Receipt) error { return full })
	if !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	b.expect(t, "failed", 0, 1)
	if err := b.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "settled", 1, 0)
}

// The server is killed before the node heard of it: nothing was changed, and after a while nobody waits for it.
func TestAStatementThatNeverArrivedIsDropped(t *testing.T) {
	b := newInboxBed(t)
	b.book.away = true
	if _, err := b.take(t.Context(), "submit", []byte("one"), b.write); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Fatalf("got %v", err)
	}
	b.book.away = false
	if err := b.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "young", 0, 1) // the call of the server that was killed may still be on its way
	err := b.db.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE inbox SET at = ?`, time.Now().Add(-2*forgetAfter).UnixMilli())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "old", 0, 0)
}

// Who asked goes away in the middle: the change is made in whole all the same.
func TestACallerThatGoesAwayLeavesNoHalf(t *testing.T) {
	b := newInboxBed(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.take(ctx, "submit", []byte("one"), b.write); err != nil {
		t.Fatal(err)
	}
	b.expect(t, "taken", 1, 0)
}
