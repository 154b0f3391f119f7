package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"golang.org/x/sys/unix"
)

// These tests make users' directories and mounts, so they run as root, as the code does.

func options(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	return Options{Name: "test", Root: filepath.Join(dir, "root"), Etc: dir, Blocks: 4}
}

func create(t *testing.T, opt Options) *Installation {
	t.Helper()
	inst, err := Create(opt)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

func wantKind(t *testing.T, err error, kind bulwark.Kind) {
	t.Helper()
	e, ok := errors.AsType[*bulwark.Error](err)
	if !ok || e.Kind != kind || e.Message == "" {
		t.Fatalf("got %v, want an error of kind %s", err, kind)
	}
}

func TestCreateMakesTheLayoutAndIsIdempotent(t *testing.T) {
	opt := options(t)
	inst := create(t, opt)
	for _, e := range inst.Layout() {
		if !e.Mode.IsDir() {
			continue
		}
		st, err := os.Lstat(e.Path)
		if err != nil {
			t.Fatal(err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		if st.Mode() != e.Mode || sys.Uid != e.Owner || sys.Gid != e.Owner {
			t.Errorf("%s: %v %d:%d, want %v %d", e.Path, st.Mode(), sys.Uid, sys.Gid, e.Mode, e.Owner)
		}
	}
	again := create(t, opt)
	if *again != *inst {
		t.Fatalf("the second run changed it: %+v, %+v", inst, again)
	}
	opened, err := Open(opt.Root)
	if err != nil || *opened != *inst {
		t.Fatalf("Open: %+v, %v", opened, err)
	}
	for _, file := range []string{"subuid", "subgid"} {
		b, _ := os.ReadFile(filepath.Join(opt.Etc, file))
		if want := fmt.Sprintf("bulwark-test:%d:%d\n", firstID, 4*BlockSize); string(b) != want {
			t.Errorf("%s: %q, want %q", file, b, want)
		}
	}
	if inst.Listen.Public != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("a localhost installation listens on %s", inst.Listen.Public)
	}
	opt.Ports.HTTP = 8080
	if changed := create(t, opt); changed.Ports.HTTP != 8080 || changed.Ports.HTTPS != 443 || changed.IDs != inst.IDs {
		t.Errorf("changed port: %+v", changed)
	}
	opt.Name = "other"
	_, err = Create(opt)
	wantKind(t, err, bulwark.KindConflict)
}

func TestOtherDomainListensEverywhere(t *testing.T) {
	opt := options(t)
	opt.Domain = "apps.example.org"
	if inst := create(t, opt); inst.Listen.Public != netip.IPv6Unspecified() {
		t.Fatalf("listens on %s", inst.Listen.Public)
	}
}

func TestCreateConcurrently(t *testing.T) {
	dir := t.TempDir()
	const count = 12
	got := make([]*Installation, count)
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			inst, err := Create(Options{Name: bulwark.InstallationName(fmt.Sprintf("n%d", i/2)), Root: filepath.Join(dir, fmt.Sprint(i/2)), Etc: dir, Blocks: 2})
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = inst
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, a := range got {
		for j, b := range got {
			if same := i/2 == j/2; same != (a.IDs == b.IDs) || !same && a.IDs.overlaps(b.IDs) {
				t.Errorf("installations %d and %d: %+v, %+v", i, j, a.IDs, b.IDs)
			}
		}
	}
	b, _ := os.ReadFile(filepath.Join(dir, "subgid"))
	if n := strings.Count(string(b), "\n"); n != count/2 {
		t.Errorf("%d lines in subgid:\n%s", n, b)
	}
}

func TestRegisterKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	before := fmt.Sprintf("alice:100000:65536\n# odd line\ncontainers:%d:%d\n", firstID+5, BlockSize)
	if err := os.WriteFile(filepath.Join(dir, "subuid"), []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	passwd := fmt.Sprintf("root:x:0:0::/:\nbig:x:%d:1::/:\n", firstID+2*BlockSize+7)
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	r := register{dir: dir}
	got, err := r.claim("bulwark-a", Range{}, BlockSize, func(Range) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if want := (Range{Base: firstID + 3*BlockSize, Count: BlockSize}); got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if _, err := r.claim("bulwark-a", Range{}, BlockSize, func(Range) error { return nil }); bulwark.KindOf(err) != bulwark.KindConflict {
		t.Fatalf("a second installation of the name: %v", err)
	}
	if err := r.release("bulwark-a", got); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(filepath.Join(dir, "subuid"))
	if string(after) != before {
		t.Fatalf("subuid is\n%s, was\n%s", after, before)
	}
	_, err = r.claim("bulwark-a", Range{}, lastID-firstID+1, func(Range) error { return nil })
	wantKind(t, err, bulwark.KindUnavailable)
}

func TestCreateHealsACrashBeforeTheRegister(t *testing.T) {
	opt := options(t)
	inst := create(t, opt)
	if err := inst.register().release(inst.account(), inst.IDs); err != nil {
		t.Fatal(err)
	}
	if again := create(t, opt); again.IDs != inst.IDs || !inst.register().holds(inst.account(), inst.IDs) {
		t.Fatalf("%+v", again.IDs)
	}
}

func TestLayoutRefusesLinksAndStrangers(t *testing.T) {
	for name, spoil := range map[string]func(*Installation) error{
		"link": func(i *Installation) error {
			return errors.Join(os.Remove(i.LogDir()), os.Symlink("/tmp", i.LogDir()))
		},
		"link above": func(i *Installation) error {
			return errors.Join(os.RemoveAll(i.RunDir()), os.Symlink("/tmp", i.RunDir()))
		},
		"file": func(i *Installation) error {
			return errors.Join(os.Remove(i.NodeDir()), os.WriteFile(i.NodeDir(), nil, 0o600))
		},
		"stranger":     func(i *Installation) error { return os.Chown(i.NodeDir(), 4711, 4711) },
		"other of us":  func(i *Installation) error { return os.Chown(i.NodeDir(), int(i.User(Server)), 0) },
		"loose parent": func(i *Installation) error { return os.Chmod(filepath.Dir(i.Root), 0o777) },
		"parent's owner": func(i *Installation) error {
			return os.Chown(filepath.Dir(i.Root), 4711, 4711)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inst := create(t, options(t))
			if err := spoil(inst); err != nil {
				t.Fatal(err)
			}
			wantKind(t, inst.Check(), bulwark.KindForbidden)
			if st, err := os.Stat("/tmp"); err != nil || st.Mode().Perm() != 0o777 {
				t.Fatalf("/tmp was touched: %v %v", st, err)
			}
		})
	}
}

func TestCheckRepairs(t *testing.T) {
	inst := create(t, options(t))
	err := errors.Join(os.Chmod(inst.NodeDir(), 0o777), os.Chown(inst.ServerDir(), 0, 0), os.Remove(inst.LogDir()))
	if err != nil {
		t.Fatal(err)
	}
	if err := inst.Check(); err != nil {
		t.Fatal(err)
	}
	st, _ := os.Stat(inst.NodeDir())
	sv, _ := os.Stat(inst.ServerDir())
	if st.Mode().Perm() != 0o700 || sv.Sys().(*syscall.Stat_t).Uid != inst.User(Server) {
		t.Fatalf("not repaired: %v %v", st.Mode(), sv.Sys())
	}
}

func TestOpenRefuses(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "none"))
	wantKind(t, err, bulwark.KindNotFound)
	inst := create(t, options(t))
	file := filepath.Join(inst.Root, fileName)
	if err := os.Chown(file, 4711, 0); err != nil {
		t.Fatal(err)
	}
	_, err = Open(inst.Root)
	wantKind(t, err, bulwark.KindForbidden)
}

func TestRootMustFit(t *testing.T) {
	for _, root := range []string{"relative", "/" + strings.Repeat("x", 90) + "/y", "/a b/c", "/a:b/c", "/a/../b", "/top", "/a/%n"} {
		_, err := Create(Options{Root: root, Etc: t.TempDir()})
		wantKind(t, err, bulwark.KindInvalid)
	}
	inst := &Installation{Root: "/" + strings.Repeat("x", 40) + "/" + strings.Repeat("y", maxSocketPath-len(longestSocket)-42)}
	if err := checkRoot(inst.Root); err != nil {
		t.Fatal(err)
	}
	paths := []string{inst.Socket(ContainerdSocket) + ".ttrpc"}
	for _, e := range inst.Layout() {
		paths = append(paths, e.Path)
	}
	for _, p := range Processes() {
		paths = append(paths, inst.NotifySocket(p))
	}
	for _, p := range paths {
		if len(p) > maxSocketPath {
			t.Errorf("%s does not fit", p[len(inst.Root):])
		}
	}
}

func TestUsersAndBlocksAreApart(t *testing.T) {
	inst := create(t, options(t))
	var seen []uint32
	for u := Server; u <= Workers; u++ {
		id := inst.User(u)
		if slices.Contains(seen, id) || !inst.IDs.Contains(id) {
			t.Errorf("user %d has id %d", u, id)
		}
		seen = append(seen, id)
	}
	for n := uint32(1); n <= inst.Blocks(); n++ {
		b, err := inst.Block(n)
		if err != nil || slices.ContainsFunc(seen, b.Contains) || !inst.IDs.Contains(b.Base+b.Count-1) {
			t.Errorf("block %d: %+v, %v", n, b, err)
		}
	}
	_, err := inst.Block(inst.Blocks() + 1)
	wantKind(t, err, bulwark.KindUnavailable)
}

func TestRemoveLeavesNothing(t *testing.T) {
	inst := create(t, options(t))
	// A mount below the root, a mounted network namespace, a control group, a process of the server's user.
	at := filepath.Join(inst.VolumeDir(), "v")
	netns := inst.RouterNamespacePath()
	group := "/sys/fs/cgroup/pids/" + inst.CgroupName()
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil { // version 2: one hierarchy
		group = "/sys/fs/cgroup/" + inst.CgroupName()
	}
	err := errors.Join(
		os.Mkdir(at, 0o700), unix.Mount("none", at, "tmpfs", 0, ""),
		os.MkdirAll(filepath.Dir(netns), 0o755), os.WriteFile(netns, nil, 0o444), unix.Mount("/proc/thread-self/ns/net", netns, "", unix.MS_BIND, ""),
		os.MkdirAll(group+"/sub", 0o755),
	)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.Env = []string{"NOTIFY_SOCKET=" + inst.NotifySocket("server")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: inst.User(Server), Gid: inst.User(Server)}}
	grouped := exec.Command("/bin/sleep", "1000")
	bystander := exec.Command("/bin/sleep", "1000") // says that it is ours, and is another user's
	bystander.Env = cmd.Env
	bystander.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4711, Gid: 4711}}
	for _, c := range []*exec.Cmd{cmd, grouped, bystander} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	procs := group + "/sub/cgroup.procs"
	if err := os.WriteFile(procs, []byte(fmt.Sprint(grouped.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if err := Remove(context.Background(), inst); err != nil {
		t.Fatal(err)
	}
	if cmd.Wait().Error() != "signal: killed" || grouped.Wait().Error() != "signal: killed" {
		t.Error("a process was not killed")
	}
	if err := bystander.Process.Signal(syscall.SIGTERM); err != nil || bystander.Wait().Error() != "signal: terminated" {
		t.Error("a bystander was killed")
	}
	for _, path := range []string{inst.Root, netns, group} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(inst.Etc, "subuid")); len(b) > 0 {
		t.Errorf("subuid: %s", b)
	}
	if err := Remove(context.Background(), inst); err != nil {
		t.Errorf("the second time: %v", err)
	}
}

func TestRemoveRefusesWhileRunning(t *testing.T) {
	inst := create(t, options(t))
	unlock, err := inst.lockOut()
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, Remove(context.Background(), inst), bulwark.KindConflict)
	unlock()
	if err := Remove(context.Background(), inst); err != nil {
		t.Fatal(err)
	}
}

func TestUnitVerifies(t *testing.T) {
	inst := create(t, options(t))
	text, err := inst.Unit("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "@") {
		t.Errorf("something was not filled in:\n%s", text)
	}
	file := filepath.Join(t.TempDir(), inst.UnitName())
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/usr/bin/systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("systemd-analyze: %v\n%s", err, out)
	}
	if _, err := inst.Unit("/opt/with space/bulwark"); err == nil {
		t.Error("a path that systemd would split was taken")
	}
}

// How old keys may become is chosen once and stays; what would replace them all the time, or never, is refused.
func TestKeyAge(t *testing.T) {
	opt := options(t)
	opt.KeyAge = 720 * time.Hour
	create(t, opt)
	opt.KeyAge = 0
	if inst := create(t, opt); inst.KeyAge != 720*time.Hour {
		t.Errorf("it became %s", inst.KeyAge)
	}
	for _, bad := range []time.Duration{-time.Hour, time.Second, 20 * 365 * 24 * time.Hour} {
		opt.KeyAge = bad
		_, err := Create(opt)
		wantKind(t, err, bulwark.KindInvalid)
	}
}
