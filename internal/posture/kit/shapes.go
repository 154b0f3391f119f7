package kit

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shapeTries replay published escapes as far as they can be seen from inside. The races among them are run while the
// runtime sets an instance up; what is looked at here is what they leave behind when they are won.
func shapeTries() []try {
	return []try{
		// The runtime's own program, overwritten through a link of /proc, runs as root at the next start. Writing to a program
		// that runs is refused as busy; that answer is given only to those who may write to it.
		{name: "overwrite a running program through /proc/PID/exe", shape: "CVE-2019-5736", run: func(*scene) outcome {
			for _, p := range processes() {
				err := openOnly(pidFile(p.pid, "exe"), unix.O_WRONLY)
				if err == nil || errors.Is(err, unix.ETXTBSY) {
					return reached("process %d (%s): its file may be written", p.pid, p.name)
				}
			}
			return refused("no program can be opened for writing")
		}},
		// A symbolic link in the place of a mount's target leads the runtime's mount elsewhere.
		{name: "find a mount that was led elsewhere by a link", shape: "CVE-2021-30465", run: func(*scene) outcome { return divertedMount("/") }},
		// Directories that the runtime makes for mounts, with a volume's links in their way, are made on the host. What it made
		// is outside; inside, the mount point is then not where the path says.
		{name: "find a mount point that is reached by a link", shape: "CVE-2024-45310", run: func(*scene) outcome { return linkedMount(mountpoints()) }},
		// A descriptor of a directory of the host's, left open or made the working directory by the runtime, is a way out.
		{name: "leave by an open directory or the working directory", shape: "CVE-2024-21626", run: leakedDirectory},
		// With /dev/null replaced by a link, what should be masked is not.
		{name: "find a masked path that is not", shape: "CVE-2025-31133", run: func(*scene) outcome { return unmasked() }},
		// With a link in the place of the console's target, a file of /proc is mounted there, or the console over a mask.
		{name: "find a device that is something else", shape: "CVE-2025-52565", run: func(*scene) outcome { return falseDevice("/dev") }},
		// Writes of the runtime to /proc that are led to another file of it: with /proc real and read-only where it matters,
		// there is none that pays.
		{name: "write where /proc is to be read-only", shape: "CVE-2025-52881", run: writableProc},
		// The shim's socket was abstract, so whoever shared the host's network could have it start anything.
		{name: "connect to the shim's abstract socket", shape: "CVE-2020-15257", run: shimSocket},
		// The program that the kernel runs as root when a control group empties can be set by whoever mounts the hierarchy.
		{name: "set the release agent", shape: "CVE-2022-0492", run: releaseAgentHere},
		{name: "set the release agent from a new user namespace", shape: "CVE-2022-0492", run: func(s *scene) outcome {
			return s.again(agentIn, newUser(unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP))
		}},
		// Rights over a new user namespace lead to code that trusted root: the mount interface, the packet filter.
		{name: "fsopen from a new user namespace", shape: "CVE-2022-0185", run: func(s *scene) outcome { return s.again(fsopenIn, newUser(unix.CLONE_NEWNS)) }},
		{name: "packet filter from a new user namespace", shape: "CVE-2024-1086", run: unlessLoading("nfnetlink", func(s *scene) outcome {
			return s.again(tablesIn, newUser(unix.CLONE_NEWNET))
		})},
	}
}

// divertedMount looks whether the kernel's file systems are where an instance has them, and are what they should be.
func divertedMount(root string) outcome {
	for path, magic := range map[string]int64{"proc": unix.PROC_SUPER_MAGIC, "sys": unix.SYSFS_MAGIC, "dev/pts": unix.DEVPTS_SUPER_MAGIC} {
		full := filepath.Join(root, path)
		i, err := os.Lstat(full)
		if err != nil {
			continue // what is not there was not led elsewhere
		}
		var st unix.Statfs_t
		if i.Mode()&fs.ModeSymlink != 0 {
			return reached("%s is a link", full)
		}
		if err := unix.Statfs(full, &st); err == nil && int64(st.Type) != magic { //nolint:unconvert // other processors have another type
			return reached("%s is of the file system %x, not %x", full, st.Type, magic)
		}
	}
	for _, path := range []string{"dev", "dev/shm", "dev/mqueue"} {
		if i, err := os.Lstat(filepath.Join(root, path)); err == nil && i.Mode()&fs.ModeSymlink != 0 {
			return reached("%s is a link", filepath.Join(root, path))
		}
	}
	return refused("/proc, /sys and /dev are what they should be")
}

// linkedMount looks for links on the way to a mount point. The kernel names a mount by where it is, so a link there was
// put in its place afterwards, or the path leads elsewhere.
func linkedMount(all []mountpoint) outcome {
	for _, m := range all {
		for p := m.path; p != "/" && p != "."; p = filepath.Dir(p) {
			if i, err := os.Lstat(p); err == nil && i.Mode()&fs.ModeSymlink != 0 {
				return reached("%s, on the way to the mount %s", p, m.path)
			}
		}
	}
	return refused("none of %d", len(all))
}

// leakedDirectory climbs from every directory that some process of this instance has open.
func leakedDirectory(*scene) outcome {
	looked := 0
	for _, p := range processes() {
		links, _ := filepath.Glob(pidFile(p.pid, "fd/*"))
		for _, l := range append(links, pidFile(p.pid, "cwd")) {
			fd, err := unix.Open(l, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				continue // not a directory, or not for us
			}
			looked++
			err = climb(fd)
			unix.Close(fd)
			if err != nil {
				return reached("%s: %v", l, err)
			}
		}
	}
	return refused("%d directories lead to the own root", looked)
}

// climb follows ".." to the end, and says if that is not the own root.
func climb(fd int) error {
	at, err := unix.Openat(fd, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil //nolint:nilerr // whoever cannot go there cannot leave by it
	}
	defer func() { unix.Close(at) }()
	var here, up, own unix.Stat_t
	if err := unix.Stat("/", &own); err != nil {
		return nil //nolint:nilerr // nothing to compare with
	}
	for range 256 {
		if unix.Fstat(at, &here) != nil {
			return nil
		}
		if here.Dev == own.Dev && here.Ino == own.Ino {
			return nil
		}
		next, err := unix.Openat(at, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil //nolint:nilerr // the way ends before any other root
		}
		unix.Close(at)
		at = next
		if unix.Fstat(at, &up) != nil {
			return nil
		}
		if up.Dev == here.Dev && up.Ino == here.Ino {
			return fmt.Errorf("its way up ends at another root (%d on %d:%d)", up.Ino, unix.Major(up.Dev), unix.Minor(up.Dev))
		}
	}
	return nil
}

// unmasked looks whether what is masked with /dev/null is really that device, and whether nothing that is to be masked
// says something.
func unmasked() outcome {
	n := 0
	for _, path := range append(masked(), "/proc/kallsyms") {
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			n++
			continue
		}
		if out := readAny(path); out.Reached {
			return reached("%s: %s", path, out.Detail)
		}
		n++
	}
	return refused("%d are there, and say nothing", n)
}

// falseDevice looks whether the standard devices are those, and no links to something else.
func falseDevice(dir string) outcome {
	for name, want := range map[string]uint64{"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7), "random": unix.Mkdev(1, 8),
		"urandom": unix.Mkdev(1, 9), "tty": unix.Mkdev(5, 0), "ptmx": unix.Mkdev(5, 2), "console": 0} {
		path := filepath.Join(dir, name)
		if l, err := os.Readlink(path); err == nil {
			if name != "ptmx" || filepath.Clean(l) != "pts/ptmx" {
				return reached("%s is a link to %s", path, l)
			}
			path = filepath.Join(dir, "pts/ptmx")
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue
		}
		// The console is a terminal of the instance's own (136 to 143), or the machine's where the kit is not confined.
		terminal := unix.Major(st.Rdev) >= 136 && unix.Major(st.Rdev) <= 143 || st.Rdev == unix.Mkdev(5, 1)
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || name == "console" && !terminal || name != "console" && st.Rdev != want {
			return reached("%s is not the device that it should be: mode %o, number %d:%d", path, st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
	}
	return refused("each is what its name says")
}

func writableProc(*scene) outcome {
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/self/attr", &st); err == nil && int64(st.Type) != unix.PROC_SUPER_MAGIC { //nolint:unconvert // as above
		return reached("/proc is not the kernel's: %x", st.Type)
	}
	for _, path := range []string{"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/bus", "/proc/fs", "/proc/irq"} {
		flags := unix.O_WRONLY
		if i, err := os.Stat(path); err == nil && i.IsDir() {
			if unix.Statfs(path, &st) == nil && st.Flags&unix.ST_RDONLY == 0 && unix.Access(path, unix.W_OK) == nil {
				return reached("%s is writable", path)
			}
			continue
		}
		if openOnly(path, flags) == nil {
			return reached("%s is writable", path)
		}
	}
	return refused("/proc is the kernel's, and is read-only where it matters")
}

func shimSocket(*scene) outcome {
	for _, name := range abstractSockets() {
		if !strings.Contains(name, "containerd-shim") {
			continue // to others nothing is said
		}
		c, err := net.DialTimeout("unix", name, time.Second)
		if err == nil {
			c.Close()
			return reached("%s", name)
		}
	}
	return refused("there is none")
}

// releaseAgentHere mounts a hierarchy that there is, and writes to its release_agent what it holds already. Since the fix
// that takes rights over the host.
func releaseAgentHere(*scene) outcome {
	have := firstHierarchy()
	if have == "" {
		return refused("the kernel has no hierarchy of version 1 in use")
	}
	return inOwnMounts(func(dir string) outcome {
		if err := unix.Mount("kit", dir, "cgroup", 0, have); err != nil {
			return refused("%v", err)
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		path := filepath.Join(dir, "release_agent")
		b, err := os.ReadFile(path)
		if err != nil {
			return refused("%v", err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return refused("%v", err)
		}
		defer f.Close()
		_, err = f.Write(append([]byte(strings.TrimSpace(string(b))), '\n'))
		var no syscall.Errno
		if errors.As(err, &no) {
			return refused("%s: %v", strconv.Quote(have), no)
		}
		return did(err)
	})
}
