// Package catalog looks into one layer of an image, which is an EROFS file, and says which packages are installed there:
// those of Debian, Go modules in programs, npm's and Python's, and the Node.js runtime.
//
// Everything that it reads was written by a stranger: the file system, and each file in it. It promises to end, and to
// say no more than an inventory's bounds allow; it opens nothing but what it was given, runs nothing, and follows no link.
// What it cannot read it says in a remark, so that nothing is left out silently.
//
// It runs in a process without rights (cmd/bulwark-sbom), one per layer. Whoever owns that process can make up the
// inventory of the layer that they wrote themselves.
package catalog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	erofs "github.com/erofs/go-erofs"

	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// Limits bound what is looked at.
type Limits struct {
	Entries int   // files, folders and links
	Depth   int   // folders in folders
	File    int64 // bytes of a file with a list of packages
	Package int64 // bytes of a file that tells of one package
	Program int64 // bytes read of one program
	Texts   int   // bytes of all that is said, at most inventory.MaxText
}

// DefaultLimits hold for the largest layers that are real.
var DefaultLimits = Limits{Entries: 1_100_000, Depth: 128, File: 32 << 20, Package: 1 << 20, Program: 256 << 20, Texts: inventory.MaxText}

// errFull says that an inventory's bound is reached.
var errFull = errors.New("catalog: the inventory is full")

// cataloguer is the state of one layer's pass.
type cataloguer struct {
	img        fs.FS
	raw        io.ReaderAt
	limits     Limits
	entries    int
	components int
	text       int
	out        inventory.Layer
}

// Layer returns the inventory of the layer in r. There is an error only if r is no EROFS file at all.
func Layer(r io.ReaderAt, limits Limits) (*inventory.Layer, error) {
	img, err := erofs.Open(r)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	c := &cataloguer{img: img, raw: r, limits: limits}
	if err := c.folder(".", 0); err != nil {
		c.remark("", inventory.TooMany)
	}
	return &c.out, nil
}

// folder goes through a folder and all below it. Its error is errFull or nil.
func (c *cataloguer) folder(dir string, depth int) error {
	if depth > c.limits.Depth {
		c.remark(dir, inventory.TooMany)
		return nil
	}
	f, err := c.img.Open(dir)
	if err != nil {
		c.remark(dir, inventory.Unreadable)
		return nil
	}
	defer f.Close()
	if dir != "." {
		if info, err := f.Stat(); err == nil && opaque(info) {
			if err := c.note(&c.out.Opaque, dir); err != nil {
				return err
			}
		}
	}
	list, ok := f.(fs.ReadDirFile)
	if !ok {
		c.remark(dir, inventory.Unreadable)
		return nil
	}
	for {
		entries, err := list.ReadDir(1024)
		for _, e := range entries {
			if c.entries++; c.entries > c.limits.Entries {
				return errFull
			}
			if err := c.entry(path.Join(dir, e.Name()), e, depth); err != nil {
				return err
			}
		}
		if err == nil && len(entries) > 0 {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			c.remark(dir, inventory.Unreadable)
		}
		return nil
	}
}

func (c *cataloguer) entry(name string, e fs.DirEntry, depth int) error {
	if base := e.Name(); base == "" || base == "." || base == ".." || strings.ContainsRune(base, '/') {
		c.remark("", inventory.BadName)
		return nil
	}
	switch t := e.Type(); {
	case t.IsDir():
		return c.folder(name, depth+1)
	case t&fs.ModeCharDevice != 0: // the form in which overlayfs has "this is gone"
		return c.note(&c.out.Gone, name)
	case t.IsRegular():
		return c.file(name, e)
	}
	return nil
}

// opaque reports overlayfs's mark on a folder whose lower content is gone.
func opaque(info fs.FileInfo) bool {
	x, ok := info.(interface{ GetXattr(string) (string, bool) })
	if !ok {
		return false
	}
	v, _ := x.GetXattr("trusted.overlay.opaque")
	return v == "y"
}

// file looks at a regular file if its name says that it tells of packages, or if it may be a program.
func (c *cataloguer) file(name string, e fs.DirEntry) error {
	read := func(limit int64, parse func(io.Reader) ([]inventory.Component, error)) error {
		return c.parsed(name, limit, parse)
	}
	base := path.Base(name)
	switch {
	case name == "var/lib/dpkg/status":
		return read(c.limits.File, func(r io.Reader) ([]inventory.Component, error) { return dpkg(r, true) })
	case path.Dir(name) == "var/lib/dpkg/status.d" && !strings.HasSuffix(base, ".md5sums"):
		return read(c.limits.Package, func(r io.Reader) ([]inventory.Component, error) { return dpkg(r, false) })
	case base == "package.json" && installedNPM(path.Dir(name)):
		return read(c.limits.Package, npm)
	case isPython(name):
		return read(c.limits.Package, python)
	case name == "usr/lib/os-release" || name == "etc/os-release":
		return c.system(name)
	case mayBeProgram(name):
		return c.program(name, e)
	}
	return nil
}

// parsed reads a file of a known kind. Whatever comes of it, the find stands for the file, in place of a lower layer's.
func (c *cataloguer) parsed(name string, limit int64, parse func(io.Reader) ([]inventory.Component, error)) error {
	f, err := c.img.Open(name)
	if err != nil {
		c.remark(name, inventory.Unreadable)
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		c.remark(name, inventory.Unreadable)
		return nil
	}
	if info.Size() > limit {
		c.remark(name, inventory.TooLarge)
		return c.find(name, nil)
	}
	found, err := parse(io.LimitReader(f, limit))
	if err != nil {
		c.remark(name, inventory.Unreadable)
	}
	return c.find(name, found)
}

// find writes down what a file tells of. Components that no ecosystem would name so are left out, with a remark.
func (c *cataloguer) find(name string, found []inventory.Component) error {
	p := inventory.Path(name)
	if p == "" {
		c.remark("", inventory.BadName)
		return nil
	}
	f := inventory.Find{Path: p}
	if !c.room(len(p)) {
		return errFull
	}
	var full error
	bad := false
	for _, k := range found {
		if !k.Good() {
			bad = true
			continue
		}
		if c.components == inventory.MaxComponents || !c.room(k.Size()) {
			full = errFull
			break
		}
		c.components++
		f.Components = append(f.Components, k)
	}
	if bad {
		c.remark(name, inventory.BadName)
	}
	c.out.Finds = append(c.out.Finds, f)
	return full
}

// note writes down a path.
func (c *cataloguer) note(list *[]string, name string) error {
	p := inventory.Path(name)
	if p == "" {
		c.remark("", inventory.BadName)
		return nil
	}
	if !c.room(len(p)) {
		return errFull
	}
	*list = append(*list, p)
	return nil
}

// room takes n bytes of what may be said. A share is kept back for the remarks.
func (c *cataloguer) room(n int) bool {
	c.text += n
	return c.text <= c.limits.Texts-inventory.MaxRemarks*inventory.MaxPath
}

// remark says what could not be looked into. When there is no room for more, the last one stands for the rest.
func (c *cataloguer) remark(name string, why inventory.Why) {
	switch n := len(c.out.Remarks); {
	case n == inventory.MaxRemarks:
		return
	case n == inventory.MaxRemarks-1:
		c.out.Remarks = append(c.out.Remarks, inventory.Remark{Why: inventory.TooMany})
		return
	}
	if name == "." {
		name = ""
	}
	c.out.Remarks = append(c.out.Remarks, inventory.Remark{Path: inventory.Path(name), Why: why})
}
