package audit_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark/internal/audit"
)

// The newest word of each witness is kept, an older one does not take its place, and there is room for so many.
func TestWitnessed(t *testing.T) {
	ctx, d := t.Context(), open(t)
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	put := func(who string, size uint64, at time.Time) (kept bool) {
		t.Helper()
		err := d.Tx(ctx, func(tx *sql.Tx) (err error) {
			kept, err = audit.PutWitnessed(ctx, tx, audit.Witnessed{Witness: who, Note: fmt.Appendf(nil, "%s %d", who, size), Size: size, At: at})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return kept
	}
	for i := range 16 {
		if !put(fmt.Sprintf("w%02d", i), 7, at) {
			t.Fatalf("there is no room for witness %d", i)
		}
	}
	if put("another", 7, at) {
		t.Error("there is room for a seventeenth")
	}
	put("w00", 9, at.Add(time.Hour))
	put("w00", 8, at.Add(2*time.Hour)) // shorter
	put("w00", 9, at)                  // older, sent again by somebody else
	all, err := audit.WitnessedBy(ctx, d.Reader())
	if err != nil || len(all) != 16 {
		t.Fatal(len(all), err)
	}
	if w := all[0]; w.Witness != "w00" || w.Size != 9 || !w.At.Equal(at.Add(time.Hour)) || string(w.Note) != "w00 9" {
		t.Errorf("%+v %s", w, w.Note)
	}
}
