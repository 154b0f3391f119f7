package pack

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	erofs "github.com/erofs/go-erofs"
)

func build(t *testing.T, hs []*tar.Header, bodies map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		h.Size = int64(len(bodies[h.Name]))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(bodies[h.Name])); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes()
}

func TestLayer(t *testing.T) {
	raw := build(t, []*tar.Header{
		{Name: "app/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1000, Gid: 1000},
		{Name: "app/server", Typeflag: tar.TypeReg, Mode: 0o755},
		{Name: "app/again", Typeflag: tar.TypeLink, Linkname: "app/server"},
		{Name: "app/link", Typeflag: tar.TypeSymlink, Linkname: "server"},
		{Name: "../../etc/.wh.motd", Typeflag: tar.TypeReg},
		{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8},
	}, map[string]string{"app/server": "hello"})
	path := filepath.Join(t.TempDir(), "x.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Layer(bytes.NewReader(raw), f, t.TempDir(), DefaultLimits); err != nil {
		t.Fatal(err)
	}
	img, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app/server", "app/again"} {
		b, err := fs.ReadFile(img, name)
		if err != nil || string(b) != "hello" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	st, err := fs.Stat(img, "etc/motd")
	if err != nil || st.Mode()&fs.ModeCharDevice == 0 {
		t.Errorf("the whiteout is %v, %v; want a character device", st, err)
	}
	if _, err := fs.Stat(img, "dev/sda"); err == nil {
		t.Error("a block device was taken into the image")
	}
}

func FuzzLayer(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		_ = Layer(bytes.NewReader(b), out, t.TempDir(), Limits{Entries: 100, Bytes: 1 << 20, Names: 1 << 20, Depth: 10}) // must not panic
	})
}

// A layer meets each of its bounds, also by directories that it does not mention.
func TestLimits(t *testing.T) {
	few := Limits{Entries: 20, Bytes: 1000, Names: 2000, Depth: 12}
	file := func(name string) *tar.Header { return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	for name, c := range map[string]struct {
		headers []*tar.Header
		bodies  map[string]string
		want    string
	}{
		"entries": {slices.Repeat([]*tar.Header{file("a"), {Name: "b", Typeflag: tar.TypeBlock}}, 30), nil, "entr"},
		"parents that are not mentioned": {[]*tar.Header{file("a/b/c/d/e/f/g/h/1"), file("b/b/c/d/e/f/g/h/2"), file("c/b/c/d/e/f/g/h/3")}, nil,
			"more than 20 entries"},
		"depth": {[]*tar.Header{file(strings.Repeat("d/", 13) + "f")}, nil, "a path of 14 folders; at most 12"},
		"names": {[]*tar.Header{file(strings.Repeat("n", 900)), file(strings.Repeat("m", 900)), file(strings.Repeat("o", 900))}, nil, "The paths of the layer"},
		"bytes": {[]*tar.Header{file("a"), file("b")}, map[string]string{"a": strings.Repeat("x", 600), "b": strings.Repeat("y", 600)}, "more than 1000 bytes"},
		"bytes by hard links": {[]*tar.Header{file("a"), {Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}, {Name: "c", Typeflag: tar.TypeLink, Linkname: "a"}},
			map[string]string{"a": strings.Repeat("x", 400)}, "more than 1000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			err = Layer(bytes.NewReader(build(t, c.headers, c.bodies)), out, t.TempDir(), few)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatal(err)
			}
		})
	}
}
