package inspect_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func holds(t *testing.T, r *inspect.Report) {
	t.Helper()
	if !r.Holds() {
		t.Errorf("it was found: %q", r.Findings)
	}
}

// An honest log holds, at each size, from the beginning and from what was checked before.
func TestHonest(t *testing.T) {
	r := newRig(t)
	var o inspect.Options
	total := uint64(1) // the enrolment
	for _, more := range []int{0, 1, 254, 1, 1, 300, 511, 0} {
		r.fill(more)
		r.tell(r.accept())
		total += uint64(more) + 1
		must(t, r.settle())
		seen := 0
		whole := r.inspect(inspect.Options{Seen: o.Seen, Entry: func(index uint64, _ audit.Record) { seen++ }})
		holds(t, whole)
		if whole.Size != total || whole.Checked != total || uint64(seen) != total || whole.Waiting != 0 {
			t.Errorf("of %d entries %d were checked and %d seen: %+v", total, whole.Checked, seen, whole)
		}
		if o.State.Size > 0 {
			part := r.inspect(o)
			holds(t, part)
			if part.Size != total || part.Checked != uint64(more)+1 {
				t.Errorf("of %d entries %d were checked, not %d", part.Size, part.Checked, more+1)
			}
		}
		o = remember(whole)
	}
}

// What the node did by itself has its entry like what people sign for, by nobody; it cannot be laid on somebody, nor left out.
func TestNodesOwnDeed(t *testing.T) {
	for name, c := range map[string]struct {
		entry func(e *audit.Entry) bool
		holds bool
	}{
		"told":                {func(*audit.Entry) bool { return true }, true},
		"laid on a person":    {func(e *audit.Entry) bool { e.Actor = "p_00000000000000000000000008"; return true }, false},
		"left out":            {func(*audit.Entry) bool { return false }, false},
		"called another deed": {func(e *audit.Entry) bool { e.Action = "app.create"; return true }, false},
	} {
		r := newRig(t)
		made, err := r.book.RotateDue(t.Context(), 0)
		must(t, err)
		if len(made) == 0 {
			t.Fatal("nothing was done")
		}
		links, _, err := r.book.Chain(t.Context(), 1)
		must(t, err)
		for _, b := range links {
			var link statement.Link
			must(t, statement.Strict(b, &link))
			got, err := r.book.Accepted(t.Context(), link.Document)
			must(t, err)
			e := entryOf(got)
			e.Outcome = audit.Recorded
			if c.entry(&e) {
				r.write(e)
			}
		}
		must(t, r.settle())
		r.clock = func() time.Time { return time.Now().Add(time.Hour) }
		report := r.inspect(inspect.Options{})
		if report.Holds() != c.holds {
			t.Errorf("%s: %q", name, report.Findings)
		}
	}
}

// What the node accepted a moment ago may be missing; later it may not. The entry of a server that was killed says that it
// is late.
func TestWaiting(t *testing.T) {
	r := newRig(t)
	got := r.accept()
	r.fill(3)
	must(t, r.settle())
	first := r.inspect(inspect.Options{})
	holds(t, first)
	if first.Waiting != 1 || first.Accepted != 2 {
		t.Errorf("it is %+v", first)
	}
	r.clock = func() time.Time { return time.Now().Add(time.Hour) }
	for name, o := range map[string]inspect.Options{"from the beginning": {}, "from what was checked": remember(first)} {
		if late := r.inspect(o); late.Holds() {
			t.Error(name, "nothing was found")
		}
	}
	e := entryOf(got)
	e.Outcome = audit.Recorded
	r.write(e)
	must(t, r.settle())
	for name, o := range map[string]inspect.Options{"from the beginning": {}, "from what was checked": remember(first)} {
		late := r.inspect(o)
		holds(t, late)
		if late.Late != 1 || late.Waiting != 0 {
			t.Errorf("%s it is %+v", name, late)
		}
	}
}

// A process that was killed after the entries came into the log and before that was noted leaves nothing lost or doubled.
func TestMarkLost(t *testing.T) {
	r := newRig(t)
	r.fill(600)
	must(t, r.settle())
	must(t, r.store.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE audit SET place = NULL WHERE place >= 100`)
		return err
	}))
	r.fill(5)
	must(t, r.settle())
	report := r.inspect(inspect.Options{})
	holds(t, report)
	if report.Size != 606 {
		t.Errorf("there are %d entries", report.Size)
	}
}

// A node that is away holds up the log and nothing else.
func TestNodeAway(t *testing.T) {
	r := newRig(t)
	must(t, r.settle())
	r.fill(3)
	l, stop := r.start()
	r.book.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.Settle(ctx); err == nil || l.Trouble() == nil {
		t.Error("the log says that it is signed", err)
	}
	stop()
	r.close()
	r.open()
	must(t, r.settle())
	holds(t, r.inspect(inspect.Options{}))
}

// A server shows the log and the node's word as they were an hour ago, whole and right: the time of the node's word says so.
func TestOldStateShown(t *testing.T) {
	r := newRig(t)
	r.fill(3)
	must(t, r.settle())
	holds(t, r.inspect(inspect.Options{Now: time.Now()}))
	if r.inspect(inspect.Options{Now: time.Now().Add(time.Hour)}).Holds() {
		t.Error("an old state was taken for today's")
	}
}

// A server that is owned writes that something was done which nobody signed for: it has to name a place in the node's chain.
func TestInventedDeed(t *testing.T) {
	for outcome, found := range map[audit.Outcome]bool{audit.Done: true, audit.Accepted: true, audit.Asked: false, audit.Refused: false, audit.Failed: false} {
		r := newRig(t)
		r.write(audit.Entry{Actor: bulwark.NewPersonID(), Key: "SHA256:x", Action: "config.set", Resource: "app:shop", Outcome: outcome, Document: bulwark.Sum([]byte("invented"))})
		must(t, r.settle())
		got := r.inspect(inspect.Options{})
		if got.Holds() == found {
			t.Errorf("%s: %q", outcome, got.Findings)
		}
	}
}
