// Package pack turns the tar of an OCI layer into an EROFS file-system image that the kernel mounts read-only as one layer
// of an overlay.
//
// It promises that the image holds what the tar holds under OCI's rules (image-spec, layer.md), with whiteouts in the
// form that overlayfs reads, and that no tar, however hostile, makes it write anywhere but to its output: it creates no
// file, so there is no path to lead astray. Device nodes, pipes and sockets are left out; extended attributes too, but
// for those of users: a capability on a file is worth nothing in an instance.
//
// It runs in a process without rights (cmd/bulwark-pack). Whoever owns that process can spoil the layer that they wrote
// themselves.
package pack

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	erofs "github.com/erofs/go-erofs"

	"github.com/bulwark-paas/bulwark"
)

// Limits bound what is made of one layer.
type Limits struct {
	Entries int   // number of files, directories and links, also of directories that the tar does not mention
	Bytes   int64 // of all files together, hard links counted once each
	Names   int64 // bytes of all paths and links together: they are kept in memory
	Depth   int   // directories above an entry
}

// DefaultLimits are generous for a layer. Bytes is for who sets no budget; the node gives what is left of the image's.
var DefaultLimits = Limits{Entries: 500_000, Bytes: 8 << 30, Names: 64 << 20, Depth: 128}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// packer holds the state of one conversion.
type packer struct {
	w       *erofs.Writer
	limits  Limits
	entries int
	bytes   int64
	names   int64
	dirs    map[string]bool // directories that exist in the image
	files   map[string]bool // everything else that exists
}

// Layer reads an uncompressed layer tar from r and writes the image to out. temp is a directory for spooling.
func Layer(r io.Reader, out io.WriteSeeker, temp string, limits Limits) error {
	p := &packer{w: erofs.Create(out, erofs.WithTempDir(temp), erofs.WithBuildTime(0, 0)), limits: limits,
		dirs: map[string]bool{"/": true}, files: map[string]bool{}}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("pack: the layer is not a tar: %w", err)
		}
		if err := p.entry(h, tr); err != nil {
			return fmt.Errorf("pack: %q: %w", h.Name, err)
		}
	}
	return p.w.Close()
}

// Decompress tells gzip, zstd and plain by their first bytes and returns the plain tar.
func Decompress(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	magic, err := b.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("pack: the layer is empty: %w", err)
	}
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		return gzip.NewReader(b)
	case string(magic) == "\x28\xb5\x2f\xfd":
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return b, nil
}

// clean returns the absolute form of a name; "..", as a part of it, cannot lead out since nothing is above "/".
func clean(name string) string { return path.Clean("/" + name) }

func (p *packer) entry(h *tar.Header, content io.Reader) error {
	name := clean(h.Name)
	if n := strings.Count(name, "/"); n > p.limits.Depth {
		return bulwark.Failf(bulwark.KindTooLarge, "The layer has a path of %d folders; at most %d are taken.", n, p.limits.Depth)
	}
	if err := p.count(len(name) + len(h.Linkname)); err != nil {
		return err
	}
	if err := p.parents(name); err != nil {
		return err
	}
	if base := path.Base(name); strings.HasPrefix(base, whiteout) {
		return p.whiteout(name, base)
	}
	if p.files[name] && h.Typeflag != tar.TypeDir || p.dirs[name] && h.Typeflag != tar.TypeDir {
		return bulwark.Invalid("The layer has an entry twice.", "")
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if !p.dirs[name] {
			if p.files[name] {
				return bulwark.Invalid("The layer has an entry twice.", "")
			}
			if err := p.w.Mkdir(name, h.FileInfo().Mode().Perm()); err != nil {
				return err
			}
			p.dirs[name] = true
		}
	case tar.TypeReg:
		if err := p.regular(name, content); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := p.w.Symlink(h.Linkname, name); err != nil {
			return err
		}
		p.files[name] = true
		return p.owner(name, h)
	case tar.TypeLink:
		return p.link(name, h)
	default:
		return nil // devices, pipes: not taken
	}
	return p.meta(name, h)
}

// count notes an entry, whether the tar names it or it is the folder of one.
func (p *packer) count(names int) error {
	p.entries++
	p.names += int64(names)
	if p.entries > p.limits.Entries {
		return bulwark.Failf(bulwark.KindTooLarge, "The layer has more than %d entries.", p.limits.Entries)
	}
	if p.names > p.limits.Names {
		return bulwark.Failf(bulwark.KindTooLarge, "The paths of the layer are more than %d MiB together.", p.limits.Names>>20)
	}
	return nil
}

func (p *packer) regular(name string, content io.Reader) error {
	f, err := p.w.Create(name)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(content, p.limits.Bytes-p.bytes+1))
	p.bytes += n
	if err == nil && p.bytes > p.limits.Bytes {
		err = bulwark.Failf(bulwark.KindTooLarge, "The layer has more than %d bytes.", p.limits.Bytes)
	}
	p.files[name] = true
	return errors.Join(err, f.Close())
}

// link makes a copy of the target: the writer knows no hard links, and in a read-only layer nobody can tell.
func (p *packer) link(name string, h *tar.Header) error {
	target := clean(h.Linkname)
	if !p.files[target] {
		return bulwark.Invalid("A hard link leads to a file that is not in the layer.", "")
	}
	info, err := p.w.Stat(target)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return bulwark.Invalid("A hard link leads to something that is not a file.", "")
	}
	src, err := p.w.Open(target)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := p.regular(name, src); err != nil {
		return err
	}
	return p.meta(name, h)
}

// whiteout writes overlayfs's forms: a character device 0/0 for a name that is gone, a mark on a directory whose lower
// content is gone (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
func (p *packer) whiteout(name, base string) error {
	dir := path.Dir(name)
	if base == opaque {
		return p.w.Setxattr(dir, "trusted.overlay.opaque", "y")
	}
	gone := path.Join(dir, strings.TrimPrefix(base, whiteout))
	if gone == dir || p.files[gone] || p.dirs[gone] {
		return nil // put back in the same layer, or not a name
	}
	const charDevice = 0o020000
	p.files[gone] = true
	return p.w.Mknod(gone, charDevice, 0)
}

// parents makes the directories above a name that the tar did not mention.
func (p *packer) parents(name string) error {
	dir := path.Dir(name)
	if p.dirs[dir] {
		return nil
	}
	if p.files[dir] {
		return bulwark.Invalid("A directory of the layer is also a file.", "")
	}
	if err := p.parents(dir); err != nil { // as deep as Limits.Depth at most
		return err
	}
	if err := p.count(len(dir)); err != nil {
		return err
	}
	p.dirs[dir] = true
	return p.w.Mkdir(dir, 0o755)
}

func (p *packer) meta(name string, h *tar.Header) error {
	mode := h.FileInfo().Mode()
	if err := p.w.Chmod(name, mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	for k, v := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && strings.HasPrefix(attr, "user.") {
			if err := p.w.Setxattr(name, attr, v); err != nil {
				return err
			}
		}
	}
	return p.owner(name, h)
}

func (p *packer) owner(name string, h *tar.Header) error {
	// Ids above what the instance's user namespace maps would be shown as nobody's.
	uid, gid := h.Uid, h.Gid
	if uid < 0 || uid > 65535 {
		uid = 65534
	}
	if gid < 0 || gid > 65535 {
		gid = 65534
	}
	if err := p.w.Chown(name, uid, gid); err != nil {
		return err
	}
	return p.w.Chtimes(name, h.ModTime, h.ModTime)
}
