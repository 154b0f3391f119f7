package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// The bases that planners build on. Each is a directory of BuildSetup.Bases.
const (
	baseRun         = "run"
	baseGo          = "go"
	baseNode        = "node"
	baseNodeBuild   = "node-build"
	basePython      = "python"
	basePythonBuild = "python-build"
	baseDebian      = "debian" // "run" with apt, for Dockerfiles
	baseStatic      = "static" // no shell, no library
)

// base is one base image.
type base struct {
	name   string
	digest digest.Digest // of the manifest
	config ocispecs.ImageConfig
	labels map[string]string
}

// bases opens base images in BuildSetup.Bases. The directory is ours and read-only.
type bases struct {
	dir    string
	stores map[string]content.Store // those in use, by name
}

func newBases(dir string) *bases { return &bases{dir: dir, stores: map[string]content.Store{}} }

// open reads what is needed of a base.
func (b *bases) open(name string) (*base, error) {
	dir := filepath.Join(b.dir, name)
	var index ocispecs.Index
	if err := readJSON(filepath.Join(dir, "index.json"), &index); err != nil {
		return nil, bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("This site has no base image %q.", name), "Ask the operator to make the bases, then try again.", err)
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("base %s: %d manifests in its index, want 1", name, len(index.Manifests))
	}
	s := blobs{dir: filepath.Join(dir, "blobs")}
	var manifest ocispecs.Manifest
	if err := readJSON(s.path(index.Manifests[0].Digest), &manifest); err != nil {
		return nil, fmt.Errorf("base %s: %w", name, err)
	}
	var image ocispecs.Image
	if err := readJSON(s.path(manifest.Config.Digest), &image); err != nil {
		return nil, fmt.Errorf("base %s: %w", name, err)
	}
	b.stores[name] = s
	return &base{name: name, digest: index.Manifests[0].Digest, config: image.Config, labels: image.Config.Labels}, nil
}

// openRoot opens a base for a Dockerfile, whose author expects to begin as root in "/": the same layers with another
// configuration. It gets a store of its own, named after it.
func (b *bases) openRoot(name string) (*base, error) {
	if _, err := b.open(name); err != nil {
		return nil, err
	}
	s := b.stores[name].(blobs)
	delete(b.stores, name)
	var index ocispecs.Index
	var manifest ocispecs.Manifest
	var image ocispecs.Image
	if err := errors.Join(readJSON(filepath.Join(b.dir, name, "index.json"), &index), readJSON(s.path(index.Manifests[0].Digest), &manifest),
		readJSON(s.path(manifest.Config.Digest), &image)); err != nil {
		return nil, err
	}
	image.Config.User, image.Config.WorkingDir = "", ""
	image.Config.Env = slices.DeleteFunc(image.Config.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
	s.extra = map[digest.Digest][]byte{}
	add := func(v any) (digest.Digest, int64, error) {
		text, err := json.Marshal(v)
		d := digest.FromBytes(text)
		s.extra[d] = text
		return d, int64(len(text)), err
	}
	var err error
	if manifest.Config.Digest, manifest.Config.Size, err = add(image); err != nil {
		return nil, err
	}
	d, _, err := add(manifest)
	b.stores[name] = s
	return &base{name: name, digest: d, config: image.Config}, err
}

// ref is the base's name for BuildKit: it wants a host before the path, though none is ever asked.
func (b *base) ref() string { return "oci.local/" + b.name + "@" + b.digest.String() }

// state begins a build on the base.
func (b *base) state() llb.State {
	return llb.OCILayout(b.ref(), llb.OCIStore("", b.name), llb.WithCustomName("base "+b.name), llb.Platform(platform))
}

// platform of everything built here.
var platform = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// blobs is the read-only content store of an OCI layout. containerd's own wants to write beside what it reads. BuildKit
// checks every digest when it takes a blob in.
type blobs struct {
	content.Store // nil: what is not below is never called on a store that is only read
	dir           string
	extra         map[digest.Digest][]byte // small blobs beside those in dir
}

func (b blobs) path(d digest.Digest) string {
	return filepath.Join(b.dir, d.Algorithm().String(), d.Encoded())
}

// Info implements [content.InfoProvider].
func (b blobs) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	if err := d.Validate(); err != nil {
		return content.Info{}, err
	}
	if text, ok := b.extra[d]; ok {
		return content.Info{Digest: d, Size: int64(len(text))}, nil
	}
	fi, err := os.Stat(b.path(d))
	if os.IsNotExist(err) {
		return content.Info{}, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	if err != nil {
		return content.Info{}, err
	}
	return content.Info{Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}, nil
}

// ReaderAt implements [content.Provider].
func (b blobs) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	if text, ok := b.extra[desc.Digest]; ok {
		return blob{io.NewSectionReader(bytes.NewReader(text), 0, int64(len(text))), io.NopCloser(nil)}, nil
	}
	f, err := os.Open(b.path(desc.Digest))
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return blob{io.NewSectionReader(f, 0, fi.Size()), f}, nil
}

type blob struct {
	*io.SectionReader
	io.Closer
}

// Writer, Abort, Update, Delete: a base cannot be written. They are here because BuildKit serves stores over gRPC, where
// a nil method would be a crash.

// Writer implements [content.Ingester] by refusing.
func (blobs) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errdefs.ErrPermissionDenied
}

// Abort implements [content.IngestManager] by refusing.
func (blobs) Abort(context.Context, string) error { return errdefs.ErrPermissionDenied }

// Status implements [content.IngestManager] by refusing.
func (blobs) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrNotFound
}

// ListStatuses implements [content.IngestManager]: there are none.
func (blobs) ListStatuses(context.Context, ...string) ([]content.Status, error) { return nil, nil }

// Update implements [content.Manager] by refusing.
func (blobs) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errdefs.ErrPermissionDenied
}

// Delete implements [content.Manager] by refusing.
func (blobs) Delete(context.Context, digest.Digest) error { return errdefs.ErrPermissionDenied }

// Walk implements [content.Manager]: nothing is listed.
func (blobs) Walk(context.Context, content.WalkFunc, ...string) error { return nil }
