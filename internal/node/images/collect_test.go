package images_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// keep is the book's word that these images stay.
func (w *world) keep(images ...bulwark.Digest) func(context.Context) (map[bulwark.Digest][]ledger.Layer, error) {
	return func(context.Context) (map[bulwark.Digest][]ledger.Layer, error) {
		stay := map[bulwark.Digest][]ledger.Layer{}
		for _, d := range images {
			stay[d] = w.notes.layers[d]
		}
		return stay, nil
	}
}

func (w *world) files() (n int) {
	for _, dir := range []string{"blobs/sha256", "layers"} {
		entries, err := os.ReadDir(filepath.Join(w.dir, dir))
		w.must(err)
		n += len(entries)
	}
	return n
}

// What no image needs goes; what images share stays as long as one of them does; an image that went can come again.
func TestCollect(t *testing.T) {
	w := newWorld(t)
	shared := w.layer("shared")
	one, two := w.image(shared, w.layer("one")), w.image(shared, w.layer("two"))
	for _, d := range []bulwark.Digest{one, two} {
		_, _, err := w.Admit(t.Context(), w.from, d)
		w.must(err)
	}
	w.must(os.WriteFile(filepath.Join(w.dir, "layers", bulwark.Sum([]byte("erofs of one")).Hex()+".inventory.1.json"), nil, 0o600))
	done, err := w.Collect(t.Context(), w.keep(one, two))
	w.must(err)
	if n := w.files(); !done || n != 2+1+3+3+1 { // manifests, their one config, blobs and files of layers, an inventory
		t.Fatal(done, n)
	}
	_, err = w.Collect(t.Context(), w.keep(two))
	w.must(err)
	if _, _, err := w.Verify(t.Context(), two); err != nil {
		t.Fatal("what an app needs was taken", err)
	}
	for _, path := range []string{"blobs/sha256/" + one.Hex(), "blobs/sha256/" + bulwark.Sum([]byte("one")).Hex(),
		"layers/" + bulwark.Sum([]byte("erofs of one")).Hex() + ".erofs", "layers/" + bulwark.Sum([]byte("erofs of one")).Hex() + ".inventory.1.json"} {
		if _, err := os.Stat(filepath.Join(w.dir, path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	if _, _, err := w.Verify(t.Context(), one); err == nil {
		t.Error("an image without files verified")
	}
	w.layer("one") // packed again
	if _, _, err := w.Admit(t.Context(), w.from, one); err != nil {
		t.Fatal("it did not come again", err)
	}
	_, err = w.Collect(t.Context(), w.keep())
	w.must(err)
	if n := w.files(); n != 0 {
		t.Errorf("%d files are left of nothing", n)
	}
}

// Nothing is collected while somebody admits, or has admitted and not yet said what for; a book that cannot be asked
// forgets nothing.
func TestCollectWaits(t *testing.T) {
	w := newWorld(t)
	image := w.image(w.layer("one"))
	letGo := w.Hold()
	_, _, err := w.Admit(t.Context(), w.from, image)
	w.must(err)
	if done, err := w.Collect(t.Context(), w.keep()); done || err != nil {
		t.Fatal("it was collected while it was held", err)
	}
	letGo()
	away := errors.New("away")
	if done, err := w.Collect(t.Context(), func(context.Context) (map[bulwark.Digest][]ledger.Layer, error) { return nil, away }); done || !errors.Is(err, away) {
		t.Fatal(done, err)
	}
	_, _, err = w.Verify(t.Context(), image)
	w.must(err)
}

// A node is killed at each point of a collection. The next one finishes it, and what stays is whole.
func TestCollectIsCutOff(t *testing.T) {
	w := newWorld(t)
	one, two := w.image(w.layer("shared"), w.layer("one")), w.image(w.layer("shared"), w.layer("two"))
	admit := func() {
		for _, d := range []bulwark.Digest{one, two} {
			w.layer("one") // of which the file may be gone
			_, _, err := w.Admit(t.Context(), w.from, d)
			w.must(err)
		}
	}
	admit()
	whole := w.files()
	_, err := w.Collect(t.Context(), w.keep(two))
	w.must(err)
	rest := w.files()
	gone := []string{"layers/" + bulwark.Sum([]byte("erofs of one")).Hex() + ".erofs", "blobs/sha256/" + bulwark.Sum([]byte("one")).Hex(), "blobs/sha256/" + one.Hex()}
	if rest != whole-len(gone) {
		t.Fatalf("%d of %d files", rest, whole)
	}
	for cut := range len(gone) + 1 {
		w.reopen()
		admit()
		for _, path := range gone[:cut] { // so far it came, in any order; the book has forgotten the image
			w.must(os.Remove(filepath.Join(w.dir, path)))
		}
		w.reopen()
		_, err := w.Collect(t.Context(), w.keep(two))
		w.must(err)
		if n := w.files(); n != rest {
			t.Errorf("after %d steps %d files are left, not %d", cut, n, rest)
		}
		_, _, err = w.Verify(t.Context(), two)
		w.must(err)
	}
}

// Half of what was being made goes at the start, but for the top layers of what is mounted.
func TestTidy(t *testing.T) {
	w := newWorld(t)
	tmp := filepath.Join(w.dir, "tmp")
	for _, d := range []string{"mount-app_a-1/platform/etc", "mount-app_b-2/platform/etc", "mount-bld_c/l0"} {
		w.must(os.MkdirAll(filepath.Join(tmp, d), 0o700))
	}
	for _, f := range []string{"blob-1", "layer-2", "document-3"} {
		w.must(os.WriteFile(filepath.Join(tmp, f), nil, 0o600))
	}
	w.must(w.Tidy(func(name string) bool { return name == "app_a-1" }))
	left, err := os.ReadDir(tmp)
	w.must(err)
	if len(left) != 1 || left[0].Name() != "mount-app_a-1" {
		t.Fatal(left)
	}
}
