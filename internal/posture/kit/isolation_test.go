package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// notHere are the attempts that do not succeed unconfined on some machines, and why. All others must: an attempt that is
// refused where nothing refuses shows nothing when an instance refuses it.
func notHere(a Attempt) (why string) {
	missing := func(path string) bool {
		if names, err := os.ReadDir(path); err == nil && len(names) == 0 {
			return true
		}
		_, err := os.Stat(path)
		return err != nil
	}
	if path, ok := strings.CutPrefix(a.Name, "read "); ok && strings.HasPrefix(path, "/") && missing(path) {
		return "the kernel has no such file, or nothing is mounted in that directory"
	}
	if path, _, ok := strings.Cut(strings.TrimPrefix(a.Name, "open "), " for writing"); ok && missing(path) {
		return "the kernel has no such file"
	}
	if strings.HasPrefix(a.Name, "be in the host's ") {
		return "the test plays in namespaces of its own; TestAtHost looks at these"
	}
	without := func(c int, why string) string {
		if hasCapability(c) {
			return ""
		}
		return why
	}
	switch a.Name {
	case "kexec_load", "init_module", "finit_module", "delete_module", "memfd_secret", "quotactl", "io_uring_setup", "userfaultfd", "make an x32 system call",
		"make a 32-bit system call", "modify_ldt", "kcmp a child", "process_madvise a child":
		if a.Detail == unix.ENOSYS.Error() {
			return "the kernel was built without it"
		}
	case "lower the own oom_score_adj", "open /proc/sys/user/max_user_namespaces for writing":
		return without(unix.CAP_SYS_RESOURCE, "root is without CAP_SYS_RESOURCE here")
	case "hold a capability in CapInh", "hold a capability in CapAmb":
		return "root has none in this set unless somebody put it there"
	case "open a block device":
		return "in the test's /dev is no disk: those of the machine are not touched"
	case "open /dev/mem for writing":
		return "in the test's /dev is no memory"
	case "mount cgroup", "set the release agent":
		if firstHierarchy() == "" {
			return "the machine has no control groups of version 1"
		}
	case "see another root through process 1":
		return "nobody's root is another's; TestLeakedDirectory and the runtimes' own tests change it"
	case "find a mount that was led elsewhere by a link", "find a mount point that is reached by a link", "find a device that is something else":
		return "nothing is planted here; TestPlantedShapes does"
	case "leave by an open directory or the working directory":
		return "nothing is left open here; TestLeakedDirectory does"
	case "set the release agent from a new user namespace":
		return "the kernel has the fix: " + a.Detail
	}
	return ""
}

// The kit finds things: as root without confinement it reaches all that can be reached, and is gone without a trace.
func TestUnconfined(t *testing.T) {
	r, rest := report(t, onStage(t, "unconfined"))
	if rest != "" {
		t.Error("the kit left something behind: ", rest)
	}
	seen := map[string]bool{}
	for _, a := range r.Attempts {
		switch why := notHere(a); {
		case seen[a.Name]:
			t.Errorf("%q is there twice", a.Name)
		case a.Untried && a.Detail == notWithout && mayLoadModules():
			t.Logf("not to be had here: %s: %s", a.Name, a.Detail)
		case a.Untried:
			t.Errorf("%q was not tried: %s", a.Name, a.Detail)
		case a.Detail == "":
			t.Errorf("%q says nothing", a.Name)
		case !a.Reached && why == "":
			t.Errorf("%q was refused without confinement: %s", a.Name, a.Detail)
		case !a.Reached:
			t.Logf("not to be had here: %s: %s (%s)", a.Name, why, a.Detail)
		}
		seen[a.Name] = true
	}
	for _, x := range tries() {
		if !seen[x.name] {
			t.Errorf("%q is not in the report", x.name)
		}
	}
	for _, family := range []string{"UNIX", "INET", "INET6", "PACKET", "NETLINK_ROUTE", "NETLINK_KOBJECT_UEVENT"} {
		if !slices.Contains(r.Families, family) {
			t.Errorf("no socket of %s was made: %v", family, r.Families)
		}
	}
	if r.Syscalls == nil || r.Syscalls.Reachable != len(r.Syscalls.Names) || r.Syscalls.Reachable < 300 {
		t.Errorf("system calls: %+v", r.Syscalls)
	}
	if len(r.Writable) != maxWritable {
		t.Errorf("%d files of /proc and /sys can be opened for writing", len(r.Writable))
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("%d attempts, %d system calls, families %v, facts %v", len(r.Attempts), r.Syscalls.Reachable, r.Families, r.Facts)
	}
}

func TestAtHost(t *testing.T) {
	for _, n := range namespaces() {
		if n.kind == "time" || n.kind == "mnt" || n.kind == "net" {
			continue
		}
		want := fmt.Sprintf("%s:[%d]", n.kind, n.first)
		if got := readlink("self", n.kind); (got == want) != atHost(n.kind) {
			t.Errorf("%s: %s, and atHost says %t", n.kind, got, atHost(n.kind))
		}
		if got := readlink("self", n.kind); got != want {
			t.Logf("the test itself is not in the host's %s namespace: %s", n.kind, got)
		}
	}
}

// Without rights nearly nothing succeeds. (The real instance is tried by e2e.)
func TestAsNobody(t *testing.T) {
	r, _ := report(t, onStage(t, "nobody"))
	for _, a := range r.Attempts {
		for _, prefix := range []string{"mount ", "bind mount", "fs", "pivot_root", "chroot", "raw ", "packet", "mknod", "reboot", "swap", "acct", "set",
			"be root", "hold a capability", "write to the root", "write beside", "gain privileges", "enter the namespaces", "adjtimex", "clock_", "init_module"} {
			own := strings.Contains(a.Name, "new user namespace") || a.Name == "hold a capability in CapBnd" || a.Shape != ""
			if strings.HasPrefix(a.Name, prefix) && a.Reached && !own {
				t.Errorf("%q was reached by nobody: %s", a.Name, a.Detail)
			}
		}
		if a.Untried {
			t.Errorf("%q was not tried: %s", a.Name, a.Detail)
		}
	}
}

// A directory that was left open, or a working directory outside, is found after the root was changed.
func TestLeakedDirectory(t *testing.T) {
	for how, want := range map[string]string{"open": "true ", "closed": "false "} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "proc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if out := onStage(t, "leak", how, dir); !strings.HasPrefix(string(out), want) {
			t.Errorf("%s: %s", how, out)
		}
	}
}

func TestPlantedShapes(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "good/dev/pts"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "bad/dev"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "real"), 0o755))
	must(os.Symlink("/tmp", filepath.Join(dir, "bad/proc")))
	must(os.Symlink("../real", filepath.Join(dir, "bad/dev/shm")))
	must(os.Symlink("/proc/sysrq-trigger", filepath.Join(dir, "bad/dev/null")))
	must(os.WriteFile(filepath.Join(dir, "good/dev/file"), nil, 0o600))

	if o := divertedMount(filepath.Join(dir, "bad")); !o.Reached {
		t.Error("a link in the place of /proc: ", o.Detail)
	}
	if o := divertedMount("/"); o.Reached {
		t.Error("here: ", o.Detail)
	}
	if o := linkedMount([]mountpoint{{path: filepath.Join(dir, "bad/dev/shm")}}); !o.Reached {
		t.Error("a mount point behind a link: ", o.Detail)
	}
	if o := linkedMount([]mountpoint{{path: filepath.Join(dir, "good/dev/pts")}, {path: "/"}}); o.Reached {
		t.Error("no link: ", o.Detail)
	}
	if o := falseDevice(filepath.Join(dir, "bad/dev")); !o.Reached {
		t.Error("a link in the place of /dev/null: ", o.Detail)
	}
	must(os.Rename(filepath.Join(dir, "good/dev/file"), filepath.Join(dir, "good/dev/zero")))
	if o := falseDevice(filepath.Join(dir, "good/dev")); !o.Reached {
		t.Error("a file in the place of /dev/zero: ", o.Detail)
	}
	if o := falseDevice("/dev"); o.Reached {
		t.Error("here: ", o.Detail)
	}
}
