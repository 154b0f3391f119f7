package base

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bulwark-paas/bulwark"
)

// ground is the base "run", on which the others lie: its layer, and its files read out of an uncompressed copy.
type ground struct {
	layout string
	layer  v1.Layer
	tree   tree
	file   *os.File
}

func (g *ground) close() { _ = g.file.Close() }

// loadGround opens the layout of "run" and unpacks its one layer below work.
func loadGround(dir, work string) (*ground, error) {
	img, err := openLayout(dir)
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		return nil, fmt.Errorf("the base in %s should have one layer and has %d: %w", dir, len(layers), errors.Join(err, errDamaged))
	}
	r, err := layers[0].Compressed()
	if err != nil {
		return nil, fmt.Errorf("cannot open the layer of %s: %w", dir, err)
	}
	defer func() { _ = r.Close() }()
	unzip, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the layer of %s: %w", dir, err)
	}
	f, err := os.Create(filepath.Join(work, "ground.tar")) //nolint:gosec // our own directory
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the layer of %s: %w", dir, err)
	}
	g := &ground{layout: dir, layer: layers[0], file: f}
	if _, err := io.Copy(f, unzip); err != nil { //nolint:gosec // we packed it ourselves
		g.close()
		return nil, fmt.Errorf("cannot unpack the layer of %s: %w", dir, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		g.close()
		return nil, fmt.Errorf("cannot read the layer of %s: %w", dir, err)
	}
	if g.tree, err = readTree(f); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

var errDamaged = errors.New("remove the directory and make the bases again")

// openLayout returns the one image of an OCI layout.
func openLayout(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the image layout %s: %w", dir, err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("cannot read the image layout %s: %w", dir, err)
	}
	if len(m.Manifests) != 1 {
		return nil, fmt.Errorf("the image layout %s has %d images and should have one: %w", dir, len(m.Manifests), errDamaged)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		return nil, fmt.Errorf("cannot read the image layout %s: %w", dir, err)
	}
	return img, nil
}

// layoutDigest returns the digest of the image in a layout; the error is fs.ErrNotExist if there is no layout.
func layoutDigest(dir string) (bulwark.Digest, error) {
	if _, err := os.Stat(dir); err != nil {
		return "", err //nolint:wrapcheck // the caller asks for fs.ErrNotExist
	}
	img, err := openLayout(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is no image layout: %w", dir, errDamaged) // not ErrNotExist: it is there, and wrong
	}
	if err != nil {
		return "", err
	}
	h, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("cannot read the image layout %s: %w", dir, err)
	}
	return bulwark.ParseDigest(h.String())
}

// writeImage writes an image of layers to the layout at dir, which appears whole. tmp is a directory beside it.
func writeImage(r Recipe, g *ground, layers []v1.Layer, tmp, dir string) (bulwark.Digest, error) {
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		return "", fmt.Errorf("cannot put the layers together: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("cannot make the image's configuration: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Created = v1.Time{Time: time.Unix(epoch, 0).UTC()}
	cfg.Config = v1.Config{Env: r.Env, User: r.User, WorkingDir: r.Dir, Labels: labels(r)}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return "", fmt.Errorf("cannot make the image's configuration: %w", err)
	}
	path, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return "", fmt.Errorf("cannot write the image layout: %w", err)
	}
	if g != nil {
		if err := shareLayer(g, tmp); err != nil {
			return "", err
		}
	}
	platform := v1.Platform{OS: "linux", Architecture: "amd64"}
	if err := path.AppendImage(img, layout.WithPlatform(platform)); err != nil {
		return "", fmt.Errorf("cannot write the image layout: %w", err)
	}
	if err := publish(tmp); err != nil {
		return "", err
	}
	if err := syncTree(tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("cannot put the image layout in place: %w", err)
	}
	return layoutDigest(dir)
}

// publish lets every user read a layout, whatever the umask and the layout writer chose: builders read it under ids of
// their own, and there is nothing in it but public packages.
func publish(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o755) //nolint:gosec // see above
		}
		return os.Chmod(path, 0o644) //nolint:gosec // see above
	})
	if err != nil {
		return fmt.Errorf("cannot open the image layout to readers: %w", err)
	}
	return nil
}

func labels(r Recipe) map[string]string {
	out := map[string]string{"bulwark.base": r.Name, "bulwark.base.suite": suite}
	for name, version := range r.versions() {
		out["bulwark.base."+name] = version
	}
	return out
}

// shareLayer links the blob of "run" into a new layout, so that it is on disk once. A file system that has no hard
// links gets a copy from the layout writer instead.
func shareLayer(g *ground, tmp string) error {
	digest, err := g.layer.Digest()
	if err != nil {
		return fmt.Errorf("cannot tell the digest of the shared layer: %w", err)
	}
	blobs := filepath.Join("blobs", digest.Algorithm)
	if err := os.MkdirAll(filepath.Join(tmp, blobs), 0o755); err != nil { //nolint:gosec // as the layout writer does; public content
		return fmt.Errorf("cannot write the image layout: %w", err)
	}
	_ = os.Link(filepath.Join(g.layout, blobs, digest.Hex), filepath.Join(tmp, blobs, digest.Hex))
	return nil
}

func compressed(l *layer) (v1.Layer, error) {
	out, err := partial.CompressedToLayer(l)
	if err != nil {
		return nil, fmt.Errorf("cannot use the layer %s: %w", l.path, err)
	}
	return out, nil
}
