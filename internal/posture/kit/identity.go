package kit

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// identityTries are about what the process is: its user, its capabilities, what it could become.
func identityTries() []try {
	out := []try{
		// Root here that is root there needs only one hole in the kernel's borders.
		{name: "be a user of the host's", run: func(*scene) outcome {
			for line := range strings.SplitSeq(firstBytes("/proc/self/uid_map"), "\n") {
				if f := strings.Fields(line); len(f) == 3 && f[1] == "0" {
					return reached("user %s here is the host's root", f[0])
				}
			}
			return refused("the host's root is nobody here")
		}},
		{name: "be root", run: func(*scene) outcome {
			if os.Geteuid() == 0 {
				return reached("user 0 of this user namespace")
			}
			return refused("user %d", os.Geteuid())
		}},
		{name: "become root by setuid", run: func(*scene) outcome {
			_, err := call(unix.SYS_SETUID, 0) // of this thread alone
			return did(err)
		}},
		{name: "set groups", run: func(*scene) outcome {
			_, err := call(unix.SYS_SETGROUPS, 0, 0)
			return did(err)
		}},
		// Without it a set-user-id program in an image, or one that a mount brings, is a way up.
		{name: "gain privileges by exec", run: func(*scene) outcome {
			on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
			switch {
			case err != nil:
				return untried("%v", err)
			case on == 0:
				return reached("no_new_privs is off; %s", setuidFiles())
			}
			return refused("no_new_privs is on; %s", setuidFiles())
		}},
		{name: "run without a system call filter", run: func(*scene) outcome {
			if m := status("Seccomp"); m != "2" {
				return reached("mode %q", m)
			}
			return refused("mode 2, %s filters", status("Seccomp_filters"))
		}},
		// Loads code at addresses that are known beforehand.
		{name: "turn address randomization off", run: personality(0x0040000)},
		// Makes data executable for what it starts.
		{name: "turn READ_IMPLIES_EXEC on", run: personality(0x0400000)},
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		out = append(out, try{name: "hold a capability in " + set, run: func(*scene) outcome {
			v, err := strconv.ParseUint(status(set), 16, 64)
			switch {
			case err != nil:
				return untried("%v", err)
			case v == 0:
				return refused("the set is empty")
			}
			return reached("%x", v)
		}})
	}
	return out
}

func personality(p uintptr) func(*scene) outcome {
	return func(*scene) outcome {
		_, err := call(unix.SYS_PERSONALITY, p)
		return did(err)
	}
}

// setuidFiles counts programs that would change who runs them, in the usual places.
func setuidFiles() string {
	n := 0
	for _, dir := range []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local"} {
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // what cannot be looked at is not counted
			}
			if i, err := d.Info(); err == nil && i.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				n++
			}
			return nil
		})
	}
	return strconv.Itoa(n) + " set-user-id or set-group-id programs"
}

// memoryExec reports whether a program can be run from memory, whatever the mounts say. It is a fact and no attempt: who
// runs in an instance may run what he likes, and gains nothing that he has not.
func memoryExec() bool {
	fd, err := unix.MemfdCreate("kit", unix.MFD_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// execveat with a null list of arguments fails only after the file was opened to be executed; of an empty file no
	// process is made.
	empty, err := unix.BytePtrFromString("")
	if err != nil {
		return false
	}
	_, err = call(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(empty)), 0, 0, unix.AT_EMPTY_PATH)
	return err == unix.ENOEXEC
}
