package base

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bulwark-paas/bulwark"
)

// An archive of bases is one OCI image layout in a tar: every image once, named by the usual annotation, and every blob once, in
// blobs/sha256. It is not compressed, because the layers in it are. Its key is the beginning of the SHA-256 of its
// index.json, which names every image by digest: the same key is the same bases.
const (
	nameAnnotation = "org.opencontainers.image.ref.name"
	layoutText     = `{"imageLayoutVersion":"1.0.0"}`
)

// What an archive may hold. The bases of today are 800 MB in 30 blobs.
const (
	maxArchive  = 8 << 30
	maxBlobs    = 256
	maxDocument = 1 << 20
)

// KeySize is the number of characters of an archive's key.
const KeySize = 16

// Pack writes the bases of an index, as Find and Make return it, as an archive, and returns the archive's key.
func Pack(index Index, w io.Writer) (string, error) {
	all := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	blobs := map[string]string{} // by name in the archive, the file
	for _, name := range slices.Sorted(maps.Keys(index)) {
		dir := index[name].Layout
		m, size, err := readManifest(filepath.Join(dir, "blobs", "sha256"), index[name].Digest)
		if err != nil {
			return "", err
		}
		d := v1.Hash{Algorithm: "sha256", Hex: index[name].Digest.Hex()}
		all.Manifests = append(all.Manifests, v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: size, Digest: d,
			Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}, Annotations: map[string]string{nameAnnotation: name}})
		for _, d := range append([]v1.Hash{d, m.Config.Digest}, layersOf(m)...) {
			blobs["blobs/sha256/"+d.Hex] = filepath.Join(dir, "blobs", "sha256", d.Hex)
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return "", fmt.Errorf("cannot write the index of the archive: %w", err)
	}
	t := tar.NewWriter(w)
	put := func(name string, size int64, r io.Reader) error {
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(epoch, 0).UTC(), Format: tar.FormatPAX})
		if err == nil {
			_, err = io.Copy(t, r)
		}
		return err
	}
	err = errors.Join(put("oci-layout", int64(len(layoutText)), bytes.NewReader([]byte(layoutText))), put("index.json", int64(len(text)), bytes.NewReader(text)))
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		if err != nil {
			break
		}
		err = withFile(blobs[name], func(f *os.File, size int64) error { return put(name, size, f) })
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return "", fmt.Errorf("cannot write the archive of the bases: %w", err)
	}
	return key(text), nil
}

func key(index []byte) string {
	sum := sha256.Sum256(index)
	return hex.EncodeToString(sum[:])[:KeySize]
}

func withFile(name string, do func(f *os.File, size int64) error) error {
	f, err := os.Open(name) //nolint:gosec // the directory is the caller's own
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return do(f, st.Size())
}

func layersOf(m *v1.Manifest) []v1.Hash {
	var out []v1.Hash
	for _, l := range m.Layers {
		out = append(out, l.Digest)
	}
	return out
}

// readManifest reads a manifest among blobs.
func readManifest(blobs string, d bulwark.Digest) (*v1.Manifest, int64, error) {
	b, err := os.ReadFile(filepath.Join(blobs, d.Hex())) //nolint:gosec // the directory is the caller's own, and the name is hexadecimal
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the manifest %s: %w", d, err)
	}
	m, err := v1.ParseManifest(bytes.NewReader(b))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the manifest %s: %w", d, err)
	}
	return m, int64(len(b)), nil
}

// Add unpacks an archive that Pack wrote to dir/KEY and returns that directory. It takes nothing but the bases that this version
// knows, all of them, and blobs that have the digest that names them and that a base is made of; the directory appears
// when everything was checked, or not at all. Whoever wrote the archive owns every app built on it: that it is the right one is
// for the caller to know, by its checksum.
func Add(ctx context.Context, dir string, archive io.Reader) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot tell where %s is: %w", dir, err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	m := &maker{dir: dir}
	work, err := m.workDir() // removes what an earlier run left when it was killed
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	u := &unpacking{blobs: filepath.Join(work, "blobs"), sizes: map[string]int64{}}
	if err := os.Mkdir(u.blobs, 0o700); err != nil {
		return "", fmt.Errorf("cannot unpack the bases: %w", err)
	}
	if err := u.read(ctx, tar.NewReader(archive)); err != nil {
		return "", err
	}
	done := filepath.Join(work, "done")
	if err := u.assemble(done); err != nil {
		return "", err
	}
	if err := errors.Join(publish(done), syncTree(done)); err != nil {
		return "", err
	}
	target := filepath.Join(dir, key(u.index))
	if _, err := load(target); err == nil {
		return target, nil // the key says that they are the same; what is in use stays
	}
	if err := os.RemoveAll(target); err != nil {
		return "", fmt.Errorf("cannot remove the damaged bases in %s: %w", target, err)
	}
	if err := os.Rename(done, target); err != nil {
		return "", fmt.Errorf("cannot put the bases in place: %w", err)
	}
	return target, withFile(dir, func(f *os.File, _ int64) error { return f.Sync() })
}

// unpacking is one archive on its way in.
type unpacking struct {
	blobs string // directory
	index []byte
	sizes map[string]int64 // of the blobs that are there, by hexadecimal digest
}

func refuse(format string, args ...any) error {
	return bulwark.Fail(bulwark.KindInvalid, "This is not a whole archive of base images: "+fmt.Sprintf(format, args...),
		"Fetch the file again, compare its checksum with the release's SHA256SUMS, and use the one that belongs to this version.", nil)
}

// read writes each blob of the archive to a file of ours, named by the digest that was computed.
func (u *unpacking) read(ctx context.Context, t *tar.Reader) error {
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped while the bases were unpacked: %w", err)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return refuse("it cannot be read (%v).", err)
		}
		if h.Typeflag != tar.TypeReg {
			return refuse("%q is neither a file nor anything else that belongs there.", h.Name)
		}
		if total += h.Size; total > maxArchive || len(u.sizes) >= maxBlobs {
			return refuse("it is too large.")
		}
		switch {
		case h.Name == "oci-layout" || h.Name == "index.json":
			if h.Size > maxDocument {
				return refuse("its %s is too large.", h.Name)
			}
			b, err := io.ReadAll(t)
			if err != nil {
				return refuse("it ends too early.")
			}
			if h.Name == "index.json" {
				u.index = b
			}
		case filepath.Dir(h.Name) == "blobs/sha256":
			if err := u.blob(filepath.Base(h.Name), h.Size, t); err != nil {
				return err
			}
		default:
			return refuse("%q does not belong there.", h.Name)
		}
	}
	if u.index == nil {
		return refuse("it has no index.json.")
	}
	return nil
}

func (u *unpacking) blob(name string, size int64, r io.Reader) error {
	if _, err := bulwark.ParseDigest("sha256:" + name); err != nil {
		return refuse("%q is no digest.", name)
	}
	if _, ok := u.sizes[name]; ok {
		return refuse("%s is in it twice.", name)
	}
	f, err := os.OpenFile(filepath.Join(u.blobs, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot unpack the bases: %w", err)
	}
	defer func() { _ = f.Close() }()
	sum, from := sha256.New(), &reading{r: r}
	_, err = io.Copy(io.MultiWriter(f, sum), from)
	switch {
	case from.err != nil:
		return refuse("it ends too early.")
	case err != nil:
		return fmt.Errorf("cannot unpack the bases: %w", err)
	case hex.EncodeToString(sum.Sum(nil)) != name:
		return refuse("the blob %s has other content than its name says.", name)
	}
	u.sizes[name] = size
	return f.Close()
}

// reading remembers an error of the archive, so that one of the disk is not taken for it.
type reading struct {
	r   io.Reader
	err error
}

func (r *reading) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// assemble makes a layout per base out of the blobs, and the index, as Make does.
func (u *unpacking) assemble(done string) error {
	all, err := v1.ParseIndexManifest(bytes.NewReader(u.index))
	if err != nil {
		return refuse("its index.json cannot be read (%v).", err)
	}
	known := map[string]Recipe{}
	for _, r := range Recipes() {
		known[r.Name] = r
	}
	index, used := Index{}, map[string]bool{}
	for _, desc := range all.Manifests {
		name := desc.Annotations[nameAnnotation]
		r, ok := known[name]
		if _, twice := index[name]; !ok || twice {
			return refuse("it has a base %q, which this version does not know, or twice.", name)
		}
		digest, err := bulwark.ParseDigest(desc.Digest.String())
		if err != nil {
			return refuse("the base %s is named by no digest.", name)
		}
		if err := u.layout(filepath.Join(done, name), name, desc, used); err != nil {
			return err
		}
		index[name] = Image{Layout: name, Digest: digest, Versions: r.versions()}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, ok := index[name]; !ok {
			return refuse("the base %s is missing.", name)
		}
	}
	for name := range u.sizes {
		if !used[name] {
			return refuse("the blob %s belongs to no base.", name)
		}
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the index of the bases: %w", err)
	}
	return writeAtomic(filepath.Join(done, indexFile), append(b, '\n'))
}

// layout makes one base's layout out of links to blobs.
func (u *unpacking) layout(dir, name string, desc v1.Descriptor, used map[string]bool) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil { //nolint:gosec // public packages
		return fmt.Errorf("cannot unpack the bases: %w", err)
	}
	take := func(d v1.Hash, size int64, most int64) error {
		if have, ok := u.sizes[d.Hex]; d.Algorithm != "sha256" || !ok || have != size || size > most {
			return refuse("the blob %s of the base %s is missing, or its size is wrong.", d, name)
		}
		used[d.Hex] = true
		err := os.Link(filepath.Join(u.blobs, d.Hex), filepath.Join(blobs, d.Hex))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot unpack the bases: %w", err)
		}
		return nil
	}
	if err := take(desc.Digest, desc.Size, maxDocument); err != nil {
		return err
	}
	m, _, err := readManifest(blobs, bulwark.Digest(desc.Digest.String()))
	if err != nil {
		return refuse("the manifest of the base %s cannot be read.", name)
	}
	if err := take(m.Config.Digest, m.Config.Size, maxDocument); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if err := take(l.Digest, l.Size, maxArchive); err != nil {
			return err
		}
	}
	raw, err := os.ReadFile(filepath.Join(blobs, m.Config.Digest.Hex)) //nolint:gosec // our own directory, and the name is hexadecimal
	if err != nil {
		return fmt.Errorf("cannot unpack the bases: %w", err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil || config.OS != "linux" || config.Architecture != "amd64" || config.Config.Labels["bulwark.base"] != name {
		return refuse("the image that is said to be the base %s is another.", name)
	}
	desc.Annotations = nil
	one, err := json.MarshalIndent(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{desc}}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the image layout: %w", err)
	}
	return errors.Join(writeAtomic(filepath.Join(dir, "index.json"), one), writeAtomic(filepath.Join(dir, "oci-layout"), []byte(layoutText)))
}

// Listed is one set of bases on disk.
type Listed struct {
	Dir   string
	Index Index
}

// List returns every set of bases in dir, the newest first.
func List(dir string) []Listed {
	names, _ := filepath.Glob(filepath.Join(dir, "*", indexFile)) // the one error is of the pattern
	when := map[string]time.Time{}
	var out []Listed
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			continue
		}
		if index, err := load(filepath.Dir(name)); err == nil {
			out = append(out, Listed{Dir: filepath.Dir(name), Index: index})
			when[filepath.Dir(name)] = st.ModTime()
		}
	}
	slices.SortFunc(out, func(a, b Listed) int { return when[b.Dir].Compare(when[a.Dir]) })
	return out
}
