package app

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
)

// What was destroyed before there was a grace stays gone, and its name belongs to whoever has it since.
func TestDestroyedBeforeThereWasAGrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	all := Migrations()
	d, err := db.Open(t.Context(), path, all[:len(all)-1])
	if err == nil {
		err = d.Tx(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec(`INSERT INTO app (id, project, name, destroyed, created) VALUES ('a', 'p', 'shop', 1, '2026-01-01T00:00:00Z'), ('b', 'p', 'shop', 0, '2026-01-01T00:00:00Z')`)
			return err
		})
	}
	if err == nil {
		err = d.Close()
	}
	if err == nil {
		d, err = db.Open(t.Context(), path, all)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if final, err := Final(t.Context(), d.Reader(), "a"); !final || err != nil {
		t.Error(final, err)
	}
	if graced, err := Graced(t.Context(), d.Reader()); len(graced) > 0 || err != nil {
		t.Errorf("%v can be brought back, %v", graced, err)
	}
	if a, err := ByID(t.Context(), d.Reader(), "b"); err != nil || a.Name != "shop" {
		t.Error(a, err)
	}
}

// Each step may be made twice, and none out of its turn: what is final stays so.
func TestSteps(t *testing.T) {
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), Migrations())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	id := bulwark.NewAppID()
	err = d.Tx(t.Context(), func(tx *sql.Tx) error { return Insert(tx, App{ID: id, Project: "p", Name: "shop"}) })
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range []struct {
		step             func(*sql.Tx, bulwark.AppID) error
		here, kept, gone bool
	}{{Restore, true, true, false}, {Destroy, false, true, false}, {Destroy, false, true, false}, {Restore, true, true, false}, {Destroy, false, true, false},
		{Finish, false, false, true}, {Finish, false, false, true}, {Restore, false, false, true}, {Destroy, false, false, true}} {
		if err := d.Tx(t.Context(), func(tx *sql.Tx) error { return s.step(tx, id) }); err != nil {
			t.Fatal(err)
		}
		_, herr := ByID(t.Context(), d.Reader(), id)
		_, kerr := KeptByID(t.Context(), d.Reader(), id)
		gone, err := Final(t.Context(), d.Reader(), id)
		if err != nil || (herr == nil) != s.here || (kerr == nil) != s.kept || gone != s.gone {
			t.Errorf("after step %d: %v, %v, %t, %v", i, herr, kerr, gone, err)
		}
	}
}
