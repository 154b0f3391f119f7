package tree

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/statement"
)

// open opens a file without waiting for a pipe that took its place.
func (t *Tree) open(p string) (*os.File, error) {
	f, err := t.root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%q is no longer a file", p)
	}
	return f, nil
}

// header is how an entry begins in the stream. It says nothing that the digest does not.
func (e *Entry) header() *tar.Header {
	h := &tar.Header{Name: e.Path, Typeflag: tar.TypeReg, Mode: 0o644, Size: e.Size}
	switch e.Mode {
	case statement.TreeProgram:
		h.Mode = 0o755
	case statement.TreeLink:
		h.Typeflag, h.Mode, h.Linkname = tar.TypeSymlink, 0o777, e.Link
	}
	return h
}

const block = 512

// Size returns how many bytes Write writes.
func (t *Tree) Size() (int64, error) {
	var n counter
	for _, e := range t.Entries {
		// The content is only added up; its size does not change that of the header.
		if err := tar.NewWriter(&n).WriteHeader(e.header()); err != nil {
			return 0, fmt.Errorf("tree: %q: %w", e.Path, err)
		}
		n += counter((e.Size + block - 1) / block * block)
	}
	return int64(n) + 2*block, nil
}

type counter int64

// Write implements [io.Writer].
func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// Write writes the tree as a tar stream, the same for the same digest. It fails if a file is not what was measured.
func (t *Tree) Write(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, e := range t.Entries {
		if err := tw.WriteHeader(e.header()); err != nil {
			return err
		}
		if e.Mode == statement.TreeLink {
			continue
		}
		if err := t.content(tw, &e); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (t *Tree) content(w io.Writer, e *Entry) error {
	f, err := t.open(e.Path)
	if err != nil {
		return unreadable(e.Path, err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(f, e.Size))
	if err != nil {
		return err
	}
	if n != e.Size || [sha256.Size]byte(h.Sum(nil)) != e.Sum {
		return changed(e.Path)
	}
	return nil
}
