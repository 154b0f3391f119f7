package tree

import (
	"io/fs"
	"os"

	"github.com/bulwark-paas/bulwark"
)

// List returns the paths of everything in dir but folders, whose content it lists, and what skip names; skip may be nil.
// No link is followed.
func List(dir string, skip func(path string, folder bool) bool) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The folder cannot be opened.", "", err)
	}
	defer root.Close()
	var out []string
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return unreadable(p, err)
		case p == ".":
			return nil
		case skip != nil && skip(p, d.IsDir()):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		out = append(out, p)
		return nil
	})
	return out, err
}
