package gitssh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// holdsDir is where a repository keeps the objects of pushes that are being decided on.
const holdsDir = "bulwark-holds"

// hold keeps the objects of one push from the moment the hook asks until the push is decided. Git keeps them in a
// quarantine that it deletes when it fails, and it fails when the client goes away; a hold has the same files by a
// second name. A push that is refused leaves nothing, and no other push sees its objects.
type hold struct {
	dir     string // an object directory; its objects rest on those of main
	objects string // the repository's own
}

// newHold links what is in git's quarantine. quarantine comes from the hook: only its last part is looked at, and only
// a name that git gives is taken.
func newHold(repo, quarantine, id string) (*hold, error) {
	name := filepath.Base(quarantine)
	if !strings.HasPrefix(name, "tmp_objdir-incoming-") && !strings.HasPrefix(name, "incoming-") {
		return nil, fmt.Errorf("gitssh: %q is not a quarantine of git", name)
	}
	h := &hold{dir: filepath.Join(repo, holdsDir, id), objects: filepath.Join(repo, "objects")}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	if err := linkObjects(filepath.Join(h.objects, name), h.dir); err != nil {
		return nil, errors.Join(err, h.drop())
	}
	return h, nil
}

// env lets a git read the held objects as if they were the repository's.
func (h *hold) env() []string {
	return []string{"GIT_OBJECT_DIRECTORY=" + h.dir, "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + h.objects}
}

// keep makes the objects the repository's own, durably.
func (h *hold) keep() error { return linkObjects(h.dir, h.objects) }

// drop forgets the hold; what was kept stays.
func (h *hold) drop() error { return os.RemoveAll(h.dir) }

// linkObjects gives every object file under src a second name under dst and makes it durable. Files are named by their
// content, so one that is there already is the same. A pack's index comes last: git takes a pack for present by it.
func linkObjects(src, dst string) error {
	dirs, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !d.IsDir() || len(d.Name()) != 2 && d.Name() != "pack" {
			continue
		}
		if err := linkFiles(filepath.Join(src, d.Name()), filepath.Join(dst, d.Name())); err != nil {
			return err
		}
	}
	return syncDir(dst)
}

func linkFiles(src, dst string) error {
	files, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dst, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var last []string
	for _, f := range files {
		name := f.Name()
		switch {
		// A .keep would shut the pack out of every later repack; a tmp_ file is half an object.
		case !f.Type().IsRegular(), strings.HasSuffix(name, ".keep"), strings.HasPrefix(name, "tmp_"):
		case strings.HasSuffix(name, ".idx"):
			last = append(last, name)
		default:
			if err := link(src, dst, name); err != nil {
				return err
			}
		}
	}
	for _, name := range last {
		if err := link(src, dst, name); err != nil {
			return err
		}
	}
	return syncDir(dst)
}

func link(src, dst, name string) error {
	err := os.Link(filepath.Join(src, name), filepath.Join(dst, name))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// size shows a number of bytes to people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d KiB", (n+1023)/1024)
}

// zero is how git writes "no commit".
const zero = bulwark.Commit("0000000000000000000000000000000000000000")
