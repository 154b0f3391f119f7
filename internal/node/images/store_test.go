package images_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// notes is the node's ledger as far as a store knows it.
type notes struct {
	files  map[bulwark.Digest]bulwark.Digest
	layers map[bulwark.Digest][]ledger.Layer
	config map[bulwark.Digest]ledger.ImageConfig
}

func (n *notes) LayerFile(_ context.Context, blob bulwark.Digest) (bulwark.Digest, error) {
	return n.files[blob], nil
}

func (n *notes) RecordImage(_ context.Context, image bulwark.Digest, layers []ledger.Layer, config ledger.ImageConfig) error {
	n.layers[image], n.config[image] = layers, config
	return nil
}

func (n *notes) Layers(_ context.Context, image bulwark.Digest) ([]ledger.Layer, ledger.ImageConfig, error) {
	l, ok := n.layers[image]
	if !ok {
		return nil, ledger.ImageConfig{}, bulwark.Failf(bulwark.KindNotFound, "The image is not here.")
	}
	return l, n.config[image], nil
}

// world is a store, and the directory of a builder that may write whatever it likes.
type world struct {
	t     *testing.T
	dir   string // the store's
	from  string // the builder's
	notes *notes
	*images.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), from: t.TempDir(),
		notes: &notes{files: map[bulwark.Digest]bulwark.Digest{}, layers: map[bulwark.Digest][]ledger.Layer{}, config: map[bulwark.Digest]ledger.ImageConfig{}}}
	w.reopen()
	w.must(os.MkdirAll(filepath.Join(w.from, "blobs/sha256"), 0o755))
	return w
}

// reopen is a restart of the node: nothing that was hashed is remembered.
func (w *world) reopen() {
	w.t.Helper()
	s, err := images.Open(images.Config{Dir: w.dir, Pack: "/nonexistent/bulwark-pack", Ledger: w.notes})
	w.must(err)
	w.Store = s
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) blob(d bulwark.Digest) string { return filepath.Join(w.from, "blobs/sha256", d.Hex()) }

func (w *world) put(b []byte) bulwark.Digest {
	w.t.Helper()
	d := bulwark.Sum(b)
	w.must(os.WriteFile(w.blob(d), b, 0o644))
	return d
}

// layer writes a layer whose file-system image was made before, so that nothing has to be packed.
func (w *world) layer(text string) ocispec.Descriptor {
	w.t.Helper()
	d := w.put([]byte(text))
	file := []byte("erofs of " + text)
	w.notes.files[d] = bulwark.Sum(file)
	w.must(os.WriteFile(w.kept(bulwark.Sum(file)), file, 0o400))
	return ocispec.Descriptor{Digest: digest.Digest(d), Size: int64(len(text))}
}

func (w *world) kept(file bulwark.Digest) string {
	return filepath.Join(w.dir, "layers", file.Hex()+".erofs")
}

func (w *world) image(layers ...ocispec.Descriptor) bulwark.Digest {
	w.t.Helper()
	config, err := json.Marshal(ocispec.Image{Config: ocispec.ImageConfig{Env: []string{"A=b"}, WorkingDir: "/app", User: "root"}})
	w.must(err)
	return w.manifest(ocispec.Manifest{Config: ocispec.Descriptor{Digest: digest.Digest(w.put(config))}, Layers: layers})
}

func (w *world) manifest(m ocispec.Manifest) bulwark.Digest {
	w.t.Helper()
	b, err := json.Marshal(m)
	w.must(err)
	return w.put(b)
}

// clean tells that nothing is left over of what was refused.
func (w *world) clean() {
	w.t.Helper()
	left, err := os.ReadDir(filepath.Join(w.dir, "tmp"))
	w.must(err)
	if len(left) > 0 {
		w.t.Errorf("%d temporary files are left, %s among them", len(left), left[0].Name())
	}
}

// An image that is what it says is admitted, recorded, and verified at each start.
func TestAdmit(t *testing.T) {
	w := newWorld(t)
	image := w.image(w.layer("one"), w.layer("two"))
	layers, config, err := w.Admit(t.Context(), w.from, image)
	w.must(err)
	if len(layers) != 2 || layers[0].Blob != bulwark.Sum([]byte("one")) || config.Dir != "/app" || len(config.Env) != 1 {
		t.Fatalf("%+v %+v", layers, config)
	}
	w.clean()
	w.must(os.RemoveAll(w.from)) // what the builder does afterwards is nothing to us
	for range 2 {
		got, _, err := w.Verify(t.Context(), image)
		w.must(err)
		if len(got) != 2 {
			t.Fatalf("%+v", got)
		}
		w.reopen()
	}
	_, _, err = w.Verify(t.Context(), bulwark.Sum([]byte("never admitted")))
	if bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Fatal(err)
	}
}

// Whoever owns a builder writes any bytes, links and pipes into its output; none of it comes in, hangs the node or leads it
// to a file of the host's.
func TestAdmitRefuses(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	swap := func(w *world, d bulwark.Digest, f func(path string) error) {
		w.t.Helper()
		w.must(os.Remove(w.blob(d)))
		w.must(f(w.blob(d)))
	}
	for name, image := range map[string]func(w *world) bulwark.Digest{
		"a manifest that is not there":    func(*world) bulwark.Digest { return bulwark.Sum([]byte("none")) },
		"a digest that is none":           func(*world) bulwark.Digest { return "" },
		"a manifest of another digest":    func(w *world) bulwark.Digest { d := w.image(); swap(w, d, write("{}")); return d },
		"a manifest that is no JSON":      func(w *world) bulwark.Digest { return w.put([]byte("no")) },
		"a manifest of 5 MiB":             func(w *world) bulwark.Digest { return w.put(bytes.Repeat([]byte(" "), 5<<20)) },
		"an index in place of a manifest": func(w *world) bulwark.Digest { return w.put([]byte(`{"manifests":[]}`)) },
		"a config of another algorithm": func(w *world) bulwark.Digest {
			return w.manifest(ocispec.Manifest{Config: ocispec.Descriptor{Digest: "sha512:" + digest.Digest(strings.Repeat("0", 128))}})
		},
		"a config that climbs": func(w *world) bulwark.Digest {
			return w.manifest(ocispec.Manifest{Config: ocispec.Descriptor{Digest: "sha256:../../../../etc/passwd"}})
		},
		"a layer of another digest": func(w *world) bulwark.Digest {
			l := w.layer("one")
			swap(w, bulwark.Digest(l.Digest), write("two"))
			return w.image(l)
		},
		"a layer that is a link to a file of the host's": func(w *world) bulwark.Digest {
			l := w.layer("secret")
			swap(w, bulwark.Digest(l.Digest), func(p string) error { return os.Symlink(secret, p) })
			return w.image(l)
		},
		"a layer that is a pipe": func(w *world) bulwark.Digest {
			l := w.layer("one")
			swap(w, bulwark.Digest(l.Digest), func(p string) error { return unix.Mkfifo(p, 0o666) })
			return w.image(l)
		},
		"a layer that is a directory": func(w *world) bulwark.Digest {
			l := w.layer("one")
			swap(w, bulwark.Digest(l.Digest), func(p string) error { return os.Mkdir(p, 0o755) })
			return w.image(l)
		},
		"blobs that are a link": func(w *world) bulwark.Digest {
			d := w.image(w.layer("one"))
			w.must(os.Rename(filepath.Join(w.from, "blobs"), filepath.Join(w.from, "elsewhere")))
			w.must(os.Symlink("elsewhere", filepath.Join(w.from, "blobs")))
			return d
		},
		"a layer that is larger than it says": func(w *world) bulwark.Digest {
			l := w.layer("longer than one byte")
			l.Size = 1
			return w.image(l)
		},
		"a layer of less than nothing": func(w *world) bulwark.Digest {
			l := w.layer("one")
			l.Size = -1
			return w.image(l)
		},
		"layers that wrap round": func(w *world) bulwark.Digest {
			l := w.layer("one")
			l.Size = 1 << 62
			return w.image(l, l, l)
		},
		"more layers than an overlay takes": func(w *world) bulwark.Digest {
			var many []ocispec.Descriptor
			for i := range 128 {
				many = append(many, w.layer(fmt.Sprint("layer ", i)))
			}
			return w.image(many...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := image(w)
			if _, _, err := w.Admit(t.Context(), w.from, d); err == nil {
				t.Fatal("it was admitted")
			}
			if len(w.notes.layers) > 0 {
				t.Fatal("it was recorded")
			}
			w.clean()
		})
	}
}

func write(text string) func(string) error {
	return func(p string) error { return os.WriteFile(p, []byte(text), 0o644) }
}

// A builder's directory that is a link is not entered.
func TestAdmitFromALink(t *testing.T) {
	w := newWorld(t)
	image := w.image(w.layer("one"))
	link := filepath.Join(t.TempDir(), "out")
	w.must(os.Symlink(w.from, link))
	if _, _, err := w.Admit(t.Context(), link, image); err == nil {
		t.Fatal("it was admitted")
	}
}

// What was changed on the disk after it was admitted does not start, before a restart of the node and after.
func TestVerifyRefusesWhatWasChanged(t *testing.T) {
	rewrite := func(path string) error { // as whoever owns the disk does: same size, same time of change as ls shows it
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[0] ^= 1
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600)); err != nil {
			return err
		}
		return os.Chtimes(path, st.ModTime(), st.ModTime())
	}
	blob := func(w *world, d bulwark.Digest) string { return filepath.Join(w.dir, "blobs/sha256", d.Hex()) }
	for name, change := range map[string]func(w *world, image bulwark.Digest) error{
		"a layer's file":      func(w *world, _ bulwark.Digest) error { return rewrite(w.kept(bulwark.Sum([]byte("erofs of one")))) },
		"a layer's blob":      func(w *world, _ bulwark.Digest) error { return rewrite(blob(w, bulwark.Sum([]byte("one")))) },
		"the manifest":        func(w *world, d bulwark.Digest) error { return rewrite(blob(w, d)) },
		"a file that is gone": func(w *world, _ bulwark.Digest) error { return os.Remove(w.kept(bulwark.Sum([]byte("erofs of one")))) },
		"a link in a file's place": func(w *world, _ bulwark.Digest) error {
			path := w.kept(bulwark.Sum([]byte("erofs of one")))
			return errors.Join(os.Rename(path, path+".away"), os.Symlink(path+".away", path))
		},
		"another layer's file in its place": func(w *world, _ bulwark.Digest) error {
			return os.Rename(w.kept(bulwark.Sum([]byte("erofs of two"))), w.kept(bulwark.Sum([]byte("erofs of one"))))
		},
		"the order of the layers in the book": func(w *world, d bulwark.Digest) error {
			l := w.notes.layers[d]
			l[0], l[1] = l[1], l[0]
			return nil
		},
		"a layer less in the book": func(w *world, d bulwark.Digest) error {
			w.notes.layers[d] = w.notes.layers[d][:1]
			return nil
		},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %t", name, restarted), func(t *testing.T) {
				w := newWorld(t)
				image := w.image(w.layer("one"), w.layer("two"))
				_, _, err := w.Admit(t.Context(), w.from, image)
				w.must(err)
				_, _, err = w.Verify(t.Context(), image)
				w.must(err)
				w.must(change(w, image))
				if restarted {
					w.reopen()
				}
				if _, _, err := w.Verify(t.Context(), image); err == nil {
					t.Fatal("it verified")
				}
			})
		}
	}
}

// What was spoilt is taken again, whole, by the next image that brings it.
func TestAdmitRepairs(t *testing.T) {
	w := newWorld(t)
	image := w.image(w.layer("one"))
	_, _, err := w.Admit(t.Context(), w.from, image)
	w.must(err)
	kept := filepath.Join(w.dir, "blobs/sha256", bulwark.Sum([]byte("one")).Hex())
	w.must(os.Chmod(kept, 0o600))
	w.must(os.WriteFile(kept, []byte("two"), 0o600))
	_, _, err = w.Admit(t.Context(), w.from, image)
	w.must(err)
	_, _, err = w.Verify(t.Context(), image)
	w.must(err)
}
