package audit_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
)

func open(t *testing.T) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), audit.Migrations())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func list(t *testing.T, d *db.DB, q audit.Query) []audit.Record {
	t.Helper()
	q.Most = 10_000
	all, err := audit.List(t.Context(), d.Reader(), q)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An entry says where the request came from, and fits into the log whatever it holds.
func TestWrite(t *testing.T) {
	d := open(t)
	o := &audit.Origin{From: "192.0.2.1", Key: "SHA256:key"}
	ctx := audit.WithOrigin(t.Context(), o)
	if o.Wrote() {
		t.Error("it says that an entry was written")
	}
	err := d.Tx(ctx, func(tx *sql.Tx) error {
		return audit.Write(ctx, tx, audit.Entry{Action: "a", Resource: "app:" + strings.Repeat("é", 1000), Outcome: audit.Done, Detail: "\xff" + strings.Repeat("日\x00", 10_000)})
	})
	if err != nil || !o.Wrote() {
		t.Fatal(err)
	}
	r := list(t, d, audit.Query{})[0]
	if r.From != "192.0.2.1" || r.Key != "SHA256:key" || r.Seq != 1 || r.Index != nil || !strings.HasSuffix(r.Detail, "…") || len(r.Detail) > 4096 {
		t.Errorf("it is %+v", r)
	}
	leaf, err := r.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.ParseLeaf(leaf); err != nil {
		t.Error(err)
	}
}

// A full disk refuses the change with the entry, and says so.
func TestWriteDiskFull(t *testing.T) {
	d := open(t)
	err := d.Tx(t.Context(), func(tx *sql.Tx) error {
		var pages int
		if err := tx.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
			return err
		}
		_, err := tx.Exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		err = d.Tx(t.Context(), func(tx *sql.Tx) error {
			return audit.Write(t.Context(), tx, audit.Entry{Action: "a", Resource: "platform", Outcome: audit.Done, Detail: strings.Repeat("x", 1000)})
		})
		if err != nil {
			break
		}
	}
	if bulwark.KindOf(err) != bulwark.KindUnavailable || !strings.Contains(err.Error(), "The audit log cannot take the entry, so nothing was changed.") {
		t.Errorf("it says %v", err)
	}
}

// Who knocks a million times writes a few entries and some counts.
func TestRefusals(t *testing.T) {
	d := open(t)
	now := time.Now()
	r := audit.NewRefusals(d, func() time.Time { return now })
	note := func(actor bulwark.PersonID, from, resource string) {
		t.Helper()
		ctx := audit.WithOrigin(t.Context(), &audit.Origin{From: from})
		if err := r.Note(ctx, audit.Entry{Actor: actor, Action: "self.read", Resource: resource, Outcome: audit.Refused}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5000 {
		note("", fmt.Sprintf("192.0.2.%d", i%200), fmt.Sprintf("app:a%d", i))
		now = now.Add(time.Millisecond)
	}
	if n := len(list(t, d, audit.Query{})); n != 10 {
		t.Errorf("a stranger wrote %d entries", n)
	}
	if err := r.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	all := list(t, d, audit.Query{})
	if len(all) != 11 || !strings.Contains(all[0].Detail, "4990 more, from 192.0.2.") || !strings.HasSuffix(all[0].Detail, "and perhaps others") {
		t.Errorf("the count is %+v", all[0])
	}
	note("p_00000000000000000000000008", "192.0.2.9", "app:shop")
	if got := list(t, d, audit.Query{Resource: "app:shop"}); len(got) != 1 {
		t.Errorf("strangers used up what a person may write: %+v", got)
	}
	now = now.Add(10 * time.Minute)
	note("", "192.0.2.9", "app:shop")
	if got := list(t, d, audit.Query{Resource: "app:shop"}); len(got) != 2 {
		t.Errorf("after a while a refusal is an entry again: %+v", got)
	}
	if err := r.Flush(context.Background()); err != nil || len(list(t, d, audit.Query{})) != 13 {
		t.Error("nothing was to be counted", err)
	}
}
