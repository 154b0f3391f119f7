package base

import (
	"archive/tar"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// file, dir, link and hard make members of a synthetic archive.
func file(name, content string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}
func dir(name string) member {
	return member{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, ""}
}
func link(name, to string) member {
	return member{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, ""}
}
func hard(name, to string) member {
	return member{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}, ""}
}

type member struct {
	hdr     tar.Header
	content string
}

// archive writes members to a tar file, as mmdebstrap does with "./" before the names, and reads it as a tree.
func archive(t *testing.T, members ...member) tree {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	w := tar.NewWriter(f)
	for _, m := range members {
		h := m.hdr
		h.Name, h.Size, h.ModTime = "./"+h.Name, int64(len(m.content)), time.Unix(epoch-1000, 0)
		if h.Typeflag == tar.TypeLink {
			h.Linkname = "./" + h.Linkname
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	tr, err := readTree(f)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// apply puts a layer over a tree as the OCI image-spec says.
func apply(ground, layer tree) tree {
	out := ground.clone()
	for name := range layer {
		if base, ok := strings.CutPrefix(path.Base(name), whiteout); ok {
			gone := path.Join(path.Dir(name), base)
			maps.DeleteFunc(out, func(n string, _ *entry) bool { return n == gone || strings.HasPrefix(n, gone+"/") })
		}
	}
	for name, e := range layer {
		if strings.HasPrefix(path.Base(name), whiteout) {
			continue
		}
		if e.hdr.Typeflag != tar.TypeDir { // a file in place of a directory removes what was below
			maps.DeleteFunc(out, func(n string, _ *entry) bool { return strings.HasPrefix(n, name+"/") })
		}
		out[name] = e
	}
	return out
}

func sameTree(t *testing.T, got, want tree) {
	t.Helper()
	for name := range want {
		if got[name] == nil {
			t.Errorf("%s is missing", name)
		} else if facts(got, got[name]) != facts(want, want[name]) {
			t.Errorf("%s is %s, want %s", name, facts(got, got[name]), facts(want, want[name]))
		}
	}
	for name := range got {
		if want[name] == nil {
			t.Errorf("%s should not be there", name)
		}
	}
}

func names(t tree) []string { return slices.Sorted(maps.Keys(t)) }

func TestDiff(t *testing.T) {
	ground := []member{
		dir("etc"), file("etc/a", "1"), file("etc/same", "x"), dir("lib"), file("lib/one", "one"), hard("lib/two", "lib/one"),
		dir("old"), dir("old/deep"), file("old/deep/f", "f"), dir("turns"), file("turns/into", "file"), link("l", "etc/a"),
	}
	for _, c := range []struct {
		name  string
		full  []member
		layer []string
	}{
		{"the same tree needs nothing", ground, nil},
		{"a changed file comes with its directory", []member{
			dir("etc"), file("etc/a", "2"), file("etc/same", "x"), dir("lib"), file("lib/one", "one"), hard("lib/two", "lib/one"),
			dir("old"), dir("old/deep"), file("old/deep/f", "f"), dir("turns"), file("turns/into", "file"), link("l", "etc/a"),
		}, []string{"etc", "etc/a"}},
		{"a directory that is gone is whited out once", []member{
			dir("etc"), file("etc/a", "1"), file("etc/same", "x"), dir("lib"), file("lib/one", "one"), hard("lib/two", "lib/one"),
			dir("turns"), file("turns/into", "file"), link("l", "etc/a"),
		}, []string{".wh.old"}},
		{"a hard link changes with its target", []member{
			dir("etc"), file("etc/a", "1"), file("etc/same", "x"), dir("lib"), file("lib/one", "new"), hard("lib/two", "lib/one"),
			dir("old"), dir("old/deep"), file("old/deep/f", "f"), dir("turns"), file("turns/into", "file"), link("l", "etc/a"),
		}, []string{"lib", "lib/one", "lib/two"}},
		{"a new hard link brings its old target", append(slices.Clone(ground), hard("lib/three", "lib/one")),
			[]string{"lib", "lib/one", "lib/three"}},
		{"a directory turns into a file", []member{
			dir("etc"), file("etc/a", "1"), file("etc/same", "x"), dir("lib"), file("lib/one", "one"), hard("lib/two", "lib/one"),
			dir("old"), dir("old/deep"), file("old/deep/f", "f"), file("turns", "no directory"), link("l", "etc/same"),
		}, []string{"l", "turns"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, full := archive(t, ground...), archive(t, c.full...)
			layer := diff(g, full)
			if got := names(layer); !slices.Equal(got, c.layer) {
				t.Errorf("the layer holds %q, want %q", got, c.layer)
			}
			sameTree(t, apply(g, layer), full)
		})
	}
}

func TestLayerIsDeterministicAndReadsBack(t *testing.T) {
	members := []member{dir("a"), hard("a/0", "a/1"), file("a/1", "content"), link("a/2", "1"), dir("a-b"), file("a-b/c", "")}
	var digests []string
	for i := range 2 {
		tr := archive(t, members...)
		if i == 1 { // the time of making and the order of the archive must not show
			slices.Reverse(members)
			tr = archive(t, members...)
			for _, e := range tr {
				e.hdr.ModTime, e.hdr.Uname, e.hdr.AccessTime = time.Unix(epoch-1000, 500), "root", time.Now()
			}
		}
		l, err := writeLayer(tr, filepath.Join(t.TempDir(), "layer"))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, l.digest.Hex+l.diffID.Hex)
	}
	if digests[0] != digests[1] {
		t.Errorf("the same files gave different layers: %q", digests)
	}
	tr := archive(t, members...)
	f, err := os.Create(filepath.Join(t.TempDir(), "out.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := writeTar(tr, f); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	back, err := readTree(f)
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, back, tr)
	if b, err := back.bytes("a/1"); err != nil || string(b) != "content" {
		t.Errorf("read back %q, %v", b, err)
	}
}

func TestReadTreeRefusesNamesOutside(t *testing.T) {
	for _, name := range []string{"../x", "a/../../x", "/../x"} {
		if got, err := cleanName(name); err == nil {
			t.Errorf("%q was taken as %q", name, got)
		}
	}
}
