package node

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// unpacking returns builds with fresh helpers, and a folder of a build. The helpers run as a stranger.
func unpacking(t *testing.T) (b *builds, dir string, uid uint32) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the helpers run in cells, which takes root: make test")
	}
	top := t.TempDir()
	b = &builds{config: buildConfig{Unpack: filepath.Join(top, "bulwark-unpack"),
		Cells: &cell.Cells{Launcher: filepath.Join(top, "bulwark-cell"), Cgroup: "/bulwark-nodetest"}}}
	t.Cleanup(func() {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*" + b.config.Cells.Cgroup)
		for _, g := range append(groups, "/sys/fs/cgroup"+b.config.Cells.Cgroup) {
			if err := os.Remove(g); err != nil && !os.IsNotExist(err) {
				t.Error("a control group is left: ", err)
			}
		}
	})
	compiler, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	err = process.Run(t.Context(), process.Cmd{Path: compiler, Args: []string{"build", "-o", top + "/",
		"github.com/bulwark-paas/bulwark/cmd/bulwark-unpack", "github.com/bulwark-paas/bulwark/cmd/bulwark-cell"}, Dir: ".", Env: append(os.Environ(), "CGO_ENABLED=0")})
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(top, "build")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{filepath.Dir(top), top} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b, dir, 4242
}

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, 5
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, "hello")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestUnpack: the node takes the folder that was signed for, as the builder's user, and no other.
func TestUnpack(t *testing.T) {
	b, dir, uid := unpacking(t)
	good := tarOf(t, tar.Header{Name: "a/x", Mode: 0o4711}, tar.Header{Name: "a/y", Mode: 0o600}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/x"})
	want, err := tree.Check(bytes.NewReader(good), tree.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		stream []byte
		kind   bulwark.Kind
	}{
		"another file":   {tarOf(t, tar.Header{Name: "a/x", Mode: 0o600}), bulwark.KindForbidden},
		"one file more":  {append(tarOf(t, tar.Header{Name: "b"})[:1024], good...), bulwark.KindForbidden},
		"one file less":  {good[1024:], bulwark.KindForbidden},
		"no program":     {bytes.Replace(good, []byte("0004711"), []byte("0004611"), 1), bulwark.KindInvalid}, // the header's own sum
		"a link outside": {tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, tar.Header{Name: "l/x"}), bulwark.KindInvalid},
		"a path outside": {tarOf(t, tar.Header{Name: "../x"}), bulwark.KindInvalid},
		"a pipe":         {tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeFifo}), bulwark.KindInvalid},
		"no archive":     {[]byte("hello"), bulwark.KindInvalid},
		"nothing":        {nil, bulwark.KindInvalid},
	} {
		err := b.unpack(t.Context(), dir, uid, want, bytes.NewReader(c.stream))
		if bulwark.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, sourceDir)); err != nil {
			t.Fatal(err)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 0 {
			t.Errorf("%s: beside the source there is %v, %v", name, all, err)
		}
	}
	if err := b.unpack(t.Context(), dir, uid, want, bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, sourceDir, "a/x"))
	if err != nil || info.Mode() != 0o755 || info.Sys().(*syscall.Stat_t).Uid != uid {
		t.Errorf("%v of %+v, %v", info.Mode(), info.Sys(), err)
	}
}

// TestUnpackStops: whoever sends nothing more does not hold a process for ever.
func TestUnpackStops(t *testing.T) {
	b, dir, uid := unpacking(t)
	gone := bulwark.Failf(bulwark.KindCanceled, "Whoever sent it is gone.")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	go func() {
		io.WriteString(w, strings.Repeat("\x00", 10)) // taken once the process runs
		cancel(gone)
		r.CloseWithError(gone)
	}()
	if err := b.unpack(ctx, dir, uid, "", r); bulwark.KindOf(err) != bulwark.KindCanceled {
		t.Errorf("%v", err)
	}
}

func TestTakeArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), importFile)
	archive := []byte("an archive")
	if err := takeArchive(path, bulwark.Sum(archive), bytes.NewReader(archive)); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, archive) {
		t.Errorf("%q, %v", b, err)
	}
	if err := takeArchive(path, bulwark.Sum(archive), bytes.NewReader(archive)); err == nil {
		t.Error("a file that is there was written over")
	}
	if err := takeArchive(path+"2", bulwark.Sum(archive), strings.NewReader("another")); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Errorf("another archive: %v", err)
	}
}

// TestSourceOfAnotherDocument: what was measured for one document does not become the build of another.
func TestSourceOfAnotherDocument(t *testing.T) {
	dir := t.TempDir()
	mine, other := bulwark.Sum([]byte("mine")), bulwark.Sum([]byte("other"))
	if _, err := readSourced(dir, mine); bulwark.KindOf(err) != bulwark.KindUnavailable {
		t.Errorf("none: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, sourcedFile), []byte(`{"cause":"`+string(mine)+`","material":{"digest":{"sha256":"00"}},"import":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSourced(dir, other); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Errorf("another's: %v", err)
	}
	s, err := readSourced(dir, mine)
	if err != nil || s.buildType() != statement.ImportType || s.Material.Digest["sha256"] != "00" {
		t.Errorf("%+v, %v", s, err)
	}
	if source, archive := s.files("/b"); source != "" || archive != "/b/import.tar" {
		t.Errorf("%q %q", source, archive)
	}
}
