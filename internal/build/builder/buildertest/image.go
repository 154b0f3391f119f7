package buildertest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image in a directory with blobs.
type Image struct {
	Manifest ocispecs.Manifest
	Config   ocispecs.Image
	dir      string
}

// ReadLayout reads the only image of an OCI layout.
func ReadLayout(dir string) (*Image, error) {
	var index ocispecs.Index
	if err := readJSON(filepath.Join(dir, "index.json"), &index); err != nil {
		return nil, err
	}
	return ReadImage(dir, bulwark.Digest(index.Manifests[0].Digest))
}

// ReadImage reads an image of a content store.
func ReadImage(dir string, d bulwark.Digest) (*Image, error) {
	img := &Image{dir: dir}
	if err := readJSON(img.blob(digest.Digest(d)), &img.Manifest); err != nil {
		return nil, err
	}
	return img, readJSON(img.blob(img.Manifest.Config.Digest), &img.Config)
}

func (i *Image) blob(d digest.Digest) string {
	return filepath.Join(i.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// Unpack puts the image's files into a directory, base and all, unless layers from a given one on are wanted.
func (i *Image) Unpack(ctx context.Context, to string, from int, opts ...archive.ApplyOpt) error {
	for _, l := range i.Manifest.Layers[from:] {
		f, err := os.Open(i.blob(l.Digest))
		if err != nil {
			return err
		}
		r, err := compression.DecompressStream(f)
		if err == nil {
			_, err = archive.Apply(ctx, to, r, opts...)
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func owner(file string) (uid, gid int, err error) {
	fi, err := os.Lstat(file)
	if err != nil {
		return 0, 0, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid), nil
}
