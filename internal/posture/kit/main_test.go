package kit

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kit is tried as it is delivered: a program without the race detector and without cgo, whose copies are as small as
// they will be in an instance. The stages on which it is tried are the test's own program.
const (
	role    = "BULWARK_KIT_ROLE"
	program = "BULWARK_KIT_PROGRAM"
)

func TestMain(m *testing.M) {
	if os.Getenv(role) == "stage" {
		if err := stage(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(withKit(m.Run))
}

func withKit(run func() int) int {
	dir, err := os.MkdirTemp("", "bulwark-kit-program")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // another user starts it too
		panic(err)
	}
	c := exec.Command("go", "build", "-o", dir+"/", "github.com/bulwark-paas/bulwark/cmd/bulwark-kit")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	os.Setenv(program, filepath.Join(dir, "bulwark-kit"))
	return run()
}

// as starts the kit, or the test's own program as a stage.
func as(who string, args ...string) *exec.Cmd {
	c := exec.Command(os.Getenv(program), args...)
	if who == "stage" {
		c = exec.Command("/proc/self/exe", args...)
	}
	c.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, role+"=") }), role+"="+who)
	c.Stderr = os.Stderr
	return c
}

// onStage runs a stage in namespaces that are thrown away, as root of them.
func onStage(t *testing.T, args ...string) []byte {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes namespaces, so it runs as root: make test")
	}
	c := as("stage", args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP}
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
	return out
}

// stage is the first process of the throw-away namespaces.
func stage(args []string) error {
	if err := scenery(); err != nil {
		return fmt.Errorf("the stage: %w", err)
	}
	switch args[0] {
	case "unconfined":
		return unconfinedStage()
	case "leak":
		return leakStage(args[1] == "open", args[2])
	case "filtered":
		return filteredStage(args[1:])
	case "run":
		c := as("kit", args[1:]...)
		c.Stdout = os.Stdout
		return c.Run()
	case "exhaust":
		return exhaustStage(args[1])
	case "nobody":
		c := as("kit", "isolation")
		c.Stdout = os.Stdout
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		runtime.LockOSThread() // it is the thread's, and its children's
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		return c.Run()
	}
	return fmt.Errorf("no stage %q", args[0])
}

// scenery gives the stage a /proc, a /sys and a /dev of its own. In that /dev is no disk of the machine's.
func scenery() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// Nothing that somebody else mounted is held on to meanwhile, nor looked at.
	for _, m := range slices.Backward(mountpoints()) {
		if m.path != "/" && unix.Unmount(m.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
			return fmt.Errorf("%s stays mounted", m.path)
		}
	}
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"cgroup2", "/sys/fs/cgroup"}, {"tmpfs", "/dev"}} {
		options := ""
		if m[0] == "tmpfs" {
			options = "mode=755"
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, options); err != nil {
			return fmt.Errorf("%s: %w", m[1], err)
		}
	}
	for name, n := range map[string]uint64{"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "tty": unix.Mkdev(5, 0), "kmsg": unix.Mkdev(1, 11)} {
		if err := unix.Mknod("/dev/"+name, unix.S_IFCHR|0o666, int(n)); err != nil {
			return err
		}
		if err := os.Chmod("/dev/"+name, 0o666); err != nil { // the umask is another
			return err
		}
	}
	if err := os.Mkdir("/dev/pts", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666"); err != nil {
		return err
	}
	return os.Symlink("pts/ptmx", "/dev/ptmx")
}

// unconfinedStage runs the kit as root, beside a neighbour and an abstract socket that looks like a shim's, and prints the
// report, and after it what was different when it was gone.
func unconfinedStage() error {
	l, err := net.Listen("unix", "@/containerd-shim/of-the-test.sock")
	if err != nil {
		return err
	}
	defer l.Close()
	neighbour := as("kit", child, sleep)
	if err := neighbour.Start(); err != nil {
		return err
	}
	defer func() { _ = neighbour.Process.Kill(); _ = neighbour.Wait() }()
	before := snapshot()
	c := as("kit", "isolation", "--neighbour", strconv.Itoa(neighbour.Process.Pid))
	c.Stdout = os.Stdout
	if err := c.Run(); err != nil {
		return err
	}
	// What the kit left to this process to reap, it reaps as the first process of an instance does.
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
			break
		}
	}
	after := snapshot()
	for k, v := range before {
		if after[k] != v {
			fmt.Printf("%s was:\n%s\nand is:\n%s\n", k, v, after[k])
		}
	}
	return nil
}

// snapshot is what the kit must leave as it was.
func snapshot() map[string]string {
	s := map[string]string{}
	for _, f := range []string{"/proc/self/mountinfo", "/proc/self/uid_map", "/proc/sysvipc/msg", "/proc/sysvipc/sem", "/proc/sysvipc/shm",
		"/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory",
		"/proc/sys/net/ipv4/ip_forward", "/proc/net/route", "/proc/net/packet", "/proc/self/oom_score_adj", "/proc/self/personality", "/proc/swaps", "/proc/self/loginuid"} {
		s[f] = contents(f)
	}
	links, _ := net.Interfaces()
	s["links"] = fmt.Sprint(links)
	s["abstract sockets"] = fmt.Sprint(abstractSockets())
	for _, n := range namespaces() {
		s[n.kind] = readlink("self", n.kind)
	}
	var names []string
	for _, p := range processes() {
		names = append(names, fmt.Sprintf("%d %s", p.pid, p.name))
	}
	s["processes"] = strings.Join(names, "\n")
	for _, dir := range []string{"/", "/dev", "/dev/pts", "/tmp/bulwark-kit-[0-9]*", "/tmp/.bulwark-kit*", "/usr/bin/.bulwark-kit*"} {
		if !strings.Contains(dir, "*") {
			dir += "/*"
		}
		found, _ := filepath.Glob(dir)
		s[dir] = strings.Join(found, "\n")
	}
	return s
}

// leakStage changes its root, and looks for a way out: with a directory of the old root left open, or without.
func leakStage(open bool, dir string) error {
	if err := unix.Mount("proc", dir+"/proc", "proc", 0, ""); err != nil {
		return err
	}
	fd, err := unix.Open("/usr", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if err := unix.Chroot(dir); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if !open {
		unix.Close(fd)
	}
	o := leakedDirectory(nil)
	fmt.Println(o.Reached, o.Detail)
	return nil
}

// exhaustStage bounds what may be taken: open files, memory, processes of a user who has no others, and a file system.
func exhaustStage(what string) error {
	if err := os.Mkdir("/dev/room", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/dev/room", "tmpfs", 0, "size=1m,mode=1777"); err != nil {
		return err
	}
	c := as("kit", "exhaust", "--what", what, "--seconds", "2", "--dir", "/dev/room")
	c.Stdout, c.Stderr = os.Stdout, nil
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, Credential: &syscall.Credential{Uid: nobodyElse, Gid: nobodyElse},
		UidMappings: []syscall.SysProcIDMap{{ContainerID: nobodyElse, HostID: nobodyElse, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: nobodyElse, HostID: nobodyElse, Size: 1}}}
	for limit, n := range map[int]uint64{unix.RLIMIT_NOFILE: 128, unix.RLIMIT_DATA: 128 << 20, unix.RLIMIT_NPROC: 200} {
		if limit == unix.RLIMIT_DATA && what != "memory" {
			continue
		}
		if err := unix.Setrlimit(limit, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return err
		}
	}
	return c.Run()
}

// nobodyElse is a user that nobody on the machine is.
const nobodyElse = 3_141_592

// filteredStage puts on a filter that answers the named calls with EPERM, or with ENOSYS where the name ends with "?", and
// has the kit make every call.
func filteredStage(calls []string) error {
	names := strings.Fields(callNames)
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
	for _, c := range calls {
		name, no := strings.CutSuffix(c, "?")
		answer := uint32(unix.EPERM)
		if no {
			answer = uint32(unix.ENOSYS)
		}
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(slices.Index(names, name))},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | answer})
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const tsync = 1
	if _, err := call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, tsync, uintptr(unsafe.Pointer(&f))); err != nil {
		return err
	}
	c := as("kit", child, systemCalls)
	c.Stdout = os.Stdout
	return c.Run()
}

// report reads a report that is followed by other lines.
func report(t *testing.T, out []byte) (*Report, string) {
	t.Helper()
	line, rest, _ := bytes.Cut(out, []byte{'\n'})
	r, err := Parse(line)
	if err != nil {
		t.Fatalf("%v: %.300s", err, out)
	}
	return r, string(rest)
}
