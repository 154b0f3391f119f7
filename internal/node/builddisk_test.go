package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/images"
)

// newDisks are disks of 64 MB below a folder that has no other mounts when the test ends.
func newDisks(t *testing.T, dir string) *disks {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("file systems are mounted, which takes root: make test")
	}
	d, err := openDisks(dir, 64e6)
	must(t, err)
	d.least = 1
	t.Cleanup(func() {
		left, _ := filepath.Glob(filepath.Join(dir, "*", "disk"))
		for _, at := range left {
			if images.Mounted(at) {
				t.Errorf("%s is still mounted", at)
				must(t, unmount(at))
			}
		}
	})
	return d
}

// fill writes until there is no room, and returns how much it was.
func fill(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	n, b := 0, make([]byte, 1<<20)
	for range 1 << 10 {
		k, err := f.Write(b)
		if n += k; err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%d MB were written", n/1e6)
	return n
}

// What a build writes ends at the size of its app's disk, the build is ended with the reason, and the cache is there for the
// next one; another app's disk is empty all the while.
func TestBuildDisk(t *testing.T) {
	d := newDisks(t, t.TempDir())
	app, other := bulwark.NewAppID(), bulwark.NewAppID()
	k, err := d.open(t.Context(), app, 4242)
	must(t, err)
	again, err := d.open(t.Context(), app, 4242)
	must(t, err)
	if again != k {
		t.Fatal("two builds of an app have two disks")
	}
	o, err := d.open(t.Context(), other, 4243)
	must(t, err)
	st, err := os.Stat(k.state())
	must(t, err)
	if st.Mode().Perm() != 0o700 {
		t.Fatal(st.Mode())
	}
	must(t, os.WriteFile(filepath.Join(k.state(), "cache"), []byte("kept"), 0o600))

	ctx, stop := context.WithCancelCause(t.Context())
	g := d.watch(ctx, k, stop)
	if n := fill(t, filepath.Join(k.state(), "big")); n > 64e6 {
		t.Errorf("%d bytes fit on a disk of 64 MB", n)
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the build goes on")
	}
	<-g.done
	if err := g.explain(errors.New("killed")); bulwark.KindOf(err) != bulwark.KindFailed || !strings.Contains(err.Error(), "The build used more than 0.1 GB of disk") {
		t.Fatal(err)
	}
	if err := context.Cause(ctx); bulwark.KindOf(err) != bulwark.KindFailed {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(o.out(), "x"), make([]byte, 1<<20), 0o600))
	must(t, os.Remove(filepath.Join(k.state(), "big")))
	if !k.spoilt.Load() {
		t.Fatal("the next build would find it full")
	}
	k.spoilt.Store(false) // the cache of one that is not: below

	must(t, d.close(again))
	if !images.Mounted(k.at) {
		t.Fatal("it was taken from under a build")
	}
	must(t, d.close(k))
	must(t, d.close(o))
	var img unix.Stat_t
	must(t, unix.Stat(filepath.Join(d.dir, string(app), "disk.img"), &img))
	if img.Blocks*512 > 24e6 { // the journal has 16
		t.Errorf("%d MB are held by a disk on which nothing is left", img.Blocks*512/1e6)
	}
	k, err = d.open(t.Context(), app, 4242)
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(k.state(), "cache")); string(b) != "kept" {
		t.Fatal("the cache is gone", err)
	}
	must(t, d.forget(app)) // in use: it stays
	if !images.Mounted(k.at) {
		t.Fatal("it was taken from under a build")
	}
	must(t, d.close(k))
	must(t, d.forget(app))
	if _, err := os.Stat(filepath.Join(d.dir, string(app))); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a destroyed app's disk is left", err)
	}
	must(t, d.forget(bulwark.NewAppID()))
}

// A step that met the end of the disk and gave up before anybody looked is understood by what it says.
func TestBuildDiskBySaying(t *testing.T) {
	k := &disk{}
	g := &guard{d: &disks{size: 10e9}, k: k}
	said := bulwark.Fail(bulwark.KindFailed, "dd: error writing '/big': No space left on device", "", nil)
	if err := g.explain(said); !strings.Contains(err.Error(), "more than 10 GB of disk") || !k.spoilt.Load() {
		t.Fatal(err)
	}
	if other := bulwark.Failf(bulwark.KindFailed, "It does not compile."); !errors.Is(g.explain(other), other) {
		t.Fatal("another failure was taken for it")
	}
}

// A disk that was spoilt, or is of another size than the operator wants now, is made anew: it is a cache.
func TestBuildDiskIsMadeAnew(t *testing.T) {
	for name, spoil := range map[string]func(d *disks, image string) error{
		"overwritten":     func(_ *disks, image string) error { return os.WriteFile(image, make([]byte, 64e6), 0o600) },
		"cut":             func(_ *disks, image string) error { return os.Truncate(image, 1e6) },
		"of another size": func(d *disks, _ string) error { d.size = 80e6; return nil },
		"half made":       func(_ *disks, image string) error { return os.Rename(image, image+".new") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisks(t, t.TempDir())
			app := bulwark.NewAppID()
			k, err := d.open(t.Context(), app, 4242)
			must(t, err)
			must(t, d.close(k))
			must(t, spoil(d, filepath.Join(d.dir, string(app), "disk.img")))
			k, err = d.open(t.Context(), app, 4242)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(k.out(), "x"), []byte("x"), 0o600))
			must(t, d.close(k))
		})
	}
}

// A node that was killed leaves a disk mounted; the next one takes it over, with what is on it.
func TestBuildDiskAfterAKill(t *testing.T) {
	d := newDisks(t, t.TempDir())
	app := bulwark.NewAppID()
	k, err := d.open(t.Context(), app, 4242)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(k.state(), "cache"), []byte("kept"), 0o600))
	d, err = openDisks(d.dir, 64e6)
	must(t, err)
	if images.Mounted(k.at) {
		t.Fatal("it is still mounted")
	}
	k, err = d.open(t.Context(), app, 4242)
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(k.state(), "cache")); string(b) != "kept" {
		t.Fatal("the cache is gone", err)
	}
	must(t, d.close(k))
}

// A disk that was mounted when the power went away has what BuildKit had not flushed as empty files: no build may take them for
// the results of steps.
func TestBuildDiskAfterAPowerCut(t *testing.T) {
	d := newDisks(t, t.TempDir())
	app := bulwark.NewAppID()
	cache := filepath.Join(d.dir, string(app), "disk", "state", "cache")
	image := filepath.Join(d.dir, string(app), "disk.img")
	k, err := d.open(t.Context(), app, 4242)
	must(t, err)
	if cache != filepath.Join(k.state(), "cache") {
		t.Fatal(k.state())
	}
	must(t, os.WriteFile(cache, []byte("half"), 0o600))
	// What the machine's disk holds at this moment.
	at, err := os.Open(k.at)
	must(t, err)
	must(t, errors.Join(unix.Syncfs(int(at.Fd())), at.Close()))
	b, err := os.ReadFile(image)
	must(t, err)
	must(t, d.close(k))
	must(t, os.WriteFile(image, b, 0o600))

	k, err = d.open(t.Context(), app, 4242)
	must(t, err)
	if _, err := os.Stat(cache); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cache of the build that was cut off is used: %v", err)
	}
	must(t, os.WriteFile(cache, []byte("whole"), 0o600))
	must(t, d.close(k))
	k, err = d.open(t.Context(), app, 4242)
	must(t, err)
	if b, _ := os.ReadFile(cache); string(b) != "whole" {
		t.Errorf("the cache of a build that ended is gone: %q", b)
	}
	must(t, d.close(k))
}

// A machine whose disk is nearly full builds nothing and says so; a build under which it fills ends. tmpfs plays that disk.
func TestMachineDiskFull(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"))
	defer func() { must(t, unix.Unmount(dir, 0)) }()
	d := newDisks(t, dir)
	d.least = 16 << 20
	must(t, d.room())
	k := &disk{at: t.TempDir()} // on a disk with room
	must(t, (&guard{d: d, k: k}).look())
	must(t, os.WriteFile(filepath.Join(dir, "log"), make([]byte, 20<<20), 0o600))
	isKind(t, d.room(), bulwark.KindBusy)
	if err := d.room(); !strings.Contains(err.Error(), "nothing is built; what runs goes on") {
		t.Fatal(err)
	}
	must(t, (&guard{d: d, k: k}).look()) // what builds goes on yet
	must(t, os.WriteFile(filepath.Join(dir, "more"), make([]byte, 6<<20), 0o600))
	isKind(t, (&guard{d: d, k: k}).look(), bulwark.KindBusy)
}
