// Package projectkeys keeps the private keys of the projects on disk: one file per version, readable to root alone, and
// beside it a copy that only the operator's recovery key opens. Which version is current the ledger says; this package
// promises that a version which Make returned is on disk with its copy, whatever is killed afterwards, and that Retire
// leaves nothing of any other.
//
// Whoever reads the folder reads every value that is sealed to the keys in it.
package projectkeys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/seal"
)

// Ring is the open folder.
type Ring struct {
	dir  string
	to   age.Recipient // the recovery key's public half
	mu   sync.Mutex    // guards keys
	keys map[string]*seal.Key
}

// Open returns the ring of a folder, which must be there. Copies of keys are made for the recipient to.
func Open(dir string, to age.Recipient) *Ring {
	return &Ring{dir: dir, to: to, keys: map[string]*seal.Key{}}
}

// name is the file of a version. The first one's has no number: it is from before there were versions.
func name(p bulwark.ProjectID, version uint64) string {
	if version == 1 {
		return string(p) + ".key"
	}
	return fmt.Sprintf("%s.%d.key", p, version)
}

// copyOf is what a key's file is called that is wrapped for the recovery key.
func copyOf(name string) string { return name + ".age" }

// Key returns a version of a project's key.
func (r *Ring) Key(p bulwark.ProjectID, version uint64) (*seal.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read(name(p, version))
}

// read returns the key in a file. The caller holds r.mu.
func (r *Ring) read(file string) (*seal.Key, error) {
	if k := r.keys[file]; k != nil {
		return k, nil
	}
	path := filepath.Join(r.dir, file)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bulwark.Fail(bulwark.KindUnavailable, "A project's key is missing.",
			"Put "+path+" back from a backup of the same time as the ledger; nothing was changed.", err)
	}
	if err != nil {
		return nil, fmt.Errorf("projectkeys: %w", err)
	}
	k, err := seal.ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("projectkeys: %s: %w", path, err)
	}
	r.keys[file] = k
	return k, nil
}

// Has tells whether the file of a version is there.
func (r *Ring) Has(p bulwark.ProjectID, version uint64) (bool, error) {
	_, err := os.Lstat(filepath.Join(r.dir, name(p, version)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Made tells when a version was made, by its file.
func (r *Ring) Made(p bulwark.ProjectID, version uint64) (time.Time, error) {
	st, err := os.Lstat(filepath.Join(r.dir, name(p, version)))
	if err != nil {
		return time.Time{}, fmt.Errorf("projectkeys: %w", err)
	}
	return st.ModTime(), nil
}

// Make makes a version of a project's key, which takes the place of before (nil for the first one), and returns when it is
// on disk. A version that is there already, from a time that was cut off, is returned: nobody was told its public half.
func (r *Ring) Make(p bulwark.ProjectID, version uint64, before *seal.Key) (*seal.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	file := name(p, version)
	if there, err := r.Has(p, version); err != nil || there {
		if err != nil {
			return nil, err
		}
		return r.read(file)
	}
	fresh := seal.GenerateKey
	if before != nil {
		fresh = before.Next
	}
	k, err := fresh()
	if err != nil {
		return nil, err
	}
	b, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	wrapped, err := wrap(b, r.to)
	if err != nil {
		return nil, err
	}
	// The wrapped copy first: a key that is in use and not recoverable must not exist.
	if err := atomicfile.Write(filepath.Join(r.dir, copyOf(file)), wrapped, 0o600); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(r.dir, file), b, 0o600); err != nil {
		return nil, err
	}
	r.keys[file] = k
	return k, nil
}

// Retire removes whatever is there of projects' keys but the one version of each that keep says: those that came before, one
// that never came into use, and what a write that was cut off left. Keys of a project that keep does not have are let be. The
// caller sees to it that no version is being made.
func (r *Ring) Retire(keep map[bulwark.ProjectID]uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("projectkeys: %w", err)
	}
	gone := false
	for _, e := range entries {
		file := e.Name()
		owner, _, dot := strings.Cut(strings.TrimPrefix(file, ".tmp-"), ".")
		p := bulwark.ProjectID(owner)
		version, ok := keep[p]
		if kept := name(p, version); !ok || !dot || file == kept || file == copyOf(kept) {
			continue
		}
		if _, rerr := r.read(name(p, version)); rerr != nil {
			err = errors.Join(err, rerr) // without the one that is to stay nothing goes
			continue
		}
		gone = true
		delete(r.keys, file)
		err = errors.Join(err, wipe(filepath.Join(r.dir, file)))
	}
	if !gone {
		return err
	}
	d, derr := os.Open(r.dir)
	if derr != nil {
		return errors.Join(err, derr)
	}
	defer d.Close()
	return errors.Join(err, d.Sync())
}

// wipe writes over a file and removes it. Writing over is a best effort: a file system that copies on writing, a disk that
// moves its blocks and a backup keep what was there.
func wipe(path string) error {
	err := overwrite(path)
	return errors.Join(err, os.Remove(path)) // also what cannot be written over
}

func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil // a link holds no key
	}
	if err != nil {
		return fmt.Errorf("projectkeys: %w", err)
	}
	st, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, st.Size()))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func wrap(b []byte, to age.Recipient) ([]byte, error) {
	var out strings.Builder
	w, err := age.Encrypt(&out, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return []byte(out.String()), nil
}
