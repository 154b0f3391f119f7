package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// entry is a file of a tar file made by hand.
type entry struct {
	name, body, link string
	typ              byte
}

func tarOf(t testing.TB, entries ...entry) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.typ == 0 {
			e.typ = tar.TypeReg
		}
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: 0o644, Size: int64(len(e.body))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	w.Close()
	return b.String()
}

func gz(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

// image is an archive of one image that a test may spoil.
type image struct {
	layers []string // plain
	packed []string // as stored; nil to pack layers
	config ocispecs.Image
	index  []ocispecs.Descriptor // nil for the image alone
	more   []entry
}

func (i image) archive(t testing.TB) string {
	t.Helper()
	var entries []entry
	blob := func(s, mediaType string) ocispecs.Descriptor {
		d := digest.FromString(s)
		entries = append(entries, entry{name: "blobs/sha256/" + d.Encoded(), body: s})
		return ocispecs.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(s))}
	}
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	m := ocispecs.Manifest{MediaType: ocispecs.MediaTypeImageManifest}
	m.SchemaVersion = 2
	if i.config.OS == "" {
		i.config.Platform = platform
	}
	for n, l := range i.layers {
		stored := gz(l)
		if i.packed != nil {
			stored = i.packed[n]
		}
		i.config.RootFS.DiffIDs = append(i.config.RootFS.DiffIDs, digest.FromString(l))
		m.Layers = append(m.Layers, blob(stored, ocispecs.MediaTypeImageLayerGzip))
	}
	m.Config = blob(text(i.config), ocispecs.MediaTypeImageConfig)
	index := ocispecs.Index{Manifests: i.index}
	if d := blob(text(m), ocispecs.MediaTypeImageManifest); i.index == nil {
		index.Manifests = []ocispecs.Descriptor{d}
	}
	entries = append(entries, entry{name: "index.json", body: text(index)}, entry{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`})
	return tarOf(t, append(entries, i.more...)...)
}

func importOf(t testing.TB, archive string) (*bulwark.BuildResult, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(file, []byte(archive), 0o644); err != nil {
		t.Fatal(err)
	}
	return importImage(context.Background(), &job{bulwark.BuildSetup{Output: filepath.Join(dir, "out")}, bulwark.BuildJob{Import: file}}, newEvents(io.Discard, newRedactor(nil)))
}

func goodImage(t testing.TB) image {
	i := image{layers: []string{tarOf(t, entry{name: "bin/app", body: "app"}, entry{name: "bin/link", typ: tar.TypeSymlink, link: "../../etc/passwd"})}}
	i.config.Config = ocispecs.ImageConfig{User: "1234:1234", Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, ExposedPorts: map[string]struct{}{"9000/tcp": {}}}
	return i
}

func TestImport(t *testing.T) {
	r, err := importOf(t, goodImage(t).archive(t))
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Plan; strings.Join(p.Processes["web"].Argv, " ") != "/bin/app serve" || p.Port != 9000 || p.Planner != "import" {
		t.Errorf("plan %+v", p)
	}
}

func TestImportRefuses(t *testing.T) {
	zeros := strings.Repeat("\x00", 1<<20)
	for name, c := range map[string]struct {
		spoil func(*image)
		want  string
	}{
		"a path out":        {func(i *image) { i.more = []entry{{name: "../../etc/cron.d/x", body: "x"}} }, "no part of an OCI image layout"},
		"an absolute path":  {func(i *image) { i.more = []entry{{name: "/etc/x", body: "x"}} }, "no part of an OCI image layout"},
		"a link":            {func(i *image) { i.more = []entry{{name: "blobs/sha256/x", typ: tar.TypeSymlink, link: "/etc/passwd"}} }, "is not a file"},
		"a hard link":       {func(i *image) { i.more = []entry{{name: "oci-layout", typ: tar.TypeLink, link: "/etc/passwd"}} }, "is not a file"},
		"a device":          {func(i *image) { i.more = []entry{{name: "oci-layout", typ: tar.TypeBlock}} }, "is not a file"},
		"a blob's name":     {func(i *image) { i.more = []entry{{name: "blobs/sha256/../../x", body: "x"}} }, "is not the name of a blob"},
		"a blob's content":  {func(i *image) { i.more = []entry{{name: "blobs/sha256/" + strings.Repeat("a", 64), body: "x"}} }, "is not what its name says"},
		"a path in a layer": {func(i *image) { i.layers = []string{tarOf(t, entry{name: "a/../../x", body: "x"})} }, `a layer holds the path "a/../../x"`},
		"a hard link in a layer": {func(i *image) {
			i.layers = []string{tarOf(t, entry{name: "x", typ: tar.TypeLink, link: "../../etc/passwd"})}
		}, "a layer holds the path"},
		"a device in a layer": {func(i *image) { i.layers = []string{tarOf(t, entry{name: "dev/sda", typ: tar.TypeBlock})} }, "the device or pipe"},
		"another layer":       {func(i *image) { i.packed = []string{gz(tarOf(t, entry{name: "other"}))} }, "not the one that the configuration names"},
		"no layer":            {func(i *image) { i.layers = nil }, "it has 0 layers"},
		"no tar":              {func(i *image) { i.layers = []string{"no tar at all" + zeros} }, "not a tar file that is whole"},
		"no gzip":             {func(i *image) { i.packed = []string{"\x1f\x8bnot gzip"} }, "layer 1"},
		"another platform":    {func(i *image) { i.config.OS, i.config.Architecture = "linux", "arm64" }, "linux/arm64"},
		"nothing to run":      {func(i *image) { i.config.Config.Entrypoint, i.config.Config.Cmd = nil, nil }, "does not say what it runs"},
		"several images":      {func(i *image) { i.index = make([]ocispecs.Descriptor, 2) }, "2 images"},
		"a digest that is a path": {func(i *image) {
			i.index = []ocispecs.Descriptor{{Digest: "sha256:../../../etc/passwd", MediaType: ocispecs.MediaTypeImageManifest}}
		}, "not well formed"},
		"a blob that is not there": {func(i *image) {
			i.index = []ocispecs.Descriptor{{Digest: digest.FromString("nope"), MediaType: ocispecs.MediaTypeImageManifest}}
		}, "is missing"},
		"something else": {func(i *image) {
			i.index = []ocispecs.Descriptor{{Digest: digest.FromString("x"), MediaType: "text/plain"}}
		}, "not an image"},
	} {
		t.Run(name, func(t *testing.T) {
			i := goodImage(t)
			c.spoil(&i)
			_, err := importOf(t, i.archive(t))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if kind := bulwark.KindOf(err); kind != bulwark.KindInvalid {
				t.Errorf("kind %s of %v", kind, err)
			}
		})
	}
	for _, junk := range []string{"", "junk", zeros, gz(goodImage(t).archive(t))} {
		if _, err := importOf(t, junk); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("junk of %d bytes: %v", len(junk), err)
		}
	}
}

// TestImportBomb imports a small archive that unpacks to more than is allowed.
func TestImportBomb(t *testing.T) {
	bomb := gz(tarOf(t, entry{name: "zeros", body: strings.Repeat("\x00", 64<<20)}))
	for name, l := range map[string]limits{
		"layers":  {entries: 100, archive: 1 << 30, files: 32 << 20, layers: 10},
		"archive": {entries: 100, archive: 100, files: 1 << 30, layers: 10},
		"entries": {entries: 1, archive: 1 << 30, files: 1 << 30, layers: 10},
	} {
		i := goodImage(t)
		i.layers, i.packed = []string{"does not matter"}, []string{bomb}
		im := &importer{limits: l}
		var err error
		if im.store, err = newStore(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		if err = im.archive(t.Context(), strings.NewReader(i.archive(t))); err == nil {
			_, m, cerr := im.choose(t.Context(), im.index.Manifests, 0)
			if cerr != nil {
				t.Fatal(cerr)
			}
			err = im.check(t.Context(), m)
		}
		if bulwark.KindOf(err) != bulwark.KindTooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImportReplacesRoot(t *testing.T) {
	for user, stays := range map[string]bool{"": false, "root": false, "0": false, "0:0": false, "app": false, "1000": true, "1000:0": false, "65534": false, "4294967295": false, "-1": false, "7:7": true} {
		i := goodImage(t)
		i.config.Config.User = user
		r, err := importOf(t, i.archive(t))
		if err != nil {
			t.Fatal(err)
		}
		i2 := goodImage(t)
		i2.config.Config.User = user
		if same := strings.Contains(i2.archive(t), r.Image.Hex()); same != stays {
			t.Errorf("user %q: the image stays: %v, want %v", user, same, stays)
		}
	}
}
