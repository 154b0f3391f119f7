package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountTries are about the file system's shape: who may mount takes away the masks, or brings in a view of his own. Each
// works in a mount namespace of its own; where that is refused it is tried in place, and undone.
func mountTries() []try {
	mount := func(kind, options string) func(*scene) outcome {
		return func(*scene) outcome {
			return inOwnMounts(func(dir string) outcome {
				return undo(unix.Mount("kit", dir, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options), dir)
			})
		}
	}
	return []try{
		{name: "mount tmpfs", run: mount("tmpfs", "size=4k")},
		{name: "mount proc", run: mount("proc", "")},
		{name: "mount sysfs", run: mount("sysfs", "")},
		{name: "mount cgroup", run: func(s *scene) outcome {
			// One that there is: a new one, or a controller taken from version 2, would change the host.
			have := firstHierarchy()
			if have == "" {
				return refused("the kernel has no hierarchy of version 1 in use")
			}
			return mount("cgroup", have)(s)
		}},
		{name: "mount cgroup2", run: mount("cgroup2", "")},
		{name: "mount devpts", run: mount("devpts", "newinstance")},
		{name: "mount mqueue", run: mount("mqueue", "")},
		// What only root of the host's own user namespace may mount.
		{name: "mount debugfs", run: mount("debugfs", "")},
		{name: "mount overlay", run: unlessLoading("overlay", func(*scene) outcome {
			return inOwnMounts(func(dir string) outcome {
				return undo(unix.Mount("kit", dir, "overlay", 0, "lowerdir=/etc:/usr"), dir)
			})
		})},
		{name: "bind mount", run: func(*scene) outcome {
			return inOwnMounts(func(dir string) outcome { return undo(unix.Mount("/proc", dir, "", unix.MS_BIND, ""), dir) })
		}},
		{name: "make the root file system writable", run: func(*scene) outcome {
			return inOwnMounts(func(string) outcome {
				var st unix.Statfs_t
				if err := unix.Statfs("/", &st); err != nil {
					return untried("%v", err)
				}
				err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "")
				if err == nil && st.Flags&unix.ST_RDONLY != 0 {
					_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
				}
				return did(err)
			})
		}},
		// The mount of /proc's masks is taken off; a detached umount of a path that is no mount tells the right as well.
		{name: "umount", run: func(*scene) outcome { return past(unix.Unmount("/", unix.MNT_EXPIRE|unix.MNT_FORCE), unix.EINVAL) }},
		{name: "mount in a new user namespace", run: func(s *scene) outcome { return s.again(mountIn, newUser(unix.CLONE_NEWNS)) }},
		{name: "fsopen", run: func(*scene) outcome { return did(fsopen()) }},
		{name: "fspick", run: func(*scene) outcome {
			fd, err := unix.Fspick(unix.AT_FDCWD, "/", unix.FSPICK_CLOEXEC)
			return closed(fd, err)
		}},
		{name: "fsmount", run: func(*scene) outcome {
			fd, err := unix.Fsmount(-1, unix.FSMOUNT_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return past(err, unix.EBADF)
		}},
		{name: "open_tree with a copy of the mounts", run: func(*scene) outcome {
			fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			return closed(fd, err)
		}},
		{name: "move_mount", run: func(*scene) outcome {
			return past(unix.MoveMount(-1, "", -1, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH), unix.EBADF)
		}},
		{name: "mount_setattr", run: func(*scene) outcome {
			// An attribute that is none: the right is looked at when attributes are taken in, before it is.
			return past(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOATIME}), unix.EINVAL, unix.EBADF)
		}},
		{name: "pivot_root", run: func(*scene) outcome {
			return past(unix.PivotRoot("/bulwark-kit-none", "/bulwark-kit-none"), unix.ENOENT)
		}},
		{name: "chroot", run: func(*scene) outcome { return did(unix.Chroot("/")) }},
	}
}

// inOwnMounts runs f with an empty directory, in mounts of its own if they can be had.
func inOwnMounts(f func(dir string) outcome) outcome {
	where := "in place"
	if unix.Unshare(unix.CLONE_NEWNS) == nil {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return untried("own mounts, which would still reach the others': %v", err)
		}
		where = "in mounts of its own"
	}
	dir, err := os.MkdirTemp("/tmp", "bulwark-kit-")
	if err != nil {
		// Nothing can be written here. Any directory does for a call that is refused, and it is only mounted over.
		return f("/proc/self")
	}
	defer os.Remove(dir)
	out := f(dir)
	out.Detail += ", " + where
	return out
}

// undo takes a mount away again.
func undo(err error, dir string) outcome {
	if err == nil {
		if e := unix.Unmount(dir, unix.MNT_DETACH); e != nil {
			return reached("done; and it cannot be undone: %v", e)
		}
	}
	return did(err)
}

// firstHierarchy returns the mount option of a control group hierarchy of version 1, or nothing.
func firstHierarchy() string {
	b, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.SplitSeq(string(b), "\n") {
		// 4:memory:/path; version 2 has no name, and a named one has no controller.
		if f := strings.SplitN(line, ":", 3); len(f) == 3 && f[1] != "" && !strings.HasPrefix(f[1], "name=") {
			return f[1]
		}
	}
	return ""
}

// mountHere is what root of a new user namespace tries in its own mounts.
func mountHere(*scene) outcome {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return refused("%v", err)
	}
	return undo(unix.Mount("kit", "/proc", "tmpfs", 0, "size=4k"), "/proc")
}

func fsopen() error {
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// closed is the outcome of a call that gives a descriptor.
func closed(fd int, err error) outcome {
	if err == nil {
		unix.Close(fd)
	}
	return did(err)
}

// mountpoint is a line of /proc/self/mountinfo.
type mountpoint struct {
	path, root, kind string
	options          []string
}

func mountpoints() []mountpoint {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []mountpoint
	for line := range strings.SplitSeq(string(b), "\n") {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 1 {
			continue
		}
		out = append(out, mountpoint{path: filepath.Clean(unescape.Replace(l[4])), root: l[3], kind: r[0], options: strings.Split(l[5], ",")})
	}
	return out
}

func (m mountpoint) String() string {
	return fmt.Sprintf("%s (%s,%s)", m.path, m.kind, strings.Join(m.options, ","))
}
