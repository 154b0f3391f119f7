package install

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"golang.org/x/sys/unix"
)

// Remove takes an installation off the machine: its processes, mounts, loop devices, network namespace, control groups,
// rules, its folder, and last its ids, so that nobody is given ids that something of ours still runs under. It refuses while a
// supervisor lives. It can be called again after a failure.
func Remove(ctx context.Context, inst *Installation) error {
	if err := errors.Join(checkRoot(inst.Root), inst.valid()); err != nil {
		return err
	}
	unlock, err := inst.lockOut()
	if err != nil {
		return err
	}
	defer unlock()
	for _, step := range []func(context.Context) error{
		inst.killAll, inst.unmountAll, inst.freeLoops, inst.removeNamespace, inst.removeRules, inst.removeCgroups,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(inst.Root); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return inst.register().release(inst.account(), inst.IDs)
}

// lockOut takes the supervisor's lock, so that none starts meanwhile.
func (i *Installation) lockOut() (func(), error) {
	f, err := os.OpenFile(i.LockFile(), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if os.IsNotExist(err) {
		return func() {}, nil // no run directory: an earlier Remove came this far
	}
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The installation at %s is running.", i.Root),
			"Stop it first with: bulwark down --root "+i.Root, err)
	}
	return func() { f.Close() }, nil
}

// killAll ends every process of the installation and waits until all are gone. It repeats, because one may have
// started another meanwhile.
func (i *Installation) killAll(ctx context.Context) error {
	byID := i.Etc == "" && i.register().holds(i.account(), i.IDs)
	for {
		fds, err := i.processes(byID)
		if err != nil {
			return err
		}
		if len(fds) == 0 {
			return nil
		}
		for _, fd := range fds {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // gone already: fine
		}
		err = waitGone(ctx, fds)
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err != nil {
			return bulwark.Fail(bulwark.KindBusy, "A process of the installation does not end.",
				"See with ps which processes hang in the state D, then try again.", err)
		}
	}
}

// processes returns a pidfd for each process of the installation. The pidfd is taken before the process is looked at,
// so that what was recognised is what will be killed, also if its number is given to another meanwhile.
func (i *Installation) processes(byID bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	grouped := i.grouped()
	var fds []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if i.owns(pid, byID) || grouped[pid] && i.grouped()[pid] {
			fds = append(fds, fd)
		} else {
			unix.Close(fd)
		}
	}
	return fds, nil
}

// owns tells whether pid is a process of the installation: it runs under an id of ours, or it is root's and the
// supervisor started it, or it is a shim of our containerd.
func (i *Installation) owns(pid int, byID bool) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || zombie(dir) {
		return false
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return false
	}
	uid, ok := realUID(status)
	if !ok {
		return false
	}
	ours := i.IDs.Contains(uid)
	if byID && ours {
		return true
	}
	if uid != 0 && !ours {
		return false // anybody can write what is looked at below into a process of his own
	}
	env, _ := os.ReadFile(filepath.Join(dir, "environ"))
	for _, v := range bytes.Split(env, []byte{0}) {
		if bytes.HasPrefix(v, []byte("NOTIFY_SOCKET="+i.notifyDir()+"/")) {
			return true
		}
	}
	cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	args := strings.Split(string(cmdline), "\x00")
	return strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-") &&
		slices.ContainsFunc(args[1:], func(a string) bool { return strings.HasPrefix(a, i.Root+"/") })
}

func realUID(status []byte) (uint32, bool) {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				uid, err := strconv.ParseUint(string(f[0]), 10, 32)
				return uint32(uid), err == nil
			}
		}
	}
	return 0, false
}

// zombie tells whether nothing but the exit status is left: its parent has to fetch that, we cannot.
func zombie(dir string) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return true
	}
	// The name may hold anything, a ")" too; the state follows the last one (proc(5)).
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	return len(after) > 1 && (after[1] == 'Z' || after[1] == 'X')
}

// waitGone waits for the end of each process.
func waitGone(ctx context.Context, fds []int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, fd := range fds {
		for {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, 100)
			if n > 0 {
				break
			}
			if err != nil && err != unix.EINTR {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// mountsBelow returns the mount points at and below root, the last mounted first.
func mountsBelow(root string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	defer f.Close()
	var found []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 4 {
			// Root has no character that the kernel escapes; what is below it may, and umount needs the plain form.
			if p := unescape(fields[4]); p == root || strings.HasPrefix(p, root+"/") {
				found = append(found, p)
			}
		}
	}
	slices.Reverse(found)
	return found, nil
}

// unescape undoes the octal escapes of mountinfo (proc(5)).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (i *Installation) unmountAll(context.Context) error {
	mounts, err := mountsBelow(i.Root)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m == i.Root {
			return bulwark.Fail(bulwark.KindConflict, i.Root+" is a file system of its own.", "Unmount it and delete it by its own means.", nil)
		}
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("install: cannot unmount %s: %w", m, err)
		}
	}
	// What is still mounted would be emptied by the deletion that follows.
	if left, err := mountsBelow(i.Root); err != nil || len(left) > 0 {
		return errors.Join(err, bulwark.Failf(bulwark.KindBusy, "%d file systems below %s are still mounted.", len(left), i.Root))
	}
	return nil
}

// freeLoops detaches loop devices whose images lie below root.
func (i *Installation) freeLoops(context.Context) error {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(b), i.Root+"/") {
			continue
		}
		dev, err := os.Open("/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file))))
		if err != nil {
			return fmt.Errorf("install: %w", err)
		}
		_, err = unix.IoctlRetInt(int(dev.Fd()), unix.LOOP_CLR_FD)
		dev.Close()
		if err != nil && err != unix.ENXIO {
			return fmt.Errorf("install: cannot free %s: %w", dev.Name(), err)
		}
	}
	return nil
}

func (i *Installation) removeNamespace(context.Context) error {
	path := i.RouterNamespacePath()
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("install: cannot unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}

// removeRules takes the installation's own rules off the host. One that never ran has none, and then nft may be missing.
func (i *Installation) removeRules(ctx context.Context) error {
	nft, err := process.Look("nft", "nftables")
	if err != nil {
		return nil
	}
	t := i.HostTable()
	return process.Run(ctx, process.Cmd{Path: nft, Args: []string{"-f", "-"}, Stdin: strings.NewReader(fmt.Sprintf("table inet %s\ndelete table inet %[1]s\n", t))})
}

// cgroups returns the installation's control groups in each hierarchy.
func (i *Installation) cgroups() []string {
	var all []string
	for _, name := range []string{i.CgroupName(), i.BuildCgroupName(), i.EngineCgroupName(), i.PostureCgroupName()} {
		found, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
		all = append(append(all, found...), "/sys/fs/cgroup/"+name)
	}
	return all
}

// grouped returns the processes in the installation's control groups.
func (i *Installation) grouped() map[int]bool {
	pids := map[int]bool{}
	for _, group := range i.cgroups() {
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // the group went away meanwhile
			}
			b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil {
					pids[pid] = true
				}
			}
			return nil
		})
	}
	return pids
}

// removeCgroups removes the groups from the leaves up. Their files cannot be unlinked, so RemoveAll is of no use.
func (i *Installation) removeCgroups(context.Context) error {
	for _, group := range i.cgroups() {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil && err != unix.ENOENT {
				return fmt.Errorf("install: cannot remove the control group %s: %w", d, err)
			}
		}
	}
	return nil
}
