package images_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// looking returns a store with the helpers that it has in an installation, but for the one that looks into layers, which is
// built from catalog.
func looking(t *testing.T, catalog string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a cell takes root: make test")
	}
	bin := t.TempDir()
	build := func(name, pkg string) string {
		out := filepath.Join(bin, name)
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		return out
	}
	w := newWorld(t)
	cells := &cell.Cells{Launcher: build("bulwark-cell", "../../../cmd/bulwark-cell"), Cgroup: fmt.Sprintf("/bulwark-imagestest-%d", os.Getpid()),
		Users: cell.UserRange{First: 47_000, Count: 4}}
	t.Cleanup(func() {
		for _, pattern := range []string{"/sys/fs/cgroup/*" + cells.Cgroup, "/sys/fs/cgroup" + cells.Cgroup} {
			left, _ := filepath.Glob(pattern)
			for _, g := range left {
				if err := os.Remove(g); err != nil {
					t.Error("a control group is left: ", err)
				}
			}
		}
	})
	for d := bin; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		w.must(os.Chmod(d, 0o755))
	}
	scratch := filepath.Join(bin, "scratch")
	w.must(os.Mkdir(scratch, 0o711))
	s, err := images.Open(images.Config{Dir: w.dir, Pack: build("bulwark-pack", "../../../cmd/bulwark-pack"), Catalog: build("bulwark-sbom", catalog),
		Scratch: scratch, Cells: cells, Ledger: w.notes})
	w.must(err)
	w.Store = s
	return w
}

// inventories tells how many layers have one that is kept.
func (w *world) inventories() []string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, "layers", "*.inventory.*"))
	w.must(err)
	return found
}

// A layer is looked into once, by a process in a cell, and what was found is kept beside it.
func TestInventory(t *testing.T) {
	w := looking(t, "../../../cmd/bulwark-sbom")
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	text := `{"name":"ms","version":"2.1.3"}`
	w.must(tw.WriteHeader(&tar.Header{Name: "app/node_modules/ms/package.json", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}))
	fmt.Fprint(tw, text)
	w.must(tw.Close())
	layers, _, err := w.Admit(t.Context(), w.from, w.image(ocispec.Descriptor{Digest: digest.Digest(w.put(b.Bytes())), Size: int64(b.Len())}))
	w.must(err)
	look := func() {
		t.Helper()
		l, err := w.Inventory(t.Context(), layers[0])
		w.must(err)
		if len(l.Finds) != 1 || len(l.Finds[0].Components) != 1 || l.Finds[0].Components[0] != (inventory.Component{Kind: inventory.NPM, Name: "ms", Version: "2.1.3"}) {
			t.Fatalf("%+v", l)
		}
	}
	look()
	kept := w.inventories()
	if len(kept) != 1 {
		t.Fatalf("kept: %q", kept)
	}
	before, err := os.Stat(kept[0])
	w.must(err)
	look()
	after, err := os.Stat(kept[0])
	w.must(err)
	if !os.SameFile(before, after) {
		t.Fatal("it was looked into twice")
	}
	// One that was spoilt on disk is made again, and a layer that was is not looked into.
	w.must(os.WriteFile(kept[0], []byte(`{"finds":[{"path":"x","components":[{"kind":"npm","name":"\u001b","version":"1"}]}]}`), 0o600))
	look()
	w.must(os.Remove(kept[0]))
	w.must(os.Chmod(w.kept(layers[0].EROFS), 0o600))
	w.must(os.WriteFile(w.kept(layers[0].EROFS), []byte("other"), 0o600))
	if l, err := w.Inventory(t.Context(), layers[0]); err == nil {
		t.Fatalf("%+v", l)
	}
	w.clean()
}

// Whoever owns the process that looks into a layer can say of that layer what an inventory can say, and nothing else: what is
// none is not kept, and what it says has an end.
func TestInventoryOfAnOwnedProcess(t *testing.T) {
	w := looking(t, "./testdata/ownedsbom")
	for says, ok := range map[string]bool{
		`{"gone":["all","of","it"]}`: true,
		"reads the host":             true,
		"dies":                       false,
		"talks for ever":             false,
		"":                           false,
		`{"gone":["a"]} {}`:          false,
		`{"path":"/etc/shadow"}`:     false,
		`{"finds":[{"path":"x","components":[{"kind":"npm","name":"\u001b[2J","version":"1"}]}]}`: false,
		strings.Repeat("[", 1<<20): false,
	} {
		d := w.layer(says)
		blob := bulwark.Digest(d.Digest)
		l, err := w.Inventory(t.Context(), ledger.Layer{Blob: blob, EROFS: w.notes.files[blob]})
		if (err == nil) != ok || (l != nil) != ok {
			t.Errorf("%.80s: %+v, %v", says, l, err)
		}
		if says == "reads the host" && (len(l.Gone) != 1 || l.Gone[0] != "0 false") {
			t.Errorf("it read a file of the host's: %+v", l)
		}
		kept := w.inventories()
		if (len(kept) > 0) != ok {
			t.Errorf("%.80s: kept %q", says, kept)
		}
		for _, k := range kept {
			w.must(os.Remove(k))
		}
	}
	w.clean()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	blob := bulwark.Digest(w.layer("{}").Digest)
	if l, err := w.Inventory(ctx, ledger.Layer{Blob: blob, EROFS: w.notes.files[blob]}); err == nil {
		t.Errorf("%+v", l)
	}
}

// A document is returned as it was kept, or not at all.
func TestDocument(t *testing.T) {
	w := newWorld(t)
	d, err := w.KeepDocument([]byte("{}\n"))
	w.must(err)
	if again, err := w.KeepDocument([]byte("{}\n")); err != nil || again != d {
		t.Fatal(again, err)
	}
	b, err := w.Document(d)
	w.must(err)
	if string(b) != "{}\n" {
		t.Fatalf("%q", b)
	}
	if _, err := w.Document(bulwark.Sum([]byte("never"))); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Fatal(err)
	}
	w.must(os.WriteFile(filepath.Join(w.dir, "sbom", d.Hex()+".json"), []byte("[]\n"), 0o600))
	if _, err := w.Document(d); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Fatal(err)
	}
	w.clean()
}
