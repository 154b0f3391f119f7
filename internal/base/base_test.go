package base

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bulwark-paas/bulwark"
)

func TestFinishTakesOutWhatIsOfThisMachine(t *testing.T) {
	tr := archive(t, dir("etc"), file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), file("etc/group", "root:x:0:\n"),
		file("etc/resolv.conf", "nameserver 192.0.2.1\n"), file("etc/hostname", "build-host\n"), dir("etc/apt"), file("etc/apt/sources.list", "deb"),
		dir("dev"), member{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666}, ""}, dir("var/log"), file("var/log/dpkg.log", "now"),
		dir("var/lib/dpkg"), file("var/lib/dpkg/status", "s"), file("var/lib/dpkg/status-old", "s"),
		member{tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/su", Mode: 0o4755}, "su"})
	if err := finish(tr); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/apt", "etc/apt/sources.list", "dev/null", "var/log/dpkg.log", "var/lib/dpkg/status-old"} {
		if tr[name] != nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range []string{"etc/resolv.conf", "etc/hostname", "etc/hosts"} {
		if b, err := tr.bytes(name); err != nil || len(b) != 0 {
			t.Errorf("%s holds %q, %v; it should be there and empty", name, b, err)
		}
	}
	if mode := tr["usr/bin/su"].hdr.Mode; mode != 0o755 {
		t.Errorf("su has mode %o", mode)
	}
	if b, _ := tr.bytes("etc/passwd"); !strings.Contains(string(b), "\napp:x:1000:1000:") {
		t.Errorf("passwd is %q", b)
	}
	if tr["app"].hdr.Uid != appID || tr["tmp"].hdr.Mode != 0o1777 {
		t.Error("the app's directory is not the app's, or /tmp is not for all")
	}
}

func TestKeepListsOnlyWhatIsThere(t *testing.T) {
	tr := archive(t, dir("etc"), file("etc/passwd", "p"), file("etc/shells", "s"), dir("bin"), file("bin/sh", "sh"), dir("var"), dir("var/lib"),
		dir("var/lib/dpkg"), file("var/lib/dpkg/status", "Package: bash\nStatus: ok\n\nPackage: tzdata\nStatus: ok\n"))
	out, err := keep(tr, []string{"etc/passwd"}, []string{"tzdata"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(out), []string{"etc", "etc/passwd", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/status"}; !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
	if b, _ := out.bytes("var/lib/dpkg/status"); string(b) != "Package: tzdata\nStatus: ok\n\n" {
		t.Errorf("the package database is %q", b)
	}
	if _, err := keep(tr, nil, []string{"netbase"}); err == nil {
		t.Error("a package that is not installed was listed")
	}
}

func TestHostMirrors(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := HostMirrors(dir); bulwark.KindOf(err) != bulwark.KindNotFound {
		t.Errorf("without sources the error is %v", err)
	}
	put("sources.list", "# deb http://off.example/debian bookworm main\ndeb [arch=amd64 trusted=yes] http://one.example/debian bookworm main non-free # x\n"+
		"deb http://one.example/debian trixie main\ndeb-src http://one.example/debian bookworm main\n")
	put("sources.list.d/vendor.list", "deb https://vendor.example/apt stable main\n")
	put("sources.list.d/debian.sources", "# comment\nTypes: deb deb-src\nURIs: http://two.example/debian\n  http://three.example/debian\nSuites: bookworm-updates sid\n"+
		"Components: main contrib\nSigned-By: /keys/site.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://off.example/\nSuites: bookworm-security\nComponents: main\n")
	got, err := HostMirrors(dir)
	want := []string{
		"deb [signed-by=/keys/site.gpg] http://three.example/debian bookworm-updates main",
		"deb [signed-by=/keys/site.gpg] http://two.example/debian bookworm-updates main",
		"deb [signed-by=" + debianKeys + "] http://one.example/debian bookworm main",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
}

func TestDownloadWithTheWrongSumIsRefused(t *testing.T) {
	cache := t.TempDir()
	if err := os.MkdirAll(filepath.Join(cache, "npm"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := pins()["node"]
	if err := os.WriteFile(filepath.Join(cache, "npm", p.Name+"-"+p.Version+".tgz"), []byte("evil"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &maker{opt: Options{CacheDir: cache, NPM: "/bin/false"}, say: speaker(io.Discard)}
	if err := m.addNPM(t.Context(), tree{}, "node", p); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Errorf("the error is %v", err)
	}
}

func TestImageIsWrittenFoundAndShared(t *testing.T) {
	root := t.TempDir()
	if _, err := Find(root); bulwark.KindOf(err) != bulwark.KindNotFound || !strings.Contains(err.Error(), "bulwark bases make") {
		t.Errorf("without bases the error is %v", err)
	}
	m := &maker{dir: filepath.Join(root, "key"), say: speaker(nil)}
	work := filepath.Join(m.dir, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := writeLayer(archive(t, dir("etc"), file("etc/a", "1")), filepath.Join(work, "layer"))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := compressed(l)
	if err != nil {
		t.Fatal(err)
	}
	index := Index{}
	r := Recipes()[0]
	digest, err := writeImage(r, nil, []v1.Layer{layer}, filepath.Join(work, Run), filepath.Join(m.dir, Run))
	if err != nil {
		t.Fatal(err)
	}
	index[Run] = Image{Layout: filepath.Join(m.dir, Run), Digest: digest}
	g, err := loadGround(index[Run].Layout, work)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if b, err := g.tree.bytes("etc/a"); err != nil || string(b) != "1" {
		t.Errorf("the ground holds %q, %v", b, err)
	}
	top, err := writeImage(Recipe{Name: "top", Env: r.Env}, g, []v1.Layer{g.layer}, filepath.Join(work, "top"), filepath.Join(m.dir, "top"))
	if err != nil {
		t.Fatal(err)
	}
	index["top"] = Image{Layout: filepath.Join(m.dir, "top"), Digest: top}
	h, _ := g.layer.Digest()
	one, err1 := os.Stat(filepath.Join(m.dir, Run, "blobs/sha256", h.Hex))
	two, err2 := os.Stat(filepath.Join(m.dir, "top", "blobs/sha256", h.Hex))
	if err1 != nil || err2 != nil || !os.SameFile(one, two) {
		t.Errorf("the shared layer is on disk twice: %v, %v", err1, err2)
	}
	if err := m.save(index); err != nil {
		t.Fatal(err)
	}
	got, err := Find(root)
	if err != nil || got[Run].Digest != digest || got["top"].Layout != index["top"].Layout {
		t.Errorf("found %v, %v", got, err)
	}
	if err := os.RemoveAll(index["top"].Layout); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(root); err == nil {
		t.Error("an index that names a missing layout was taken as complete")
	}
}

func TestMakeWaitsForTheLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		u, err := lock(t.Context(), name)
		if err == nil {
			u()
		}
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatal("two had the lock at once", err)
	case <-time.After(50 * time.Millisecond):
	}
	unlock()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

// TestMakeRunForReal needs root, mmdebstrap and Debian's packages: "make test" sets BULWARK_CACHE and has installed them.
// It makes "run" and "static" twice, and asks for the same digests.
func TestMakeRunForReal(t *testing.T) {
	if os.Getenv("BULWARK_CACHE") == "" {
		t.Fatal("BULWARK_CACHE is not set; run it by \"make test\"")
	}
	digests := map[string]bulwark.Digest{}
	for range 2 {
		// Outside of t.TempDir: apt's own user has to get in.
		dir, err := os.MkdirTemp("", "bulwark-bases-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // public packages
			t.Fatal(err)
		}
		index, err := Make(t.Context(), dir, Options{Only: []string{Run, Static}, Env: os.Environ()}, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		for name, img := range index {
			if old, ok := digests[name]; ok && old != img.Digest {
				t.Errorf("%s was made twice from the same packages: %s and %s", name, old, img.Digest)
			}
			digests[name] = img.Digest
		}
		checkRun(t, index[Run].Layout)
	}
}

// checkRun looks into the base for what must and must not be there.
func checkRun(t *testing.T, layout string) {
	t.Helper()
	g, err := loadGround(layout, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	for _, name := range []string{"etc/os-release", "usr/share/zoneinfo/UTC", "etc/ssl/certs/ca-certificates.crt", "var/lib/dpkg/status",
		"usr/lib/x86_64-linux-gnu/libstdc++.so.6", "usr/bin/sh", "app", "proc", "sys", "dev", "tmp", "run"} {
		if g.tree[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	for name, e := range g.tree {
		if e.hdr.Typeflag == tar.TypeReg && e.hdr.Mode&0o6000 != 0 {
			t.Errorf("%s has mode %o", name, e.hdr.Mode)
		}
		if strings.HasPrefix(name, "usr/share/man/") && e.hdr.Typeflag == tar.TypeReg {
			t.Errorf("%s should not be there", name)
		}
	}
}
