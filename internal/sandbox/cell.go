package sandbox

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Cell is what is left to a program that reads a stranger's bytes and cannot lock itself in, since it is not ours or
// because it is to be locked in before its first instruction. Control groups, namespaces and the user are the starter's.
type Cell struct {
	Read  []string `json:"read,omitempty"`  // files and folders that may be read
	Write []string `json:"write,omitempty"` // folders below which files may be made, written, renamed and removed
	File  uint64   `json:"file"`            // most bytes of one file
	CPU   uint64   `json:"cpu"`             // most seconds of computing
}

// openFiles is how many descriptors a program in a cell may have.
const openFiles = 256

// Confine locks the process into the cell, in which nothing can be executed but the program at path, an absolute one. The
// caller becomes that program at once.
func Confine(c Cell, path string) error {
	if err := c.limit(); err != nil {
		return err
	}
	if err := NoNewPrivileges(); err != nil {
		return err
	}
	if err := KeepCapabilities(); err != nil {
		return err
	}
	if err := c.files(path); err != nil {
		return err
	}
	prog, err := compile(Confined(), Allow)
	if err != nil {
		return err
	}
	// A file that is made must be readable by the starter, whatever its own umask is; the folder around it is closed.
	unix.Umask(0o022)
	return load(prog)
}

func (c Cell) limit() error {
	for what, n := range map[int]uint64{unix.RLIMIT_FSIZE: c.File, unix.RLIMIT_CPU: c.CPU, unix.RLIMIT_CORE: CoreLimit, unix.RLIMIT_NOFILE: openFiles,
		unix.RLIMIT_MEMLOCK: 0, unix.RLIMIT_MSGQUEUE: 0} {
		l := unix.Rlimit{Cur: n, Max: n}
		if what == unix.RLIMIT_CPU {
			l.Max++ // SIGXCPU first, which tells why; SIGKILL for who does not listen
		}
		// syscall's function, not unix's: Go restores the number of open files that it raised itself unless it was told.
		if err := syscall.Setrlimit(what, &syscall.Rlimit{Cur: l.Cur, Max: l.Max}); err != nil {
			return refused("limit itself", err)
		}
	}
	return nil
}

// files has Landlock refuse every path but those of the cell, and the program itself with its loader, which are all that
// can be executed.
func (c Cell) files(program string) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return refused("ask the kernel for Landlock", errno)
	}
	attr := ruleset(int(abi), Network{})
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return refused("make a Landlock rule set", errno)
	}
	defer unix.Close(int(fd))
	const look = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	const run = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	// No device, socket or pipe can be made, and nothing be executed, in what may be written.
	write := attr.Handled_access_fs &^ (unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV)
	loader, err := interpreter(program)
	if err != nil {
		return err
	}
	for _, a := range []struct {
		paths  []string
		access uint64
	}{{[]string{program, loader}, run}, {c.Read, look}, {c.Write, write}, {[]string{"/dev/null"}, write}} {
		for _, p := range slices.DeleteFunc(a.paths, func(p string) bool { return p == "" }) {
			if err := open(int(fd), p, a.access); err != nil {
				return fmt.Errorf("sandbox: %s: %w", p, err)
			}
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return refused("enter the Landlock rule set", errno)
	}
	return nil
}

// open adds one path to a rule set; one that is not there needs no rule.
func open(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// interpreter returns the loader that a program names, "" for a static one.
func interpreter(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("sandbox: %s: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, min(p.Filesz, 4096))
			if _, err := p.ReadAt(b, 0); err != nil {
				return "", fmt.Errorf("sandbox: %s: %w", program, err)
			}
			return filepath.EvalSymlinks(strings.TrimRight(string(b), "\x00"))
		}
	}
	return "", nil
}

// Confined is what nobody in a cell needs, for a program whose own calls are not known: what is not named here is allowed.
// There are no sockets, also none to a service of the host by its path, which Landlock does not cover.
func Confined() []Rule {
	spaces := []uint32{unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET}
	rules := all(Refuse, []uintptr{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN})
	for _, s := range spaces {
		rules = append(rules, Rule{Call: unix.SYS_CLONE, When: []Test{{Arg: 0, Mask: s, Value: s}}, Then: Kill})
	}
	rules = append(rules, Rule{Call: unix.SYS_CLONE3, Then: Absent}) // its flags lie behind a pointer; everyone falls back to clone
	for _, r := range Hostile() {
		if r.Call != unix.SYS_EXECVE && len(r.When) == 0 { // Landlock says what can be executed and written
			rules = append(rules, r)
		}
	}
	return append(rules, all(Kill, []uintptr{unix.SYS_SETNS, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_KCMP, unix.SYS_PERSONALITY, unix.SYS_MBIND,
		unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME,
		unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP, unix.SYS_SYSLOG, unix.SYS_FANOTIFY_INIT, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_PIDFD_OPEN,
		unix.SYS_SHMGET, unix.SYS_MSGGET, unix.SYS_SEMGET, unix.SYS_MQ_OPEN})...)
}

// EnterStarting locks in a process that starts programs whose calls are not known, and whose own kind of socket is the unix one: what
// neither it nor they ever need is refused, or ends who tries it. Whoever calls it has no capability any more.
func EnterStarting() error {
	if err := NoNewPrivileges(); err != nil {
		return err
	}
	rules := []Rule{
		{Call: unix.SYS_PIDFD_OPEN, Then: Refuse}, // Go asks for it once, and does without
		{Call: unix.SYS_SOCKET, When: []Test{{Arg: 0, Mask: ^uint32(0), Value: unix.AF_UNIX}}, Then: Allow},
		{Call: unix.SYS_SOCKETPAIR, When: []Test{{Arg: 0, Mask: ^uint32(0), Value: unix.AF_UNIX}}, Then: Allow},
	}
	for _, call := range []uintptr{unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN} {
		rules = append(rules, Rule{Call: call, Then: Allow}) // by what kind of socket is decided above
	}
	prog, err := compile(append(rules, Confined()...), Allow)
	if err != nil {
		return err
	}
	return load(prog)
}
