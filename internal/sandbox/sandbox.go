// Package sandbox takes away from the calling process what it will not need any more: privileges, capabilities, the
// file system and system calls. It promises that each function either holds for every thread of the process when it
// returns, or returns an error; nothing it took can be given back.
//
// Privileges, capabilities and Landlock belong to a thread, so they are set on all of them by Go's own means
// (syscall.AllThreadsSyscall), which needs a binary without cgo; with cgo it refuses.
//
// It runs before the first byte of foreign input is read and has no input of its own. An attacker who owned this code
// at build time could leave a small process as strong as its user; one who owns the process afterwards finds the
// kernel, not this package, in the way.
package sandbox

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// Policy says what is left to the process.
type Policy struct {
	// Capabilities that stay permitted and effective; all others go, from the bounding set too where that is allowed.
	Capabilities []int
	// Network says which TCP verbs Landlock leaves alone.
	Network Network
	// Read names the files and directories that Landlock leaves for reading. What does not exist is left out.
	Read []string
	// Rules are the system calls, see [Load]. They come after [Hostile] and before [Runtime].
	Rules []Rule
}

// Network is what Landlock leaves of TCP.
type Network struct {
	Connect bool
	Bind    bool
}

// Enter applies p to the whole process: no new privileges, then capabilities, then Landlock with no file but
// those of p.Read, then the seccomp filter. The order matters: each step still needs the calls that the next one forbids.
func Enter(p Policy) error {
	if err := NoNewPrivileges(); err != nil {
		return err
	}
	if err := KeepCapabilities(p.Capabilities...); err != nil {
		return err
	}
	if err := Files(p.Network, p.Read...); err != nil {
		return err
	}
	rules := append(Hostile(), p.Rules...)
	return Load(append(rules, Runtime()...))
}

// EnterConnecting is Enter for a process that opens connections of its own and looks up names as the host does: no
// capability, no file but those that say how the host is connected, and of sockets those of Connecting; more are further calls.
func EnterConnecting(more ...Rule) error {
	// Go finds out once which families the host has, by sockets and names that are refused later.
	if l, err := net.ListenPacket("udp", ":0"); err == nil {
		l.Close()
	}
	return Enter(Policy{Network: Network{Connect: true}, Read: hostNetwork(), Rules: slices.Concat(more, Connecting(), Serving())})
}

// NoNewPrivileges makes sure that no later execve can gain anything.
func NoNewPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return refused("set no_new_privs", errno)
	}
	return nil
}

// KeepCapabilities drops every capability but those named, which must be there.
func KeepCapabilities(keep ...int) error {
	// The bounding set only matters to a later execve, and dropping from it takes CAP_SETPCAP, which a process that was
	// started with little does not have: that refusal is no loss.
	for c := uintptr(0); c < 64; c++ {
		if contains(keep, int(c)) {
			continue
		}
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); errno != 0 {
			break
		}
	}
	// A kernel without ambient capabilities has none to clear; and what capset takes below, it takes from them too.
	_, _, _ = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	var data [2]unix.CapUserData
	for _, c := range keep {
		data[c/32].Permitted |= 1 << (c % 32)
		data[c/32].Effective |= 1 << (c % 32)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// The pointers stay valid: both variables live to the end of this function.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&data)
	if errno != 0 {
		return refused("drop capabilities", errno)
	}
	return nil
}

// Files has Landlock refuse every path of the file system but for reading what read names, and TCP but for what n leaves.
// Descriptors that are open already stay usable; connecting to a unix socket by its path is not covered by Landlock.
func Files(n Network, read ...string) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return refused("ask the kernel for Landlock", errno)
	}
	attr := ruleset(int(abi), n)
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return refused("make a Landlock rule set", errno)
	}
	defer unix.Close(int(fd))
	for _, path := range read {
		if err := allowRead(fd, path); err != nil {
			return err
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return refused("enter the Landlock rule set", errno)
	}
	return nil
}

// allowRead makes an exception for reading a file, or everything below a directory.
func allowRead(ruleset uintptr, path string) error {
	f, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return refused("open "+path, err)
	}
	defer unix.Close(f)
	var st unix.Stat_t
	if err := unix.Fstat(f, &st); err != nil {
		return refused("look at "+path, err)
	}
	// struct landlock_path_beneath_attr is packed: what Go would add behind it is not looked at.
	rule := struct {
		access uint64
		parent int32
	}{unix.LANDLOCK_ACCESS_FS_READ_FILE, int32(f)}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		rule.access |= unix.LANDLOCK_ACCESS_FS_READ_DIR
	}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	runtime.KeepAlive(&rule)
	if errno != 0 {
		return refused("leave "+path+" readable", errno)
	}
	return nil
}

// ruleset names everything that this version of Landlock can refuse: naming is refusing, but for the exceptions.
func ruleset(abi int, n Network) unix.LandlockRulesetAttr {
	var a unix.LandlockRulesetAttr
	a.Handled_access_fs = 1<<13 - 1 // ABI 1: execute … make_sym
	if abi >= 2 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		if !n.Bind {
			a.Handled_access_net |= unix.LANDLOCK_ACCESS_NET_BIND_TCP
		}
		if !n.Connect {
			a.Handled_access_net |= unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		}
	}
	if abi >= 5 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		// Not the scope for signals: each thread enters a domain of its own, and before Linux 6.15 Go could then not
		// interrupt its own threads. The filter keeps signals inside the process.
		a.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return a
}

func contains(list []int, c int) bool {
	for _, v := range list {
		if v == c {
			return true
		}
	}
	return false
}

func refused(what string, cause error) error {
	hint := "Run it as the supervisor does, on Linux 5.13 or later with Landlock among the boot parameter lsm."
	if errors.Is(cause, unix.EPERM) {
		hint = "A filter that is in force already may forbid it."
	}
	if errors.Is(cause, syscall.ENOTSUP) {
		hint = "Build it with CGO_ENABLED=0: threads that C made cannot be reached."
	}
	return bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The process could not %s, so it does not start.", what), hint, cause)
}
