package catalog

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"path"
	"regexp"
	"runtime/debug"
	"strings"

	erofs "github.com/erofs/go-erofs"

	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// textual are the ends of names that no program of Go has: looking at each file's first bytes is what takes the time.
var textual = map[string]bool{".js": true, ".mjs": true, ".cjs": true, ".ts": true, ".mts": true, ".cts": true, ".map": true, ".json": true, ".md": true,
	".txt": true, ".py": true, ".pyc": true, ".pyi": true, ".h": true, ".c": true, ".html": true, ".css": true, ".svg": true, ".png": true, ".go": true,
	".gz": true, ".yml": true, ".yaml": true, ".rst": true, ".conf": true, ".list": true, ".md5sums": true}

func mayBeProgram(name string) bool {
	return !textual[path.Ext(name)] && !strings.HasPrefix(name, "usr/share/") && !strings.HasPrefix(name, "var/lib/dpkg/")
}

// program looks into an ELF file. One that has nothing to do with Go is no find.
func (c *cataloguer) program(name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		c.remark(name, inventory.Unreadable)
		return nil
	}
	ranged, ok := info.(interface{ DataRange() []erofs.DataRange })
	if !ok || info.Size() < 64 {
		return nil
	}
	r := &ranges{of: c.raw, size: info.Size(), parts: ranged.DataRange(), left: c.limits.Program}
	magic := make([]byte, 4)
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != elf.ELFMAG {
		return nil
	}
	if path.Base(name) == "node" {
		if v := nodeVersion(io.NewSectionReader(r, 0, info.Size())); v != "" {
			return c.find(name, []inventory.Component{{Kind: inventory.NodeJS, Name: "node", Version: v}})
		}
		r.left = c.limits.Program
	}
	found, goProgram := goModules(r)
	if r.left < 0 {
		c.remark(name, inventory.TooLarge)
	} else if goProgram && found == nil {
		c.remark(name, inventory.Unreadable)
	}
	if found == nil {
		return nil
	}
	return c.find(name, found)
}

// goModules returns the modules that a program was linked from, the standard library among them, and whether it is one
// of Go's at all. What it says is the word of whoever linked it.
func goModules(r io.ReaderAt) (out []inventory.Component, goProgram bool) {
	info, err := buildinfo.Read(r)
	if err != nil {
		return nil, hasBuildInfo(r)
	}
	add := func(name, version string) {
		if version == "(devel)" {
			version = ""
		}
		out = append(out, inventory.Component{Kind: inventory.Go, Name: name, Version: version})
	}
	if v, ok := strings.CutPrefix(strings.SplitN(info.GoVersion, " ", 2)[0], "go"); ok {
		add("stdlib", v)
	}
	if info.Main.Path != "" {
		add(info.Main.Path, info.Main.Version)
	}
	for _, m := range info.Deps {
		if len(out) > inventory.MaxComponents {
			break // find says that it is too much
		}
		add(used(m))
	}
	return out, true
}

// used is the module that was linked: the one that another was replaced by, unless that is a folder.
func used(m *debug.Module) (name, version string) {
	if m.Replace != nil && m.Replace.Version != "" {
		return m.Replace.Path, m.Replace.Version
	}
	return m.Path, m.Version
}

// hasBuildInfo reports whether a program that cannot be read says all the same that Go's linker made it.
func hasBuildInfo(r io.ReaderAt) bool {
	f, err := elf.NewFile(r)
	return err == nil && f.Section(".go.buildinfo") != nil
}

// nodeText is how the Node.js runtime names itself in its own program.
var nodeText = regexp.MustCompile(`node\.js/v([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})`)

// nodeVersion finds it.
func nodeVersion(r io.Reader) string {
	const overlap = 64
	buf := make([]byte, 0, 1<<20)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if i := bytes.Index(buf, []byte("node.js/v")); i >= 0 {
			if m := nodeText.FindSubmatch(buf[i:min(len(buf), i+overlap)]); m != nil && len(buf) > i+len(m[0]) {
				return string(m[1])
			}
		}
		if err != nil || len(buf) < overlap {
			return ""
		}
		buf = buf[:copy(buf, buf[len(buf)-overlap:])]
	}
}

// ranges reads a file of an EROFS image where it lies, at most so many bytes in all: what reads it believes what the file
// says of its own sizes.
type ranges struct {
	of    io.ReaderAt
	size  int64
	parts []erofs.DataRange
	left  int64
}

var errSpent = errors.New("catalog: the program is too large to be looked through")

// ReadAt implements [io.ReaderAt].
func (r *ranges) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	if r.left -= int64(len(p)); r.left < 0 {
		return 0, errSpent
	}
	want := p[:min(int64(len(p)), r.size-off)]
	at := int64(0)
	for _, part := range r.parts {
		if part.Size < 0 || part.Device != 0 {
			return n, fs.ErrInvalid
		}
		if skip := off + int64(n) - at; skip < part.Size && n < len(want) {
			chunk := want[n : n+int(min(int64(len(want)-n), part.Size-skip))]
			if part.Offset < 0 {
				clear(chunk)
			} else if _, err := r.of.ReadAt(chunk, part.Offset+skip); err != nil {
				return n, err
			}
			n += len(chunk)
		}
		at += part.Size
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
