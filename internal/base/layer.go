package base

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is a compressed layer in a file. It is a partial.CompressedLayer that knows its diff id.
type layer struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *layer) Size() (int64, error)                { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }

// writeLayer writes t to a file as a layer: sorted by name, hard links last so that their targets are there, no times
// newer than epoch, no names of users, and the fastest compression because a builder unpacks it for every app.
func writeLayer(t tree, file string) (l *layer, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // public content, in our own directory
	if err != nil {
		return nil, fmt.Errorf("cannot write a layer: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("cannot write a layer: %w", cerr)
		}
	}()
	packed, plain := sha256.New(), sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(f, packed), 1<<20)
	zip, err := gzip.NewWriterLevel(buf, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("cannot compress a layer: %w", err)
	}
	if err := writeTar(t, io.MultiWriter(zip, plain)); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("cannot write a layer: %w", err)
	}
	if err := buf.Flush(); err != nil {
		return nil, fmt.Errorf("cannot write a layer: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot write a layer: %w", err)
	}
	return &layer{path: file, digest: toHash(packed), diffID: toHash(plain), size: info.Size()}, nil
}

func toHash(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

func writeTar(t tree, w io.Writer) error {
	out := tar.NewWriter(w)
	var links []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if t[name].hdr.Typeflag == tar.TypeLink {
			links = append(links, name)
			continue
		}
		if err := writeEntry(out, t[name]); err != nil {
			return fmt.Errorf("cannot write %s to a layer: %w", name, err)
		}
	}
	for _, name := range links {
		if err := writeEntry(out, t[name]); err != nil {
			return fmt.Errorf("cannot write %s to a layer: %w", name, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("cannot write a layer: %w", err)
	}
	return nil
}

func writeEntry(w *tar.Writer, e *entry) error {
	h := tar.Header{
		Typeflag: e.hdr.Typeflag, Name: e.hdr.Name, Linkname: e.hdr.Linkname, Mode: e.hdr.Mode & 0o7777,
		Uid: e.hdr.Uid, Gid: e.hdr.Gid, ModTime: clamp(e.hdr.ModTime), PAXRecords: xattrs(e.hdr),
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if e.open == nil {
		return w.WriteHeader(&h)
	}
	h.Size = e.hdr.Size
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	r, err := e.open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	_, err = io.Copy(w, r)
	return err
}

// clamp makes a time whole seconds and not newer than epoch.
func clamp(t time.Time) time.Time {
	if s := t.Unix(); s < epoch {
		return time.Unix(max(s, 0), 0)
	}
	return time.Unix(epoch, 0)
}

// xattrs returns the extended attributes of a header, file capabilities among them, as PAX records.
func xattrs(h tar.Header) map[string]string {
	var out map[string]string
	for k, v := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
