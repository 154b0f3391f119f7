package catalog

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/image/pack"
	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// layer makes the file that an image's layer with these files becomes, as bulwark-pack makes it.
func layer(t testing.TB, files map[string]string) *os.File {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	if err := pack.Layer(&b, out, t.TempDir(), pack.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	return out
}

// look is what is found in a layer with these files, as it comes to the node.
func look(t testing.TB, files map[string]string, limits Limits) *inventory.Layer {
	t.Helper()
	l, err := Layer(layer(t, files), limits)
	if err != nil {
		t.Fatal(err)
	}
	return through(t, l)
}

// through sends an inventory over the pipe: whatever a layer holds, the node takes what is said of it.
func through(t testing.TB, l *inventory.Layer) *inventory.Layer {
	t.Helper()
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	out, err := inventory.Decode(b)
	if err != nil {
		t.Fatalf("the node would refuse %.300s: %v", b, err)
	}
	return out
}

// names are the components in short: "deb libc6 2.36".
func names(l *inventory.Layer) []string {
	var out []string
	for _, f := range l.Finds {
		for _, c := range f.Components {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Kind, c.Name, c.Version)))
		}
	}
	slices.Sort(out)
	return out
}

const status = `Package: libc6
Status: install ok installed
Priority: optional
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u10
Description: GNU C Library: Shared libraries
 Package: hidden
 Version: 1

Package: gone
Status: deinstall ok config-files
Version: 1.0
Architecture: all

Package: last
Status: install ok installed
Version: 1:2.0~rc1-1
Architecture: all
`

// Packages of every kind are found, and nothing else is.
func TestLayer(t *testing.T) {
	l := look(t, map[string]string{
		"var/lib/dpkg/status":                      status,
		"var/lib/dpkg/status.d/tzdata":             "Package: tzdata\nVersion: 2025b\nArchitecture: all\n",
		"var/lib/dpkg/status.d/tzdata.md5sums":     "Package: no\nVersion: 1\n",
		"usr/lib/os-release":                       "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
		"app/node_modules/ms/package.json":         `{"name":"ms","version":"2.1.3","scripts":{"install":"rm -rf /"}}`,
		"app/node_modules/@a/b/package.json":       `{"name":"@a/b","version":"1.0.0-rc.1+x"}`,
		"app/node_modules/ms/dist/package.json":    `{"name":"part","version":"9"}`,
		"app/node_modules/esm/package.json":        `{"type":"module"}`,
		"app/package.json":                         `{"name":"the-app","version":"1.0.0"}`,
		"app/v/flask-3.0.dist-info/METADATA":       "Metadata-Version: 2.1\nName: Flask\nVersion: 3.0\n\nName: no\n",
		"app/v/old.egg-info/PKG-INFO":              "Name: old\r\nVersion: 0.1\r\n",
		"usr/lib/python3/dist-packages/x.egg-info": "Name: x\nVersion: 2\n",
		"usr/local/bin/node":                       "\x7fELF" + strings.Repeat("\x00", 2<<20) + "https://nodejs.org/download/release/node.js/v22.1.0/x" + strings.Repeat("\x00", 100),
		"usr/bin/.wh.removed":                      "",
		"srv/.wh..wh..opq":                         "",
	}, DefaultLimits)
	want := []string{"deb last 1:2.0~rc1-1", "deb libc6 2.36-9+deb12u10", "deb tzdata 2025b", "node node 22.1.0", "npm @a/b 1.0.0-rc.1+x", "npm ms 2.1.3",
		"pypi Flask 3.0", "pypi old 0.1", "pypi x 2"}
	if got := names(l); !slices.Equal(got, want) {
		t.Errorf("found %q,\nwant  %q", got, want)
	}
	if l.OS == nil || *l.OS != (inventory.OS{ID: "debian", Version: "12"}) || len(l.Remarks) > 0 {
		t.Errorf("%+v %+v", l.OS, l.Remarks)
	}
	if !slices.Equal(l.Gone, []string{"usr/bin/removed"}) || !slices.Equal(l.Opaque, []string{"srv"}) {
		t.Errorf("gone %q, opaque %q", l.Gone, l.Opaque)
	}
	i := slices.IndexFunc(l.Finds, func(f inventory.Find) bool { return f.Path == "var/lib/dpkg/status" })
	if i < 0 || l.Finds[i].Components[0].Source != "glibc" || l.Finds[i].Components[0].Arch != "amd64" {
		t.Errorf("%+v", l.Finds)
	}
}

// A program of Go's tells of its modules, the standard library among them.
func TestGoProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "x")
	compiler, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command(compiler, "build", "-trimpath", "-ldflags=-s -w", "-buildvcs=false", "-o", program, "github.com/bulwark-paas/bulwark/cmd/bulwark-pack")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	l := look(t, map[string]string{"app/bin/shop": string(b)}, DefaultLimits)
	info, err := buildinfo.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(runtime.Version(), "go"), " ")
	want := []string{"golang stdlib " + version, "golang github.com/bulwark-paas/bulwark"}
	for _, m := range info.Deps {
		want = append(want, "golang "+m.Path+" "+m.Version)
	}
	slices.Sort(want)
	if got := names(l); !slices.Equal(got, want) || len(want) < 4 || len(l.Remarks) > 0 {
		t.Fatalf("%q,\nwant %q; %+v", got, want, l.Remarks)
	}
	// What cannot be read of a program that is one of Go's is said.
	small := DefaultLimits
	small.Program = 64
	if l := look(t, map[string]string{"app/bin/shop": string(b)}, small); len(names(l)) > 0 || len(l.Remarks) != 1 || l.Remarks[0].Why != inventory.TooLarge {
		t.Errorf("%+v", l)
	}
	at := bytes.Index(b, []byte("\xff Go buildinf:"))
	if at < 0 {
		t.Fatal("there is no mark of the linker's")
	}
	b[at] = 0
	if l := look(t, map[string]string{"app/bin/shop": string(b)}, DefaultLimits); len(names(l)) > 0 || len(l.Remarks) != 1 || l.Remarks[0].Why != inventory.Unreadable {
		t.Errorf("%+v", l)
	}
}

// What a hostile image holds is passed over or bounded, and said so; whatever it is, the node can take the answer.
func TestHostile(t *testing.T) {
	limits := DefaultLimits // smaller ones, so that it takes less to reach them
	limits.File, limits.Texts = 2<<20, inventory.MaxRemarks*inventory.MaxPath+1<<20
	package1 := func(s string) map[string]string { return map[string]string{"node_modules/a/package.json": s} }
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "Package: p%d\nStatus: install ok installed\nVersion: 1\n\n", i)
		}
		return b.String()
	}
	folders := map[string]string{}
	for i := range 300 {
		folders[fmt.Sprintf("node_modules/a%d/package.json", i)] = "{"
	}
	long := map[string]string{}
	for i := range 3_000 {
		name := fmt.Sprintf("%s/%s/node_modules/a%d/package.json", strings.Repeat("x", 200), strings.Repeat("y", 200), i)
		long[name] = fmt.Sprintf(`{"name":"a%d","version":"%s"}`, i, strings.Repeat("1", 100))
	}
	for name, c := range map[string]struct {
		files map[string]string
		found int
		why   inventory.Why
	}{
		"a status of too many packages":        {map[string]string{"var/lib/dpkg/status": many(30_000)}, inventory.MaxComponents, inventory.TooMany},
		"a status that is larger than any":     {map[string]string{"var/lib/dpkg/status": strings.Repeat("x", 3<<20)}, 0, inventory.TooLarge},
		"a status of one line":                 {map[string]string{"var/lib/dpkg/status": "Package: " + strings.Repeat("x", 1<<20)}, 0, ""},
		"a status of control characters":       {map[string]string{"var/lib/dpkg/status": "Package: a\x1b[2J\nStatus: install ok installed\nVersion: 1\n"}, 0, inventory.BadName},
		"a package that is a bomb of brackets": {package1(strings.Repeat("[", 1<<20)), 0, inventory.Unreadable},
		"a package of nested values":           {package1(`{"name":"a","version":"1","x":` + strings.Repeat(`{"x":`, 9000) + "1" + strings.Repeat("}", 9001)), 1, ""},
		"a package that nests without end":     {package1(`{"name":"a","version":"1","x":` + strings.Repeat(`[`, 100_000) + strings.Repeat("]", 100_000) + "}"), 0, inventory.Unreadable},
		"a package of 2 MiB":                   {package1(`{"name":"a","version":"1","x":"` + strings.Repeat("x", 2<<20) + `"}`), 0, inventory.TooLarge},
		"a package with control characters":    {package1(`{"name":"a\u0007\u202e","version":"1"}`), 0, inventory.BadName},
		"a package with a markup name":         {package1(`{"name":"<script>","version":"1"}`), 0, inventory.BadName},
		"a package whose name is a list":       {package1(`{"name":["a"],"version":"1"}`), 0, inventory.Unreadable},
		"a package without a version":          {package1(`{"name":"a"}`), 0, inventory.BadName},
		"a folder whose name is a control":     {map[string]string{"\x1b[2J/node_modules/a/package.json": `{"name":"a","version":"1"}`}, 1, ""},
		"metadata that names nothing":          {map[string]string{"a.dist-info/METADATA": "\n\n"}, 0, inventory.Unreadable},
		"metadata that is a program":           {map[string]string{"a.dist-info/METADATA": "\x7fELF\x00\x01"}, 0, inventory.Unreadable},
		"build information that is cut off":    {map[string]string{"bin/x": "\x7fELF" + strings.Repeat("\xff", 4096)}, 0, ""},
		"an os-release of control characters":  {map[string]string{"etc/os-release": "ID=\x1b[2J\n"}, 0, ""},
		"remarks without end":                  {folders, 0, inventory.TooMany},
		"text without end":                     {long, -1, inventory.TooMany},
	} {
		t.Run(name, func(t *testing.T) {
			l := look(t, c.files, limits)
			if got := names(l); c.found >= 0 && len(got) != c.found {
				t.Errorf("%d components, want %d: %.300q", len(got), c.found, got)
			}
			if has := slices.ContainsFunc(l.Remarks, func(r inventory.Remark) bool { return r.Why == c.why }); has != (c.why != "") || c.why == "" && len(l.Remarks) > 0 {
				t.Errorf("remarks %.300v, want %q", l.Remarks, c.why)
			}
		})
	}
}

// Folders in folders end somewhere, and so do entries.
func TestBounds(t *testing.T) {
	deep := map[string]string{strings.Repeat("d/", 30) + "node_modules/a/package.json": `{"name":"a","version":"1"}`}
	wide := map[string]string{}
	for i := range 100 {
		wide[fmt.Sprintf("f%d", i)] = ""
	}
	few, flat := DefaultLimits, DefaultLimits
	few.Entries, flat.Depth = 50, 20
	for name, l := range map[string]*inventory.Layer{"deep": look(t, deep, flat), "wide": look(t, wide, few)} {
		if len(l.Remarks) != 1 || l.Remarks[0].Why != inventory.TooMany || len(names(l)) > 0 {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// What is no file system is an error, and not an empty inventory.
func TestNoLayer(t *testing.T) {
	for _, b := range []string{"", "hello", strings.Repeat("\x00", 1<<20)} {
		if l, err := Layer(strings.NewReader(b), DefaultLimits); err == nil {
			t.Errorf("%+v", l)
		}
	}
}
