// Package tree carries a folder of source from a person's machine to the node: it measures the folder, writes it as a tar
// stream, checks such a stream, and unpacks it.
//
// It promises that a stream which it accepts has exactly one tree, named by its statement.TreeDigest, and that unpacking
// writes nothing but plain files, folders and symbolic links that stay inside, all of them below the folder it was given
// and within its limits, however hostile the stream is. The form is strict: regular files and symbolic links only, each
// path once and plain, folders never named; whatever else a tar can say (owners, times, set-user-id bits, extended
// attributes) is dropped or refused.
//
// The node unpacks in a process of its own without rights (cmd/bulwark-unpack). Whoever owns that process can spoil the
// source of the one app whose user it runs as.
package tree

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// MaxArchive bounds a tar stream, and an image archive, in bytes.
const MaxArchive = 1 << 30

// Limits bound what one tree may be.
type Limits struct {
	Entries int   // files and links
	Bytes   int64 // of all files together
	Names   int64 // bytes of all paths and links together: they are kept in memory
}

// DefaultLimits are generous for source and far from filling a disk.
var DefaultLimits = Limits{Entries: 250_000, Bytes: MaxArchive, Names: 64 << 20}

// Entry is a file or link of a folder that was measured.
type Entry struct {
	statement.TreeEntry
	Size int64  // of a file
	Link string // text of a symbolic link
}

// Tree is a folder that was measured.
type Tree struct {
	Digest  statement.TreeDigest
	Entries []Entry // by path
	Bytes   int64   // of all files together
	root    *os.Root
}

// Close lets go of the folder.
func (t *Tree) Close() error { return t.root.Close() }

// Measure reads the files of a folder that paths name, and finds the digest of the tree that they are. The tree's Close
// must be called.
func Measure(dir string, paths []string, limits Limits) (*Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The folder %+q cannot be opened.", dir), "", err)
	}
	t := &Tree{root: root}
	if err := t.measure(paths, &quota{limits: limits}); err != nil {
		root.Close()
		return nil, err
	}
	return t, nil
}

func (t *Tree) measure(paths []string, q *quota) error {
	sums := make([]statement.TreeEntry, 0, len(paths))
	byPath := make(map[string]Entry, len(paths))
	for _, p := range paths {
		e, err := t.look(p, q)
		if err != nil {
			return err
		}
		sums, byPath[p] = append(sums, e.TreeEntry), e
		t.Bytes += e.Size
	}
	if len(sums) == 0 {
		return empty()
	}
	var err error
	if t.Digest, err = statement.SumTree(sums); err != nil {
		return err
	}
	for _, s := range sums { // sorted now
		t.Entries = append(t.Entries, byPath[s.Path])
	}
	return nil
}

// look measures one file or link.
func (t *Tree) look(p string, q *quota) (Entry, error) {
	e := Entry{TreeEntry: statement.TreeEntry{Path: p}}
	if err := statement.CheckTreePath(p); err != nil {
		return e, err
	}
	info, err := t.root.Lstat(p)
	if err != nil {
		return e, unreadable(p, err)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if e.Link, err = t.root.Readlink(p); err != nil {
			return e, unreadable(p, err)
		}
		e.Mode, e.Sum = statement.TreeLink, sha256.Sum256([]byte(e.Link))
		return e, firstOf(checkLink(p, e.Link), q.take(p, e.Link, 0))
	case !info.Mode().IsRegular():
		return e, bulwark.Invalid(fmt.Sprintf("%+q is neither a file nor a symbolic link.", p), "Remove it, or leave it out with a line in .bulwarkignore.")
	}
	if err := q.take(p, "", info.Size()); err != nil {
		return e, err
	}
	e.Mode, e.Size = mode(info.Mode()), info.Size()
	f, err := t.open(p)
	if err != nil {
		return e, unreadable(p, err)
	}
	defer f.Close()
	h := sha256.New()
	// One byte more than was there: a file that grows meanwhile is noticed.
	n, err := io.Copy(h, io.LimitReader(f, e.Size+1))
	if err != nil {
		return e, unreadable(p, err)
	}
	if n != e.Size {
		return e, changed(p)
	}
	h.Sum(e.Sum[:0])
	return e, nil
}

// mode keeps of a file's permissions what a tree has.
func mode(m fs.FileMode) statement.TreeMode {
	if m&0o100 != 0 {
		return statement.TreeProgram
	}
	return statement.TreeFile
}

// quota counts what a tree has used of its limits.
type quota struct {
	limits  Limits
	entries int
	bytes   int64
	names   int64
}

// take counts an entry.
func (q *quota) take(path, link string, size int64) error {
	q.entries++
	q.names += int64(len(path) + len(link))
	const hint = "Leave out what the build does not need, with lines in .bulwarkignore."
	switch {
	case q.entries > q.limits.Entries:
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The source tree has more than %d files.", q.limits.Entries), hint, nil)
	case q.names > q.limits.Names:
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The paths in the source tree have more than %d bytes together.", q.limits.Names), hint, nil)
	case size < 0 || size > q.limits.Bytes-q.bytes:
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The source tree is larger than %d MiB.", q.limits.Bytes>>20), hint, nil)
	}
	q.bytes += size
	return nil
}

// checkLink refuses a symbolic link that leads out of the tree. Its ".." may stand at the beginning alone and there may
// be no more of them than the link has folders above it: those are real folders (nothing lies below a link), so they
// lead exactly that far up, and what follows only leads down, perhaps through other links of which the same is true. A
// ".." further behind could follow a link and so be more than it looks.
func checkLink(p, target string) error {
	bad := func(why string) error {
		return bulwark.Invalid(fmt.Sprintf("The symbolic link %+q %s.", p, why), "Make it lead to a file in the folder, or leave it out with a line in .bulwarkignore.")
	}
	switch {
	case target == "" || len(target) > 2048 || strings.ContainsRune(target, 0) || !utf8.ValidString(target):
		return bad("has a text that is no path")
	case path.IsAbs(target):
		return bad("leads out of the source tree: it is absolute")
	}
	up, down := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			down = true
		case down:
			return bad(`has ".." behind another part of its path`)
		default:
			up++
		}
	}
	if up > strings.Count(p, "/") {
		return bad("leads out of the source tree")
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func empty() error {
	return bulwark.Invalid("There is no file to deploy.", "Give the folder of the app; see what .gitignore and .bulwarkignore leave out.")
}

func unreadable(p string, err error) error {
	return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%+q cannot be read.", p), "Make it readable, or leave it out with a line in .bulwarkignore.", err)
}

func changed(p string) error {
	return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("%+q changed while it was read, so nothing was deployed.", p), "Run the command again.", nil)
}
