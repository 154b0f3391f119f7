package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// catalogLimits bound bulwark-sbom, which writes no file. The largest layers that are real take part of a second.
var catalogLimits = cell.Limits{Memory: 1 << 30, PIDs: 64, CPU: 30 * time.Second, Time: 2 * time.Minute, Disk: 1, Names: 1}

// catalogVersion is counted up whenever bulwark-sbom finds more than before, so that layers are looked into again.
const catalogVersion = 1

// Inventory says what is in an unpacked layer. It looks into each once and keeps what it found beside the layer's file: a
// base that many images have costs nothing from its second image on. An error that is not ctx's means that the layer
// cannot be looked into; it is tried again the next time.
func (s *Store) Inventory(ctx context.Context, y ledger.Layer) (*inventory.Layer, error) {
	path := filepath.Join(s.config.Dir, "layers", fmt.Sprintf("%s.inventory.%d.json", y.EROFS.Hex(), catalogVersion))
	if b, err := os.ReadFile(path); err == nil {
		if l, err := inventory.Decode(b); err == nil {
			return l, nil
		}
	}
	l, err := s.catalog(ctx, y.EROFS)
	if err != nil {
		return nil, fmt.Errorf("images: cannot look into layer %s: %w", y.Blob, err)
	}
	// What is kept is written anew: not a byte of a process that read a stranger's layer.
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return l, s.write(path, b)
}

// catalog runs bulwark-sbom in a cell of its own: one that is taken over says what it likes of this layer, and has never
// seen another.
func (s *Store) catalog(ctx context.Context, d bulwark.Digest) (*inventory.Layer, error) {
	if err := s.verify(s.layer(d), d); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.layer(d), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	uid, giveBack, err := s.config.Cells.User()
	if err != nil {
		return nil, err
	}
	defer giveBack()
	said := &bounded{most: inventory.MaxEncoded}
	err = s.config.Cells.Run(ctx, cell.Cmd{What: "Looking into a layer of the image", Path: s.config.Catalog, Stdout: said,
		Files: []*os.File{f}, User: uid, Limits: catalogLimits})
	if err != nil {
		return nil, err
	}
	return inventory.Decode(said.buf.Bytes())
}

// bounded keeps what is written to it, and breaks the pipe of who writes too much. It has no method but Write: a buffer
// that reads by itself would read without a bound.
type bounded struct {
	buf  bytes.Buffer
	most int
}

// Write implements [io.Writer].
func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.most {
		return 0, io.ErrShortWrite
	}
	return b.buf.Write(p)
}

// KeepDocument keeps a document about an image, by its digest.
func (s *Store) KeepDocument(b []byte) (bulwark.Digest, error) {
	d := bulwark.Sum(b)
	return d, s.write(s.document(d), b)
}

func (s *Store) document(d bulwark.Digest) string {
	return filepath.Join(s.config.Dir, "sbom", d.Hex()+".json")
}

// Document returns a document that was kept. It has the digest, or there is an error.
func (s *Store) Document(d bulwark.Digest) ([]byte, error) {
	b, err := os.ReadFile(s.document(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil, bulwark.Failf(bulwark.KindNotFound, "The document %s is no longer kept.", d)
	}
	if err != nil {
		return nil, err
	}
	if bulwark.Sum(b) != d {
		return nil, bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The document %s was changed on disk.", d),
			"Find out who changed the disk.", nil)
	}
	return b, nil
}

// write makes a file appear whole, on disk before it has its name.
func (s *Store) write(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Join(s.config.Dir, "tmp"), "document-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
