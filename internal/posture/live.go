package posture

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// live is an instance that runs now, with its processes as the kernel shows them.
type live struct {
	nodeapi.Instance
	pids []int // the first is the one that is process 1 inside, if it is there
}

// instances returns what runs now. An instance is what is in its control group, whatever brought it there.
func (w *World) instances(ctx context.Context) ([]live, error) {
	var all []nodeapi.Instance
	if err := w.Node.Call(ctx, "instances", struct{}{}, &all); err != nil {
		return nil, err
	}
	members, err := cgroupMembers("/" + w.Installation.CgroupName() + "/")
	if err != nil {
		return nil, err
	}
	var out []live
	for _, i := range all {
		if pids := members[string(i.Instance)]; len(pids) > 0 {
			slices.SortFunc(pids, func(a, b int) int { return cmp.Or(cmp.Compare(inner(a), inner(b)), cmp.Compare(a, b)) })
			out = append(out, live{i, pids})
		}
	}
	return out, nil
}

// cgroupMembers returns the processes of all control groups right below a place, by the group's name. It reads /proc and not the
// hierarchies, which are several in version 1.
func cgroupMembers(below string) (map[string][]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, err
	}
	out := map[string][]int{}
	for _, f := range dirs {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			continue
		}
		names := map[string]bool{}
		for line := range strings.Lines(string(b)) {
			if _, rest, ok := strings.Cut(strings.TrimSpace(line), below); ok {
				name, _, _ := strings.Cut(rest, "/")
				names[name] = true
			}
		}
		for n := range names {
			out[n] = append(out[n], pid)
		}
	}
	return out, nil
}

// inner is a process's number in its own namespace, a large one if it is gone. The first process of an instance is our own init.
func inner(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 1 << 30
	}
	f := strings.Fields(statusFields(b)["NSpid"])
	if len(f) == 0 {
		return 1 << 30
	}
	n, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		return 1 << 30
	}
	return n
}

// deviation is a way in which a process is not confined as the specification says.
type deviation struct{ what, detail string }

// namespaces are those of which every instance has its own.
var namespaces = []string{"user", "pid", "mnt", "ipc", "uts", "net", "cgroup"}

// confined compares what the kernel says about a process with what an instance's has to be.
func confined(pid int, ids install.Range, isolation bulwark.Isolation) []deviation {
	var out []deviation
	add := func(what, format string, args ...any) {
		out = append(out, deviation{what, fmt.Sprintf("process %d: ", pid) + fmt.Sprintf(format, args...)})
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil // it ended
	}
	fields := statusFields(status)
	sandbox := isolation == bulwark.IsolationSandbox
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		// A sandbox's own processes have rights in their own user namespace, over nothing of the host's; no code of the app's runs in them.
		if sandbox {
			break
		}
		if strings.Trim(fields[set], "0") != "" || fields[set] == "" {
			add("no capabilities", "%s is %s", set, fields[set])
		}
	}
	if fields["NoNewPrivs"] != "1" {
		add("no new privileges", "NoNewPrivs is %q", fields["NoNewPrivs"])
	}
	if n, _ := strconv.Atoi(fields["Seccomp_filters"]); fields["Seccomp"] != "2" || n < 1 && fields["Seccomp_filters"] != "" {
		add("a filter of system calls", "Seccomp is %q with %q filters", fields["Seccomp"], fields["Seccomp_filters"])
	}
	for _, set := range []string{"Uid", "Gid"} {
		for _, v := range strings.Fields(fields[set]) {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil || !ids.Contains(uint32(n)) {
				add("a user of the installation's range", "%s is %s", set, fields[set])
				break
			}
		}
	}
	for _, v := range strings.Fields(fields["Groups"]) {
		if n, err := strconv.ParseUint(v, 10, 32); err != nil || !ids.Contains(uint32(n)) {
			add("no group of the host's", "Groups is %s", fields["Groups"])
		}
	}
	if d := coreless(pid, false); d != nil {
		out = append(out, *d)
	}
	for _, ns := range namespaces {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		ours, oerr := os.Readlink("/proc/thread-self/ns/" + ns)
		if sandbox && ns == "cgroup" {
			continue // the app sees the one that the sandbox shows it
		}
		if err == nil && (oerr != nil || theirs == ours) {
			add("a "+ns+" namespace of its own", "it is in the host's, %s", theirs)
		}
	}
	if sandbox { // what the app sees of files is the sandbox's affair: the kit looks from inside
		return out
	}
	return append(out, mountsOf(pid)...)
}

// coreless tells how a process could leave a core, which holds all that it knows; nil if it cannot. An app may give itself another limit that
// is no higher; exact is for who does not.
func coreless(pid int, exact bool) *deviation {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return nil // it ended
	}
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, "Max core file size ")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		// Of 1 alone the kernel makes no pipe either; an app's process may have lowered it further.
		if len(f) < 2 || f[1] != "1" && (exact || f[1] != "0") || exact && f[0] != "1" {
			return &deviation{"no core, neither a file nor one that is piped to the host's program", fmt.Sprintf("process %d: the limit is %q", pid, strings.TrimSpace(rest))}
		}
		return nil
	}
	return &deviation{"no core, neither a file nor one that is piped to the host's program", fmt.Sprintf("process %d: it has no limit", pid)}
}

func statusFields(b []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			out[name] = strings.TrimSpace(value)
		}
	}
	return out
}

// masked are files and folders that show nothing of the host: each has something else mounted over it, where it exists.
var masked = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/sys/fs/cgroup"}

// harmless are the devices that every instance has, by their names in the host's file system of devices.
var harmless = map[string]bool{"/null": true, "/zero": true, "/full": true, "/random": true, "/urandom": true, "/tty": true}

// ownFileSystems are the writable file systems that an instance may have: memory of its own, or the kernel's own bookkeeping for the namespace.
var ownFileSystems = map[string]bool{"tmpfs": true, "devpts": true, "mqueue": true, "proc": true, "sysfs": true}

// mountsOf looks at a process's mounts. The kernel writes the table; the paths in it are the app's own.
func mountsOf(pid int) []deviation {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	var out []deviation
	add := func(what, detail string) {
		out = append(out, deviation{what, fmt.Sprintf("process %d: %s", pid, detail)})
	}
	root := false
	over := map[string]bool{}
	scan := bufio.NewScanner(bytes.NewReader(b))
	for scan.Scan() {
		left, right, ok := strings.Cut(scan.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 1 {
			continue
		}
		point, options, kind := l[4], strings.Split(l[5], ","), r[0]
		has := func(o string) bool {
			for _, v := range options {
				if v == o {
					return true
				}
			}
			return false
		}
		over[point] = true
		switch {
		case point == "/":
			root = true
			if !has("ro") {
				add("a read-only root", "/ is mounted "+l[5])
			}
		case kind == "devtmpfs" && harmless[l[3]]:
			continue // a device that reads as nothing or as noise; it stands over masked files, too
		case has("rw") && !ownFileSystems[kind]:
			add("nothing of the host's to write to", point+" is a "+kind+" and mounted "+l[5])
		case kind == "proc" && point != "/proc" && has("rw") && !strings.HasPrefix(point, "/proc/"):
			add("no second view of the host's", point+" is a "+kind)
		}
		if point != "/" && !has("nosuid") && !has("ro") {
			add("no set-uid program from a writable place", point+" is mounted "+l[5])
		}
	}
	if !root {
		add("a root of its own", "it has none")
	}
	for _, p := range masked {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root%s", pid, p)); err == nil && !over[p] {
			add("nothing of the host's to read", p+" is not masked")
		}
	}
	return out
}

// uidMap is the range of host ids that a process's user namespace maps, for which no two apps may have any in common.
func uidMap(pid int) (first, count uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	if err != nil {
		return 0, 0, err
	}
	f := strings.Fields(string(b))
	if len(f) != 3 {
		return 0, 0, fmt.Errorf("process %d maps ids in %d parts", pid, len(f)/3)
	}
	if first, err = strconv.ParseUint(f[1], 10, 32); err != nil {
		return 0, 0, err
	}
	count, err = strconv.ParseUint(f[2], 10, 32)
	return first, count, err
}

// limitFiles are where the kernel says what an instance may use at most, in both versions of control groups.
var limitFiles = map[string][]string{
	"memory":    {"memory/%s/memory.limit_in_bytes", "%s/memory.max"},
	"processes": {"pids/%s/pids.max", "%s/pids.max"},
	"computing": {"cpu/%s/cpu.cfs_quota_us", "%s/cpu.max"},
}

var unbounded = regexp.MustCompile(`^(max|-1|9223372036854771712)( |$)`)

// limits says which bounds an instance has not.
func (w *World) limits(id bulwark.InstanceID) []deviation {
	var out []deviation
	for what, files := range limitFiles {
		value := ""
		for _, f := range files {
			if b, err := os.ReadFile("/sys/fs/cgroup/" + fmt.Sprintf(f, w.Installation.CgroupName()+"/"+string(id))); err == nil {
				value = strings.TrimSpace(string(b))
			}
		}
		if value == "" || unbounded.MatchString(value) {
			out = append(out, deviation{"a bound on " + what, fmt.Sprintf("instance %s has %q", id, value)})
		}
	}
	return out
}
