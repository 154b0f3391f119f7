package ledger

import (
	"database/sql"
	"path/filepath"
	"slices"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/db"
)

// What was destroyed before there was a grace had none: it stays gone, whatever has its name since.
func TestDestroyedBeforeThereWasAGrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	before := slices.Concat(migrations(), auditMigrations(), approvalMigrations())
	d, err := db.Open(t.Context(), path, before)
	if err == nil {
		err = d.Tx(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec(`INSERT INTO app (id, name, project, block, destroyed) VALUES ('a', 'shop', 'p', 1, 1), ('b', 'shop', 'p', 2, 1), ('c', 'shop', 'p', 3, 0)`)
			return err
		})
	}
	if err == nil {
		err = d.Close()
	}
	if err == nil {
		d, err = db.Open(t.Context(), path, slices.Concat(before, graceMigrations()))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var final, here int
	if err := d.Reader().QueryRow(`SELECT sum(destroyed = 2), sum(destroyed = 0) FROM app`).Scan(&final, &here); err != nil || final != 2 || here != 1 {
		t.Errorf("%d are final and %d are here: %v", final, here, err)
	}
}
