package kit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fileTries are about what can be made and written.
func fileTries() []try {
	out := []try{
		// An image that can be changed while it runs is not the one that was signed.
		{name: "write to the root file system", run: func(*scene) outcome { return did(makeFile("/")) }},
		{name: "write beside the system's programs", run: func(*scene) outcome { return did(makeFile("/usr/bin")) }},
		// What was brought in and stored is run.
		{name: "execute a file written to /tmp", run: executeWritten},
		{name: "set-user-id on a writable mount", run: writableWithout("nosuid")},
		{name: "devices on a writable mount", run: writableWithout("nodev")},
		{name: "mknod a block device", run: func(*scene) outcome { return makeNode(unix.S_IFBLK, 1, 0) }},
		// Of memory: not opened, and gone at once.
		{name: "mknod a character device", run: func(*scene) outcome { return makeNode(unix.S_IFCHR, 1, 1) }},
		{name: "open a block device", run: openBlockDevice},
		{name: "find a device that no instance needs", run: strangeDevice},
	}
	// Each of these, written, runs code or changes limits for the whole machine.
	for _, path := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/kernel/ns_last_pid",
		"/proc/sys/kernel/randomize_va_space", "/proc/sys/vm/drop_caches", "/proc/sys/vm/overcommit_memory",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/rp_filter", "/proc/sys/user/max_user_namespaces", "/proc/sysrq-trigger",
		"/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state",
		"/dev/mem", "/dev/kmsg"} {
		out = append(out, try{name: "open " + path + " for writing", run: func(*scene) outcome { return did(openOnly(path, unix.O_WRONLY)) }})
	}
	return out
}

// makeFile makes a file without a name, which is gone when it is closed; where there are none, one with a name.
func makeFile(dir string) error {
	err := openOnly(dir, unix.O_TMPFILE|unix.O_WRONLY)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return err
	}
	path := filepath.Join(dir, fmt.Sprintf(".bulwark-kit-%d", os.Getpid()))
	if err := openOnly(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY); err != nil {
		return err
	}
	return os.Remove(path)
}

func executeWritten(s *scene) outcome {
	f, err := os.CreateTemp("/tmp", "bulwark-kit-")
	if err != nil {
		return refused("%v", err)
	}
	defer os.Remove(f.Name())
	self, err := os.Open(s.exe)
	if err == nil {
		_, err = io.Copy(f, self)
		self.Close()
	}
	if err = errors.Join(err, f.Chmod(0o700), f.Close()); err != nil {
		return untried("%v", err)
	}
	copied := *s
	copied.exe = f.Name()
	return copied.again(doNothing, &syscall.SysProcAttr{})
}

// writableMounts are those in which a file can be made, or which are files that can be opened for writing.
func writableMounts() []mountpoint {
	var out []mountpoint
	for _, m := range mountpoints() {
		// In these no file can be made; what can be written in them is looked for file by file.
		if slices.Contains([]string{"proc", "sysfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "nsfs"}, m.kind) {
			continue
		}
		i, err := os.Stat(m.path)
		if err == nil && (i.IsDir() && makeFile(m.path) == nil || i.Mode().IsRegular() && openOnly(m.path, unix.O_WRONLY) == nil) {
			out = append(out, m)
		}
	}
	return out
}

func writableWithout(option string) func(*scene) outcome {
	return func(*scene) outcome {
		for _, m := range writableMounts() {
			// The instance's own /dev has nodes, and takes them from nobody: only who may mknod makes one.
			if !slices.Contains(m.options, option) {
				return reached("%v", m)
			}
		}
		return refused("every writable mount is %s", option)
	}
}

func makeNode(kind, major, minor uint32) outcome {
	var last error
	for _, dir := range []string{"/dev", "/dev/shm", "/tmp", "/"} {
		path := filepath.Join(dir, fmt.Sprintf(".bulwark-kit-%d", os.Getpid()))
		if last = unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor))); last == nil {
			return did(os.Remove(path))
		}
	}
	return did(last)
}

// openBlockDevice opens, without reading, the first block device that lets itself be opened.
func openBlockDevice(*scene) outcome {
	found := 0
	var open string
	_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeDevice != 0 && d.Type()&fs.ModeCharDevice == 0 {
			found++
			if openOnly(path, unix.O_RDONLY) == nil {
				open = path
				return fs.SkipAll
			}
		}
		return nil
	})
	if open != "" {
		return reached("%s", open)
	}
	return refused("none of %d in /dev", found)
}

// strangeDevice looks for nodes of /dev beside those that the runtime specification asks for. Their mere presence counts:
// some do things when they are opened.
func strangeDevice(*scene) outcome {
	var strange []string
	usual := []string{"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts/ptmx"}
	_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, "/dev/")
		if err == nil && d.Type()&fs.ModeDevice != 0 && !slices.Contains(usual, name) && filepath.Dir(name) != "pts" {
			strange = append(strange, path)
		}
		return nil
	})
	if len(strange) > 0 {
		return reached("%d: %s", len(strange), strings.Join(strange[:min(8, len(strange))], " "))
	}
	return refused("only %s", strings.Join(usual, ", "))
}

// Bounds of the walk for writable files.
const (
	maxWalk     = 200_000
	maxWritable = 200
	walkTime    = 20 * time.Second
)

// writable walks directories of /proc and /sys for files that can be opened for writing. Nothing is written. Directories of processes are
// left out: what a process may write of its own is its own affair (comm, coredump_filter, clear_refs, timerslack_ns, mem,
// loginuid), and the few that are not have attempts of their own: oom_score_adj, the maps of a new user namespace, the
// namespaces' offsets of time. The security label (attr) is nobody's where no module has labels.
func writable(f map[string]string, tops ...string) []string {
	var out []string
	n, began := 0, time.Now()
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if n++; n > maxWalk || time.Since(began) > walkTime {
				f["walk"] = "cut short"
				return fs.SkipAll
			}
			base := filepath.Base(path)
			switch {
			case err != nil:
				return nil //nolint:nilerr // what cannot be listed is looked at by no walk
			case d.IsDir() && filepath.Dir(path) == "/proc" && base[0] >= '1' && base[0] <= '9':
				return fs.SkipDir
			case path == "/proc/sys/fs/binfmt_misc":
				return fs.SkipDir // looking into it has systemd mount it
			case !d.Type().IsRegular() || unix.Access(path, unix.W_OK) != nil:
				return nil
			}
			// A mask is another file in its place, which the directory does not tell.
			if i, err := os.Lstat(path); err != nil || !i.Mode().IsRegular() {
				return nil //nolint:nilerr // it is gone, or is not what was looked for
			}
			// In debugfs, tracefs and securityfs opening alone may do something. The access check tells who may write there.
			care := strings.HasPrefix(path, "/sys/kernel/debug/") || strings.HasPrefix(path, "/sys/kernel/tracing/") || strings.HasPrefix(path, "/sys/kernel/security/")
			if care || openOnly(path, unix.O_WRONLY) == nil {
				out = append(out, path)
			}
			return nil
		})
	}
	f["writable"] = fmt.Sprint(len(out))
	var mounts []string
	for _, m := range writableMounts() {
		mounts = append(mounts, m.String())
	}
	f["writable_mounts"] = strings.Join(mounts, " ")
	return out[:min(len(out), maxWritable)]
}

func writableAttempt(paths []string, f map[string]string) Attempt {
	a := Attempt{Name: "write a file of /proc or /sys", Detail: "none of them can be opened for writing"}
	if len(paths) > 0 {
		a.Reached, a.Detail = true, f["writable"]+", such as "+paths[0]
	} else if f["walk"] != "" {
		a.Untried, a.Detail = true, "there are too many to look at each"
	}
	return a
}
