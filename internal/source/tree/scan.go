package tree

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Check reads a tar stream to its end and returns the digest of the tree that it holds. Nothing is written.
func Check(r io.Reader, limits Limits) (statement.TreeDigest, error) {
	return scan(r, limits, nowhere{})
}

// Unpack reads a tar stream and writes the tree that it holds into dir, an empty folder. What Check refuses, Unpack
// refuses.
func Unpack(r io.Reader, dir string, limits Limits) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = scan(r, limits, folder{root})
	return err
}

// Digest returns the digest of the tree that a folder holds, all of it.
func Digest(dir string, limits Limits) (statement.TreeDigest, error) {
	paths, err := List(dir, nil)
	if err != nil {
		return "", err
	}
	t, err := Measure(dir, paths, limits)
	if err != nil {
		return "", err
	}
	return t.Digest, t.Close()
}

// sink is where a scan puts what it finds: it sees no path twice, and each folder before what lies in it.
type sink interface {
	folder(path string) error
	file(path string, mode statement.TreeMode, content io.Reader) error
	link(path, target string) error
}

// scanner reads one stream.
type scanner struct {
	to      sink
	quota   quota
	entries []statement.TreeEntry
	folders map[string]bool
	others  map[string]bool // files and links
}

func scan(r io.Reader, limits Limits, to sink) (statement.TreeDigest, error) {
	s := &scanner{to: to, quota: quota{limits: limits}, folders: map[string]bool{}, others: map[string]bool{}}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", broken(err)
		}
		if err := s.entry(h, t); err != nil {
			return "", err
		}
	}
	if len(s.entries) == 0 {
		return "", empty()
	}
	// What stands behind the end has no meaning, but whoever sends it must be able to.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", broken(err)
	}
	return statement.SumTree(s.entries)
}

func (s *scanner) entry(h *tar.Header, content io.Reader) error {
	if err := statement.CheckTreePath(h.Name); err != nil {
		return err
	}
	if err := s.quota.take(h.Name, h.Linkname, h.Size); err != nil {
		return err
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return bulwark.Invalid(fmt.Sprintf("The archive holds the sparse file %+q.", h.Name), "")
		}
	}
	e := statement.TreeEntry{Path: h.Name}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Mode = mode(fs.FileMode(h.Mode & 0o777)) // set-user-id and the like are not taken
	case tar.TypeSymlink:
		if err := checkLink(h.Name, h.Linkname); err != nil {
			return err
		}
		e.Mode, e.Sum = statement.TreeLink, sha256.Sum256([]byte(h.Linkname))
	default:
		return bulwark.Invalid(fmt.Sprintf("The archive holds %+q, which is neither a file nor a symbolic link.", h.Name), "")
	}
	if err := s.place(h.Name); err != nil {
		return err
	}
	if e.Mode == statement.TreeLink {
		s.entries = append(s.entries, e)
		return s.to.link(h.Name, h.Linkname)
	}
	sum := sha256.New()
	if err := s.to.file(h.Name, e.Mode, io.TeeReader(content, sum)); err != nil {
		return err
	}
	sum.Sum(e.Sum[:0])
	s.entries = append(s.entries, e)
	return nil
}

// place makes the folders above a path, none of which may be anything else, and keeps a path from being used twice. Since
// a link is never a folder here, no path leads through one.
func (s *scanner) place(p string) error {
	if s.others[p] || s.folders[p] {
		return bulwark.Invalid(fmt.Sprintf("The archive holds %+q twice.", p), "")
	}
	s.others[p] = true
	for i := range p {
		if p[i] != '/' || s.folders[p[:i]] {
			continue
		}
		if s.others[p[:i]] {
			return bulwark.Invalid(fmt.Sprintf("In the archive %+q is both a folder and something else.", p[:i]), "")
		}
		// A short path with many folders is more to make than it looks, so each counts as an entry.
		if err := s.quota.take(p[:i], "", 0); err != nil {
			return err
		}
		s.folders[p[:i]] = true
		if err := s.to.folder(p[:i]); err != nil {
			return err
		}
	}
	return nil
}

func broken(err error) error {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return e
	}
	return bulwark.Fail(bulwark.KindInvalid, "The archive of the source is not a tar stream that is whole.", "Run the command again.", err)
}

// nowhere reads what it is given and keeps nothing.
type nowhere struct{}

func (nowhere) folder(string) error       { return nil }
func (nowhere) link(string, string) error { return nil }
func (nowhere) file(_ string, _ statement.TreeMode, content io.Reader) error {
	if _, err := io.Copy(io.Discard, content); err != nil {
		return broken(err)
	}
	return nil
}

// folder writes into a folder. The paths are plain and lead through no link; os.Root would refuse it if they did not.
type folder struct{ root *os.Root }

func (f folder) folder(p string) error { return stored(f.root.Mkdir(p, 0o755)) }

func (f folder) link(p, target string) error { return stored(f.root.Symlink(target, p)) }

func (f folder) file(p string, mode statement.TreeMode, content io.Reader) error {
	perm := fs.FileMode(0o644)
	if mode == statement.TreeProgram {
		perm = 0o755
	}
	out, err := f.root.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return stored(err)
	}
	w := &writer{f: out}
	_, err = io.Copy(w, content)
	if err != nil && w.err == nil {
		err = broken(err)
	}
	return errors.Join(stored(err), stored(out.Close()))
}

// writer remembers that it was the writing that failed, not the reading.
type writer struct {
	f   *os.File
	err error
}

// Write implements [io.Writer].
func (w *writer) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	if err != nil {
		w.err = err
	}
	return n, err
}

// stored explains why something could not be written.
func stored(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return bulwark.Fail(bulwark.KindUnavailable, "The source cannot be stored: the disk is full.", "Free some space on the machine and deploy again.", err)
	case errors.Is(err, fs.ErrExist):
		return bulwark.Fail(bulwark.KindInvalid, "The folder that the archive is unpacked into is not empty.", "", err)
	}
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return e
	}
	return fmt.Errorf("tree: %w", err)
}
