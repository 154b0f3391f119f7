// Package images keeps the images that the node admitted: their blobs by digest, and each layer unpacked into an EROFS
// file that is mounted read-only. It promises that what an instance runs from is, byte for byte, what was admitted:
// every file is hashed when it comes in, and before each start it is checked to be the very same file, by inode, size and
// change time, or hashed again.
//
// Nothing outside the node can write here. Whoever changes the disk underneath is noticed when the change time shows
// it, and else by the probe that reads everything.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// Store keeps images below a directory of the node's.
type Store struct {
	config Config
	held   sync.RWMutex // shared by who admits, taken by who collects
	mu     sync.Mutex   // guards seen
	seen   map[string]stamp
}

// Config says where and how.
type Config struct {
	Dir     string // the store
	Pack    string // path of bulwark-pack
	Catalog string // path of bulwark-sbom
	Scratch string // folder that every user can pass, for the files of programs that run
	Cells   *cell.Cells
	Ledger  Book
}

// Book is what the store remembers through: the node's ledger.
type Book interface {
	LayerFile(ctx context.Context, blob bulwark.Digest) (bulwark.Digest, error)
	RecordImage(ctx context.Context, image bulwark.Digest, layers []ledger.Layer, config ledger.ImageConfig) error
	Layers(ctx context.Context, image bulwark.Digest) ([]ledger.Layer, ledger.ImageConfig, error)
}

// stamp is what tells a file that was hashed from one that was touched since. The change time cannot be set by any call.
type stamp struct {
	dev, ino   uint64
	size       int64
	mtim, ctim unix.Timespec
}

// Bounds on what a builder may hand over.
const (
	maxMeta   = 4 << 20
	maxLayers = 127
	// maxBytes bounds all layers of an image together as they came, maxUnpacked what they are unpacked to.
	maxBytes    = 4 << 30
	maxUnpacked = 8 << 30
)

// Open makes the store's directories.
func Open(c Config) (*Store, error) {
	for _, d := range []string{"blobs/sha256", "layers", "sbom", "tmp"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
	}
	return &Store{config: c, seen: map[string]stamp{}}, nil
}

func (s *Store) blob(d bulwark.Digest) string {
	return filepath.Join(s.config.Dir, "blobs/sha256", d.Hex())
}
func (s *Store) layer(d bulwark.Digest) string {
	return filepath.Join(s.config.Dir, "layers", d.Hex()+".erofs")
}

// Admit takes an image out of a content store that a builder wrote (an OCI layout's blobs directory), hashing all of it,
// and unpacks its layers. The directory is hostile: links, pipes and files that change underneath are expected.
func (s *Store) Admit(ctx context.Context, from string, image bulwark.Digest) ([]ledger.Layer, ledger.ImageConfig, error) {
	defer s.Hold()()
	var config ledger.ImageConfig
	fail := func(err error) ([]ledger.Layer, ledger.ImageConfig, error) {
		return nil, config, fmt.Errorf("images: cannot admit %s: %w", image, err)
	}
	raw, err := s.takeMeta(from, image)
	if err != nil {
		return fail(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fail(err)
	}
	if len(m.Layers) > maxLayers {
		return fail(bulwark.Failf(bulwark.KindTooLarge, "The image has %d layers; at most %d are taken.", len(m.Layers), maxLayers))
	}
	configDigest, err := bulwark.ParseDigest(string(m.Config.Digest))
	if err != nil {
		return fail(err)
	}
	raw, err = s.takeMeta(from, configDigest)
	if err != nil {
		return fail(err)
	}
	var c ocispec.Image
	if err := json.Unmarshal(raw, &c); err != nil {
		return fail(err)
	}
	config = ledger.ImageConfig{Env: c.Config.Env, Dir: c.Config.WorkingDir, User: c.Config.User}
	layers, err := s.takeLayers(ctx, from, m.Layers)
	if err != nil {
		return fail(err)
	}
	return layers, config, s.config.Ledger.RecordImage(ctx, image, layers, config)
}

func (s *Store) takeLayers(ctx context.Context, from string, ds []ocispec.Descriptor) ([]ledger.Layer, error) {
	var total int64
	left := int64(maxUnpacked)
	var out []ledger.Layer
	for _, d := range ds {
		blob, err := bulwark.ParseDigest(string(d.Digest))
		if err != nil {
			return nil, err
		}
		if total += d.Size; d.Size < 0 || total > maxBytes {
			return nil, bulwark.Failf(bulwark.KindTooLarge, "The image is larger than %d GiB.", maxBytes>>30)
		}
		if err := s.take(from, blob, d.Size); err != nil {
			return nil, err
		}
		file, err := s.unpack(ctx, blob, left)
		if err != nil {
			return nil, err
		}
		// What it became is measured, also of a layer that another image brought: a helper's word does not count.
		st, err := os.Stat(s.layer(file))
		if err != nil {
			return nil, err
		}
		if left -= st.Size(); left < 0 {
			return nil, tooLarge(nil)
		}
		out = append(out, ledger.Layer{Blob: blob, EROFS: file})
	}
	return out, nil
}

// configOf returns which blob is an image's config.
func (s *Store) configOf(image bulwark.Digest) (bulwark.Digest, error) {
	raw, err := os.ReadFile(s.blob(image))
	if err != nil {
		return "", err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", err
	}
	return bulwark.ParseDigest(string(m.Config.Digest))
}

// takeMeta takes a small blob and returns its content.
func (s *Store) takeMeta(from string, d bulwark.Digest) ([]byte, error) {
	if err := s.take(from, d, maxMeta); err != nil {
		return nil, err
	}
	return os.ReadFile(s.blob(d))
}

// take copies a blob into the store unless it is there. It is in the store under a digest only if it has that digest.
func (s *Store) take(from string, d bulwark.Digest, most int64) error {
	if s.verify(s.blob(d), d) == nil {
		return nil
	}
	src, err := openPlain(from, "blobs/sha256/"+d.Hex())
	if err != nil {
		return err
	}
	defer src.Close()
	return s.place(s.blob(d), d, func(w io.Writer) error {
		n, err := io.Copy(w, io.LimitReader(src, most+1))
		if err == nil && n > most {
			err = bulwark.Failf(bulwark.KindTooLarge, "The blob %s is larger than it says.", d)
		}
		return err
	})
}

// place writes a file through a temporary one, hashing it; want may be "" where the digest is not known before.
func (s *Store) place(path string, want bulwark.Digest, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Join(s.config.Dir, "tmp"), "blob-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	if err := fill(io.MultiWriter(f, h)); err != nil {
		return err
	}
	if got := bulwark.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))); got != want {
		return bulwark.Failf(bulwark.KindForbidden, "The blob %s has the digest %s.", want, got)
	}
	return s.keep(f, path, want)
}

// keep makes a hashed temporary file permanent and remembers its stamp.
func (s *Store) keep(f *os.File, path string, d bulwark.Digest) error {
	if err := f.Chmod(0o400); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The rename changes the change time, so the stamp is taken after it, from the same open file.
	st, err := stampOf(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.seen[path] = st
	s.mu.Unlock()
	return nil
}

// unpack makes the EROFS file of a layer, in a process without rights, unless it was made before.
func (s *Store) unpack(ctx context.Context, blob bulwark.Digest, most int64) (bulwark.Digest, error) {
	have, err := s.config.Ledger.LayerFile(ctx, blob)
	if err != nil {
		return "", err
	}
	if have != "" && s.verify(s.layer(have), have) == nil {
		return have, nil
	}
	in, err := os.Open(s.blob(blob))
	if err != nil {
		return "", err
	}
	defer in.Close()
	f, err := os.CreateTemp(filepath.Join(s.config.Dir, "tmp"), "layer-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := s.pack(ctx, in, f, most); err != nil {
		return "", err
	}
	d, err := digestOf(f)
	if err != nil {
		return "", err
	}
	return d, s.keep(f, s.layer(d), d)
}

// packLimits bound bulwark-pack: it spools a layer's files beside the image that it makes of them.
var packLimits = cell.Limits{Memory: 2 << 30, PIDs: 64, CPU: 10 * time.Minute, Time: 20 * time.Minute, Disk: maxUnpacked + 1<<30, Names: 1000}

// pack runs bulwark-pack in a cell, as a user that nobody else is meanwhile: two layers of two apps that are unpacked at once
// have nothing in common.
func (s *Store) pack(ctx context.Context, in, out *os.File, most int64) error {
	uid, giveBack, err := s.config.Cells.User()
	if err != nil {
		return err
	}
	defer giveBack()
	scratch, err := os.MkdirTemp(s.config.Scratch, "pack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if err := os.Chown(scratch, int(uid), int(uid)); err != nil {
		return err
	}
	err = s.config.Cells.Run(ctx, cell.Cmd{What: "Unpacking a layer of the image", Hint: tooLargeHint,
		Path: s.config.Pack, Args: []string{strconv.FormatInt(most, 10)}, Stdin: in, Files: []*os.File{out}, Dir: scratch, Write: []string{scratch}, User: uid, Limits: packLimits})
	if exit, ok := errors.AsType[*process.ExitError](err); ok && exit.Code == 3 && bulwark.KindOf(err) == bulwark.KindInternal {
		return tooLarge(err)
	}
	return err
}

const tooLargeHint = "Look for very large files or very many of them in the image."

func tooLarge(cause error) error {
	return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The image is more than %d GiB, has too many files, or paths that are too long.", maxUnpacked>>30), tooLargeHint, cause)
}

// Verify checks that an image is whole and unchanged: manifest, config, layers and what they were unpacked to.
func (s *Store) Verify(ctx context.Context, image bulwark.Digest) ([]ledger.Layer, ledger.ImageConfig, error) {
	layers, config, err := s.config.Ledger.Layers(ctx, image)
	if err != nil {
		return nil, config, err
	}
	if err := s.verify(s.blob(image), image); err != nil {
		return nil, config, err
	}
	raw, err := os.ReadFile(s.blob(image))
	if err != nil {
		return nil, config, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, config, err
	}
	if len(m.Layers) != len(layers) {
		return nil, config, changed(image)
	}
	for i, y := range layers {
		if string(m.Layers[i].Digest) != string(y.Blob) {
			return nil, config, changed(image)
		}
		if err := errors.Join(s.verify(s.blob(y.Blob), y.Blob), s.verify(s.layer(y.EROFS), y.EROFS)); err != nil {
			return nil, config, err
		}
	}
	return layers, config, nil
}

// verify checks that the file at path has digest d, by its stamp if it was hashed before and is untouched.
func (s *Store) verify(path string, d bulwark.Digest) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := stampOf(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	known, ok := s.seen[path]
	s.mu.Unlock()
	if ok && known == st {
		return nil
	}
	got, err := digestOf(f)
	if err != nil {
		return err
	}
	if got != d {
		return changed(d)
	}
	s.mu.Lock()
	s.seen[path] = st // taken before the reading: a change meanwhile shows
	s.mu.Unlock()
	return nil
}

func changed(d bulwark.Digest) error {
	return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The image %s was changed on disk, so it is not started.", d),
		"Deploy the app again; then find out who changed the disk.", nil)
}

func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, err
	}
	return stamp{dev: st.Dev, ino: st.Ino, size: st.Size, mtim: st.Mtim, ctim: st.Ctim}, nil
}

func digestOf(f *os.File) (bulwark.Digest, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return bulwark.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), nil
}

// openPlain opens a regular file below a directory that somebody hostile writes: no link on the way, no pipe to hang on.
func openPlain(dir, rel string) (*os.File, error) {
	root, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), rel, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return nil, fmt.Errorf("the builder's %s: %w", rel, err)
	}
	f := os.NewFile(uintptr(fd), rel)
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("the builder's %s is not a file", rel)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
