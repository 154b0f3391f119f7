package base

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"
)

// entry is one file of a tree: its header with a clean relative name, the hash of its content, and a way to read it.
type entry struct {
	hdr  tar.Header
	sum  [sha256.Size]byte
	open func() (io.ReadCloser, error) // nil if there is no content
}

// tree is a file system by clean relative name, without the root itself.
type tree map[string]*entry

// readTree reads the tar file f. The tree reads contents out of f later, so f must stay open.
func readTree(f *os.File) (tree, error) {
	t := tree{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the archive %s is damaged: %w", f.Name(), err)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return nil, err
		}
		if name == "." {
			continue
		}
		e := &entry{hdr: *h}
		e.hdr.Name = name
		if h.Typeflag == tar.TypeLink {
			if e.hdr.Linkname, err = cleanName(h.Linkname); err != nil {
				return nil, err
			}
		}
		if h.Typeflag == tar.TypeReg {
			// archive/tar reads header blocks exactly and buffers nothing, so the content starts where the file stands.
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, fmt.Errorf("cannot read the archive %s: %w", f.Name(), err)
			}
			size := h.Size
			e.open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(f, at, size)), nil }
			sum := sha256.New()
			if _, err := io.Copy(sum, r); err != nil { //nolint:gosec // not compressed, so no larger than its file
				return nil, fmt.Errorf("the archive %s is damaged: %w", f.Name(), err)
			}
			sum.Sum(e.sum[:0])
		}
		t[name] = e
	}
}

// cleanName makes a member's name relative and refuses one that leaves the tree.
func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("the archive names %q, which is outside of it", name)
	}
	return clean, nil
}

// addDir adds a directory and its parents, unless they are there.
func (t tree) addDir(name string, mode int64) {
	if name == "." || t[name] != nil {
		return
	}
	t.addDir(path.Dir(name), 0o755)
	t[name] = &entry{hdr: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: time.Unix(epoch, 0)}}
}

// addBytes adds or replaces a regular file.
func (t tree) addBytes(name string, mode int64, content []byte) {
	t.addDir(path.Dir(name), 0o755)
	t[name] = &entry{
		hdr: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(epoch, 0)},
		sum: sha256.Sum256(content), open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// addStream adds or replaces a regular file whose content open returns, each time the same.
func (t tree) addStream(name string, mode, size int64, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return fmt.Errorf("cannot read what becomes %s: %w", name, err)
	}
	defer func() { _ = r.Close() }()
	t.addDir(path.Dir(name), 0o755)
	e := &entry{open: open,
		hdr: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size, ModTime: time.Unix(epoch, 0)}}
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	if err != nil {
		return fmt.Errorf("cannot read what becomes %s: %w", name, err)
	}
	if n != size {
		return fmt.Errorf("what becomes %s has %d bytes and should have %d", name, n, size)
	}
	sum.Sum(e.sum[:0])
	t[name] = e
	return nil
}

// addLink adds a symbolic link.
func (t tree) addLink(name, target string) {
	t.addDir(path.Dir(name), 0o755)
	t[name] = &entry{hdr: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Unix(epoch, 0)}}
}

// bytes returns the content of a small file.
func (t tree) bytes(name string) ([]byte, error) {
	e := t[name]
	if e == nil || e.open == nil {
		return nil, fmt.Errorf("the file %s is missing from the base", name)
	}
	r, err := e.open()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return b, nil
}

// clone returns a tree that can be added to without changing t; entries are shared and never written to.
func (t tree) clone() tree {
	out := make(tree, len(t))
	for name, e := range t {
		out[name] = e
	}
	return out
}
