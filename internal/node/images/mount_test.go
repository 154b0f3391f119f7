package images

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/image/pack"
)

// What kernels before 6.12 need of a layer, and those before 6.8 of an overlay, works on every kernel: a loop device that goes away
// with its mount, and lower directories in the option string, of which an instance sees no path of the host.
func TestMountAsOnOldKernels(t *testing.T) {
	dir := t.TempDir()
	var lower []string
	userns, err := mount.GetUsernsFD("0:1000000:65536", "0:1000000:65536")
	if err != nil {
		t.Fatal(err)
	}
	defer userns.Close()
	unmount := func(at string) { t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) }) }
	for _, name := range []string{"top", "bottom"} {
		file := filepath.Join(dir, name+".erofs")
		layer(t, file, name)
		raw, at := filepath.Join(dir, name+"-raw"), filepath.Join(dir, name)
		if err := os.Mkdir(raw, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := mountLoop(file, raw); err != nil {
			t.Fatal(err)
		}
		unmount(raw)
		if err := mapped(raw, at, userns); err != nil {
			t.Fatal(err)
		}
		unmount(at)
		lower = append(lower, at)
	}
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := overlayByOptions(lower, target); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"both": "top", "top-only": "top", "bottom-only": "bottom"} {
		if b, err := os.ReadFile(filepath.Join(target, name)); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(target, "both"), &st); err != nil || st.Uid != 1000000 {
		t.Errorf("its owner is %d, %v", st.Uid, err)
	}
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); err == nil {
		t.Error("it can be written to")
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+target+" ") && strings.Count(line, dir) > 1 {
			t.Errorf("the mount shows where it is from: %s", line)
		}
	}
	if err := overlayByOptions(make([]string, 400), target); err == nil {
		t.Error("400 layers that are nowhere were joined")
	}
	for _, at := range []string{target, lower[0], lower[1], lower[0] + "-raw", lower[1] + "-raw"} {
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
	}
	left, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range left {
		if b, _ := os.ReadFile(name); strings.HasPrefix(string(b), dir) {
			t.Errorf("%s is left, of %s", name, b)
		}
	}
}

// layer packs a layer with a file that every layer has and one that it alone has.
func layer(t *testing.T, file, name string) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range []string{"both", name + "-only"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f, Size: int64(len(name)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := pack.Layer(&buf, out, t.TempDir(), pack.DefaultLimits); err != nil {
		t.Fatal(err)
	}
}
