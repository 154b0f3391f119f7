package builder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/bulwark-paas/bulwark"
)

// maxFile bounds what is read of a file that decides about a build.
const maxFile = 4 << 20

// tree is the folder of the source tree that is built. All reading goes through os.Root, so a symbolic link that leads
// out of the tree is an error, not a way to have the builder's own files quoted in a message.
type tree struct {
	dir  string // host path
	sub  string // dir relative to the source tree, "" for its root: names in messages begin with it
	root *os.Root
}

func openTree(source, sub string) (*tree, error) {
	dir := filepath.Join(source, filepath.FromSlash(sub))
	top, err := os.OpenRoot(source)
	if err != nil {
		return nil, fmt.Errorf("open the source tree: %w", err)
	}
	if sub == "" {
		return &tree{dir: dir, root: top}, nil
	}
	defer top.Close()
	root, err := top.OpenRoot(sub)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%s: there is no folder %+q in the source tree.", manifestName, short(sub)), "Correct [build] dir.", err)
	}
	return &tree{dir: dir, sub: sub, root: root}, nil
}

// file returns a name as messages show it.
func (t *tree) file(name string) string { return path.Join(t.sub, name) }

// has reports whether name is a regular file, after following links inside the tree.
func (t *tree) has(name string) bool {
	info, err := t.root.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// hasDir reports whether name is a folder.
func (t *tree) hasDir(name string) bool {
	info, err := t.root.Stat(name)
	return err == nil && info.IsDir()
}

// read returns a file's text; ok is false if it is not there.
func (t *tree) read(name string) (text string, ok bool, err error) {
	f, err := t.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%s cannot be read.", t.file(name)), "It must be a file, or a link to a file in the source tree.", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", false, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%s cannot be read.", t.file(name)), "It must be a file, or a link to a file in the source tree.", err)
	}
	if len(b) > maxFile {
		return "", false, bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("%s is larger than %d MiB.", t.file(name), maxFile>>20), "", nil)
	}
	return string(b), true, nil
}

// entries lists a folder in order; an absent one is empty.
func (t *tree) entries(name string) []fs.DirEntry {
	list, err := fs.ReadDir(t.root.FS(), name)
	if err != nil {
		return nil
	}
	return list
}
