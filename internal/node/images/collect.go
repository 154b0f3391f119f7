package images

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// Hold keeps files from being collected until it is let go: between the admission of an image and the record of what it is
// for, nothing but the caller knows that it is needed.
func (s *Store) Hold() (letGo func()) {
	s.held.RLock()
	return s.held.RUnlock
}

// Collect removes the files that no image needs any more; forget asks the book which images stay. It does nothing, and says
// so, while something is being admitted: who admits collects afterwards. Whatever it is killed between, the next one
// goes on: a file goes only after the book has forgotten every image that needed it.
func (s *Store) Collect(ctx context.Context, forget func(context.Context) (map[bulwark.Digest][]ledger.Layer, error)) (done bool, err error) {
	if !s.held.TryLock() {
		return false, nil
	}
	defer s.held.Unlock()
	stay, err := forget(ctx)
	if err != nil {
		return false, err
	}
	blobs, layers := map[string]bool{}, map[string]bool{}
	for image, all := range stay {
		blobs[image.Hex()] = true
		if config, err := s.configOf(image); err == nil {
			blobs[config.Hex()] = true
		}
		for _, y := range all {
			blobs[y.Blob.Hex()], layers[y.EROFS.Hex()] = true, true
		}
	}
	// A layer's file is called HEX.erofs, and what was found in it HEX.inventory.N.json.
	err = errors.Join(s.sweep("layers", func(name string) bool { hex, _, _ := strings.Cut(name, "."); return layers[hex] }),
		s.sweep("blobs/sha256", func(name string) bool { return blobs[name] }))
	return true, err
}

// Tidy removes what a node that was killed left half made. It is for the start, before anything else: mounted tells which
// root file systems are, whose top layers lie here too.
func (s *Store) Tidy(mounted func(name string) bool) error {
	return s.sweep("tmp", func(name string) bool {
		of, ok := strings.CutPrefix(name, "mount-")
		return ok && mounted(of)
	})
}

// sweep removes what is in a folder of the store and is not to stay.
func (s *Store) sweep(folder string, stays func(name string) bool) error {
	dir := filepath.Join(s.config.Dir, folder)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if stays(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			err = errors.Join(err, detachBelow(path))
		}
		err = errors.Join(err, os.RemoveAll(path))
		s.mu.Lock()
		delete(s.seen, path)
		s.mu.Unlock()
	}
	return err
}

// detachBelow lets go of the mounts of a mount that was cut off, so that nothing is removed through them.
func detachBelow(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		for unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil { //nolint:revive // until nothing is mounted there
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
