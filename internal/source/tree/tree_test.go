package tree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
)

// made makes a folder. A text that begins with "-> " makes a symbolic link, one that begins with "#!" a program.
func made(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for p, text := range files {
		at := filepath.Join(dir, p)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		target, link := strings.CutPrefix(text, "-> ")
		switch {
		case err != nil:
		case link:
			err = os.Symlink(target, at)
		case strings.HasPrefix(text, "#!"):
			if err = os.WriteFile(at, []byte(text), 0o600); err == nil {
				err = os.Chmod(at, 0o755|fs.ModeSetuid)
			}
		default:
			err = os.WriteFile(at, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func measured(t testing.TB, dir string) *tree.Tree {
	t.Helper()
	paths, err := tree.List(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := tree.Measure(dir, paths, tree.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

var sample = map[string]string{
	"main.go": "package main\n", "run": "#!/bin/x\n", "a/b/c/deep.txt": "deep", "a/up": "-> ../main.go", "a/b/side": "-> c/deep.txt",
	"empty": "", "ünï ☃\n": "odd name", "top": "-> a/..hidden", strings.Repeat("long/", 30) + "er": "needs a PAX header",
}

func TestThereAndBack(t *testing.T) {
	m := measured(t, made(t, sample))
	var stream, again bytes.Buffer
	if err := m.Write(&stream); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Size(); err != nil || n != int64(stream.Len()) {
		t.Errorf("Size says %d, %v; Write wrote %d", n, err, stream.Len())
	}
	if err := m.Write(&again); err != nil || !bytes.Equal(stream.Bytes(), again.Bytes()) {
		t.Errorf("the stream is not the same twice: %v", err)
	}
	if d, err := tree.Check(bytes.NewReader(stream.Bytes()), tree.DefaultLimits); err != nil || d != m.Digest {
		t.Errorf("Check: %s, %v; want %s", d, err, m.Digest)
	}
	out := t.TempDir()
	if err := tree.Unpack(bytes.NewReader(stream.Bytes()), out, tree.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	if d, err := tree.Digest(out, tree.DefaultLimits); err != nil || d != m.Digest {
		t.Errorf("Digest: %s, %v; want %s", d, err, m.Digest)
	}
	if info, err := os.Stat(filepath.Join(out, "run")); err != nil || info.Mode() != 0o755 {
		t.Errorf("run has the mode %v, %v: set-user-id must be gone", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(out, "main.go")); err != nil || info.Mode() != 0o644 {
		t.Errorf("main.go has the mode %v, %v", info.Mode(), err)
	}
}

// TestEachChangeShows changes one thing of a tree after the other; no two may have the same digest.
func TestEachChangeShows(t *testing.T) {
	seen := map[string]string{}
	for name, files := range map[string]map[string]string{
		"plain": {"a": "x", "b": "y"}, "content": {"a": "x", "b": "z"}, "swapped": {"a": "y", "b": "x"}, "name": {"a": "x", "c": "y"},
		"folder": {"a": "x", "d/b": "y"}, "program": {"a": "x", "b": "#!y"}, "no program": {"a": "x", "b": " #!y"},
		"link": {"a": "x", "b": "-> a"}, "text of a link": {"a": "x", "b": "a"}, "less": {"a": "x"}, "one name": {"a x": "x"},
	} {
		d := string(measured(t, made(t, files)).Digest)
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		seen[d] = name
	}
}

func TestChangedWhileSending(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"content": func(f string) error { return os.WriteFile(f, []byte("deeq"), 0o600) },
		"shorter": func(f string) error { return os.Truncate(f, 1) },
		"gone":    os.Remove,
		"a pipe":  func(f string) error { return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o600)) },
		"a link":  func(f string) error { return errors.Join(os.Remove(f), os.Symlink("/etc/passwd", f)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := made(t, sample)
			m := measured(t, dir)
			if err := spoil(filepath.Join(dir, "a/b/c/deep.txt")); err != nil {
				t.Fatal(err)
			}
			if err := m.Write(io.Discard); bulwark.KindOf(err) == bulwark.KindInternal {
				t.Errorf("Write: %v", err)
			}
		})
	}
}

// TestNotAFile: what is no file cannot be deployed, and no reading hangs on it.
func TestNotAFile(t *testing.T) {
	dir := made(t, sample)
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	paths, err := tree.List(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Measure(dir, paths, tree.DefaultLimits); bulwark.KindOf(err) != bulwark.KindInvalid || !strings.Contains(err.Error(), "pipe") {
		t.Errorf("Measure: %v", err)
	}
	if paths, err := tree.List(dir, func(p string, folder bool) bool { return p == "a" && folder }); err != nil || slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, "a/") }) {
		t.Errorf("List: %v, %v", paths, err)
	}
	if _, err := tree.Measure(dir, nil, tree.DefaultLimits); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Errorf("an empty tree: %v", err)
	}
}

// part is one entry of a hostile archive.
type part struct {
	h    tar.Header
	text string
}

func archived(t testing.TB, parts ...part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range parts {
		p.h.Size = int64(len(p.text))
		if err := w.WriteHeader(&p.h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, p.text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, text string) part {
	return part{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, text}
}

func link(name, target string) part {
	return part{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
}

func other(name string, kind byte) part {
	return part{tar.Header{Name: name, Typeflag: kind, Linkname: "a", Mode: 0o755}, ""}
}

// hostile are archives that are refused, by what they try.
func hostile(t testing.TB) map[string][]byte {
	many := make([]part, 60)
	for i := range many {
		many[i] = file(fmt.Sprint("f", i), "")
	}
	return map[string][]byte{
		"absolute":                archived(t, file("/etc/x", "x")),
		"dot dot":                 archived(t, file("../x", "x")),
		"dot dot inside":          archived(t, file("a/../../x", "x")),
		"dot":                     archived(t, file("./x", "x")),
		"double slash":            archived(t, file("a//x", "x")),
		"a name that is no UTF-8": archived(t, part{tar.Header{Name: "a\xff", Typeflag: tar.TypeReg, Format: tar.FormatGNU}, "x"}),
		"a name that is too long": archived(t, file(strings.Repeat("a", 256), "x")),
		"too deep":                archived(t, file(strings.Repeat("a/", 101)+"x", "x")),
		"absolute link":           archived(t, link("l", "/etc/passwd")),
		"link out":                archived(t, link("l", "..")),
		"link out from below":     archived(t, link("a/l", "../../x")),
		"link over a link":        archived(t, file("a/x", ""), link("a/up", ".."), link("l", "a/up/../x")),
		"write through a link":    archived(t, link("l", "a"), file("l/x", "x")),
		"write through a file":    archived(t, file("l", "a"), file("l/x", "x")),
		"a folder that is a file": archived(t, file("l/x", "x"), file("l", "a")),
		"a folder that is a link": archived(t, file("l/x", "x"), link("l", "a")),
		"a file twice":            archived(t, file("x", "1"), file("x", "2")),
		"a link twice":            archived(t, link("x", "1"), link("x", "2")),
		"hard link":               archived(t, file("a", "x"), other("x", tar.TypeLink)),
		"character device":        archived(t, other("x", tar.TypeChar)),
		"block device":            archived(t, other("x", tar.TypeBlock)),
		"pipe":                    archived(t, other("x", tar.TypeFifo)),
		"empty folder":            archived(t, other("x/", tar.TypeDir)),
		"a kind nobody knows":     archived(t, other("x", 'Z')),
		"too many files":          archived(t, many...),
		"too many folders":        archived(t, file(strings.Repeat("a/", 60)+"x", "x")),
		"too large":               archived(t, file("x", strings.Repeat("x", 4000))),
		"too large together":      archived(t, file("x", strings.Repeat("x", 1500)), file("y", strings.Repeat("x", 1500))),
		"long names":              archived(t, file("a/"+strings.Repeat("x", 200), ""), link("l", strings.Repeat("y/", 150)), file("a/"+strings.Repeat("y", 200), "")),
		"nothing":                 archived(t),
		"no tar":                  []byte("hello"),
		"cut off":                 archived(t, file("x", strings.Repeat("x", 1500)))[:1000],
		"sparse":                  bomb(t),
	}
}

// bomb is an archive whose one file is mostly holes, as GNU tar writes it.
func bomb(t testing.TB) []byte {
	// archive/tar writes no sparse files, so it is given names of the same length and these are replaced.
	h := tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{
		"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.name": "x", "XXX.sparse.realsize": "900"}}
	b := archived(t, part{h, "1\n0\n0\n" + strings.Repeat("\x00", 506)})
	return bytes.ReplaceAll(b, []byte("XXX.sparse."), []byte("GNU.sparse."))
}

var tight = tree.Limits{Entries: 50, Bytes: 2000, Names: 500}

func TestHostile(t *testing.T) {
	for name, b := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			limits := tight
			if strings.HasPrefix(name, "a name that is too long") || name == "too deep" {
				limits = tree.DefaultLimits
			}
			_, checked := tree.Check(bytes.NewReader(b), limits)
			if k := bulwark.KindOf(checked); checked == nil || k != bulwark.KindInvalid && k != bulwark.KindTooLarge {
				t.Errorf("Check: %v", checked)
			}
			t.Log(checked)
			out := t.TempDir()
			in := filepath.Join(out, "in")
			if err := os.Mkdir(in, 0o755); err != nil {
				t.Fatal(err)
			}
			err := tree.Unpack(bytes.NewReader(b), in, limits)
			if err == nil || checked != nil && err.Error() != checked.Error() {
				t.Errorf("Unpack: %v; Check: %v", err, checked)
			}
			if all, err := os.ReadDir(out); err != nil || len(all) != 1 {
				t.Errorf("beside the folder: %v, %v", all, err)
			}
		})
	}
}

// TestLinkInTheWay: a folder that is not empty, with a link that leads out, is not written through.
func TestLinkInTheWay(t *testing.T) {
	out, victim := t.TempDir(), t.TempDir()
	if err := os.Symlink(victim, filepath.Join(out, "a")); err != nil {
		t.Fatal(err)
	}
	if err := tree.Unpack(bytes.NewReader(archived(t, file("a/x", "x"))), out, tree.DefaultLimits); err == nil {
		t.Error("Unpack wrote through a link that was there")
	}
	if all, _ := os.ReadDir(victim); len(all) != 0 {
		t.Errorf("written outside: %v", all)
	}
}

// FuzzUnpack: whatever the stream is, Check and Unpack agree, nothing is made beside the folder, what is in it has the
// digest that was found in the stream, and no link leads out.
func FuzzUnpack(f *testing.F) {
	for _, b := range hostile(f) {
		f.Add(b)
	}
	f.Add(archived(f, file("a/x", "x"), link("a/l", "../b"), file("b", "#!")))
	var b bytes.Buffer
	if err := measured(f, made(f, sample)).Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(out)
		in := filepath.Join(out, "in")
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		want, checked := tree.Check(bytes.NewReader(b), tight)
		unpacked := tree.Unpack(bytes.NewReader(b), in, tight)
		if (checked == nil) != (unpacked == nil) {
			t.Fatalf("Check: %v; Unpack: %v", checked, unpacked)
		}
		if all, err := os.ReadDir(out); err != nil || len(all) != 1 {
			t.Fatalf("beside the folder: %v, %v", all, err)
		}
		if checked == nil {
			if got, err := tree.Digest(in, tight); err != nil || got != want {
				t.Fatalf("unpacked %s, %v; the stream has %s", got, err, want)
			}
		}
		inside(t, in)
	})
}

// inside fails if a link below dir leads out of it, or anything has a mode that nothing has.
func inside(t *testing.T, dir string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink == 0 && !d.IsDir() && !d.Type().IsRegular() {
			return fmt.Errorf("%q is a %v", rel, d.Type())
		}
		_, err = root.Stat(rel) // os.Root refuses to follow a link out
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG) {
			return nil
		}
		return fmt.Errorf("%q: %w", rel, err)
	})
	if err != nil {
		t.Fatal(err)
	}
}
