package cell_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// rig is a place for cells, with the launcher and a hostile program in it.
type rig struct {
	t *testing.T
	*cell.Cells
	hostile string
	dir     string
}

const uid = 4711

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a cell takes root: make test")
	}
	bin := t.TempDir()
	r := &rig{t: t, Cells: &cell.Cells{Launcher: filepath.Join(bin, "bulwark-cell"), Cgroup: fmt.Sprintf("/bulwark-celltest-%d", os.Getpid())},
		hostile: filepath.Join(bin, "hostile"), dir: filepath.Join(bin, "work")}
	for path, pkg := range map[string]string{r.Launcher: "../../../cmd/bulwark-cell", r.hostile: "./testdata/hostile"} {
		cmd := exec.Command("go", "build", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	must(t, os.Mkdir(r.dir, 0o700))
	must(t, os.Chown(r.dir, uid, uid))
	for d := bin; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	t.Cleanup(func() {
		for _, g := range groups(r.Cgroup, "*") {
			t.Errorf("the control group %s is left", g)
		}
		for _, g := range groups(r.Cgroup, "") {
			_ = os.Remove(g)
		}
	})
	return r
}

func groups(parent, name string) []string {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/*" + parent, "/sys/fs/cgroup" + parent} {
		found, _ := filepath.Glob(filepath.Join(pattern, name))
		for _, f := range found {
			if st, err := os.Stat(f); err == nil && st.IsDir() {
				dirs = append(dirs, f)
			}
		}
	}
	return dirs
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// play runs the hostile program, and returns what it said.
func (r *rig) play(ctx context.Context, l cell.Limits, args ...string) (string, error) {
	var out bytes.Buffer
	err := r.Run(ctx, cell.Cmd{What: "Unpacking the source", Hint: "Push less.", Path: r.hostile, Args: args, Dir: r.dir, Stdout: &out,
		Write: []string{r.dir}, User: uid, Limits: l})
	return strings.TrimSpace(out.String()), err
}

var ample = cell.Limits{Memory: 256 << 20, PIDs: 64, CPU: time.Minute, Time: time.Minute, Disk: 1 << 30, Names: 1_000_000}

// Each bound that is met ends the program, soon, and the error says which it was.
func TestBounds(t *testing.T) {
	r := newRig(t)
	with := func(f func(*cell.Limits)) cell.Limits { l := ample; f(&l); return l }
	for name, c := range map[string]struct {
		limits cell.Limits
		want   string
	}{
		"memory":  {with(func(l *cell.Limits) { l.Memory = 64 << 20 }), "Unpacking the source needs more than 64 MiB of memory and was stopped. Push less."},
		"compute": {with(func(l *cell.Limits) { l.CPU = time.Second }), "takes more than 1s of computing"},
		"sleep":   {with(func(l *cell.Limits) { l.Time = 300 * time.Millisecond }), "took longer than 300ms"},
		"disk":    {with(func(l *cell.Limits) { l.Disk = 32 << 20 }), "writes more than 32 MiB"},
		"names":   {with(func(l *cell.Limits) { l.Names = 500 }), "makes more than 500 files"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			said, err := r.play(t.Context(), c.limits, name)
			if err == nil || bulwark.KindOf(err) != bulwark.KindTooLarge || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%q, %v", said, err)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("it went on for %s", took)
			}
			entries, err := os.ReadDir(r.dir)
			must(t, err)
			for _, e := range entries {
				must(t, os.RemoveAll(filepath.Join(r.dir, e.Name())))
			}
		})
	}
	// A file has an end at which it is told so, and a thread or process more than it may have cannot be made.
	small := with(func(l *cell.Limits) { l.Disk = 16 << 20 })
	if said, err := r.play(t.Context(), small, "file"); err == nil || !strings.Contains(said+err.Error(), "file too large") {
		t.Errorf("%q, %v", said, err)
	}
	if st, err := os.Stat(filepath.Join(r.dir, "big")); err != nil || st.Size() != 16<<20 {
		t.Errorf("%v, %v", st, err)
	}
	few := with(func(l *cell.Limits) { l.PIDs = 20; l.Time = 10 * time.Second })
	if _, err := r.play(t.Context(), few, "threads"); err == nil || bulwark.KindOf(err) == bulwark.KindTooLarge {
		t.Errorf("thousands of threads were made: %v", err)
	}
}

// What a program in a cell reaches is its folder.
func TestWalls(t *testing.T) {
	r := newRig(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer tcp.Close()
	path := filepath.Join(r.dir, "socket")
	unix, err := net.Listen("unix", path)
	must(t, err)
	defer unix.Close()
	must(t, os.Chmod(path, 0o666))

	if said, err := r.play(t.Context(), ample, "honest"); err != nil || said != "did" {
		t.Fatalf("%q, %v", said, err)
	}
	if b, err := os.ReadFile(filepath.Join(r.dir, "result")); err != nil || string(b) != "done" {
		t.Fatalf("%q, %v", b, err)
	}
	for _, args := range [][]string{{"read"}, {"write"}, {"list"}, {"exec"}, {"own"}, {"connect", tcp.Addr().String()}, {"unix", path}, {"pipe"},
		{"userns"}, {"user"}} {
		said, err := r.play(t.Context(), ample, args...)
		exit, ok := errors.AsType[*process.ExitError](err)
		if !ok || exit.Code != 13 && exit.Signal == 0 {
			t.Errorf("%s: %q, %v; it must be refused or ended", args[0], said, err)
		}
	}
}

// Nothing outlives its cell, also not what has left the process group and hides behind a program that ended well.
func TestNothingIsLeft(t *testing.T) {
	r := newRig(t)
	if said, err := r.play(t.Context(), ample, "fork"); said != "" {
		t.Fatal(said, err) // the child still holds its standard output, which may be told as an error
	}
	alone(t, r.hostile)
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, stop)
	if _, err := r.play(ctx, ample, "sleep"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	alone(t, r.hostile)
}

// alone tells that no process runs a program.
func alone(t *testing.T, program string) {
	t.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == program {
			t.Errorf("%s still runs %s", l, program)
		}
	}
}

// A node that was killed leaves groups behind; the next one takes them away.
func TestSweep(t *testing.T) {
	r := newRig(t)
	if _, err := r.play(t.Context(), ample, "honest"); err != nil { // makes the parent
		t.Fatal(err)
	}
	for _, g := range groups(r.Cgroup, "") {
		must(t, os.Mkdir(filepath.Join(g, "cell-of-a-dead-node"), 0o755))
	}
	must(t, r.Sweep())
	must(t, r.Sweep())
}

// A bound that was forgotten is no bound: nothing runs.
func TestNoBoundIsForgotten(t *testing.T) {
	r := newRig(t)
	for i, f := range []func(*cell.Limits){
		func(l *cell.Limits) { l.Memory = 0 }, func(l *cell.Limits) { l.PIDs = 0 }, func(l *cell.Limits) { l.CPU = 0 },
		func(l *cell.Limits) { l.Time = 0 }, func(l *cell.Limits) { l.Disk = 0 }, func(l *cell.Limits) { l.Names = 0 },
	} {
		l := ample
		f(&l)
		if said, err := r.play(t.Context(), l, "honest"); err == nil {
			t.Errorf("bound %d was left out and it ran: %q", i, said)
		}
	}
	if err := r.Run(t.Context(), cell.Cmd{Path: r.hostile, Args: []string{"honest"}, Limits: ample}); err == nil {
		t.Error("it ran as root")
	}
}

// A user is one program's at a time.
func TestUsers(t *testing.T) {
	c := &cell.Cells{Users: cell.UserRange{First: 100, Count: 2}}
	a, back, err := c.User()
	must(t, err)
	b, _, err := c.User()
	must(t, err)
	if a == b {
		t.Fatalf("%d twice", a)
	}
	if _, _, err := c.User(); bulwark.KindOf(err) != bulwark.KindBusy {
		t.Fatal(err)
	}
	back()
	if again, _, err := c.User(); err != nil || again != a {
		t.Fatal(again, err)
	}
}

// All builds together have the weight that they were given, and no more: in whichever version of control groups there is.
func TestWeigh(t *testing.T) {
	name := fmt.Sprintf("/bulwark-weightest-%d", os.Getpid())
	if err := cell.Weigh(name, 128); err != nil {
		t.Fatal(err)
	}
	one, two := "/sys/fs/cgroup/cpu"+name, "/sys/fs/cgroup"+name
	t.Cleanup(func() { os.Remove(one); os.Remove(two) })
	for file, want := range map[string]string{one + "/cpu.shares": "128", two + "/cpu.weight": "12"} {
		if b, err := os.ReadFile(file); err == nil {
			if got := strings.TrimSpace(string(b)); got != want {
				t.Errorf("%s is %s, want %s", file, got, want)
			}
			return
		}
	}
	t.Error("there is no such group")
}
