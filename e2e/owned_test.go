package e2e

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var ownedUpdate = flag.Bool("owned", false, "write docs/owned.md anew")

// ownedTable is the page that the table is on, and where in it.
const (
	ownedPage  = "../docs/owned.md"
	ownedBegin = "<!-- made by the story owned: go test ./e2e -run TestFaults/owned -owned -->\n"
	ownedEnd   = "<!-- end -->\n"
)

// target is a process that is taken over, and what its attacker knows of the rest.
type target struct {
	*hijacked
	on    *installation
	name  string
	text  string         // what its command line has, if it is none of the platform's processes
	node  int            // the node's process
	open  netip.AddrPort // where something of the host's listens, on the loopback
	other netip.AddrPort // where an instance serves
}

// attempt is something that whoever owns a process tries. What comes of it is one cell of the table: "no", "yes", "ends it", or what it got.
type attempt struct {
	what string
	do   func(*target) (string, error)
}

// owned takes over processes that run, one after the other, and has each try everything. What each gets must be what docs/owned.md says.
// The processes are those of the platform, or NAME=PID.
func owned(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: owned ADDRESS PROCESS...")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a service of the host's own
	ts.Check(err)
	defer l.Close()
	to := target{on: of(ts).on, open: netip.MustParseAddrPort(l.Addr().String())}
	to.other, err = netip.ParseAddrPort(args[0])
	ts.Check(err)
	to.node, err = to.on.pid("node")
	ts.Check(err)
	all := attempts()
	columns := []string{"attempt"}
	rows := make([][]string, len(all))
	for i, a := range all {
		rows[i] = []string{a.what}
	}
	for _, name := range args[1:] {
		t := to
		t.name, t.text, _ = strings.Cut(name, "=")
		columns = append(columns, t.name)
		for i, a := range all {
			cell, err := t.try(a)
			if err != nil {
				ts.Fatalf("%s: %s: %v", name, a.what, err)
			}
			rows[i] = append(rows[i], cell)
		}
	}
	table := rendered(columns, rows)
	page, err := os.ReadFile(ownedPage)
	ts.Check(err)
	head, rest, ok := strings.Cut(string(page), ownedBegin)
	was, tail, ok2 := strings.Cut(rest, ownedEnd)
	if !ok || !ok2 {
		ts.Fatalf("%s has no place for the table", ownedPage)
	}
	if was == table {
		return
	}
	if *ownedUpdate {
		ts.Check(os.WriteFile(ownedPage, []byte(head+ownedBegin+table+ownedEnd+tail), 0o644))
	}
	ts.Fatalf("what the processes get when they are owned is not what %s says:\n%s", ownedPage, difference(was, table))
}

// try makes one attempt from within the process, or from within its successor if an attempt before has ended it.
func (t *target) try(a attempt) (string, error) {
	var pid int
	if err := poll(30*time.Second, func() (err error) { pid, err = t.find(); return err }); err != nil {
		return "", err
	}
	var cell string
	err := hijack(pid, func(h *hijacked) (err error) {
		t.hijacked = h
		cell, err = a.do(t)
		return err
	})
	if errors.Is(err, errEnded) {
		return "ends it", poll(30*time.Second, func() error {
			if now, err := t.find(); err != nil || now == pid {
				return fmt.Errorf("%s is not back: %v", t.name, err)
			}
			return nil
		})
	}
	return cell, err
}

// find returns the process that bears the name now.
func (t *target) find() (int, error) {
	if t.text == "" {
		// One that has just been started has not locked itself in yet.
		all, err := t.on.status()
		if err != nil {
			return 0, err
		}
		for _, p := range all {
			if p.Name == t.name && p.State == "running" {
				return p.PID, nil
			}
		}
		return 0, fmt.Errorf("%s does not run", t.name)
	}
	for _, p := range t.on.processes() {
		if pid, line, _ := strings.Cut(p, " "); strings.Contains(line, t.text) && !strings.Contains(line, "/.bulwark/init") {
			return strconv.Atoi(pid)
		}
	}
	return 0, fmt.Errorf("there is no process with %q", t.text)
}

// refusals are the kernel's answers to what one may not do, or cannot see.
var refusals = []error{unix.EPERM, unix.EACCES, unix.ENOENT, unix.ESRCH, unix.ENOSYS, unix.EAFNOSUPPORT, unix.ENETUNREACH, unix.ECONNREFUSED, unix.EHOSTUNREACH}

// cell is what came of one system call.
func cell(err error) (string, error) {
	switch {
	case err == nil:
		return "yes", nil
	case slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) }):
		return "no", nil
	default:
		return "", err
	}
}

// simple is an attempt of one system call, whose result is given back if it is a descriptor.
func simple(what string, nr uintptr, args func(*target) []uintptr) attempt {
	return attempt{what, func(t *target) (string, error) {
		t.clear()
		var a []uintptr
		if args != nil {
			a = args(t)
		}
		_, err := t.call(nr, a...)
		return cell(err)
	}}
}

func fixed(args ...uintptr) func(*target) []uintptr { return func(*target) []uintptr { return args } }

func attempts() []attempt {
	pid := func(more ...uintptr) func(*target) []uintptr {
		return func(t *target) []uintptr { return append([]uintptr{uintptr(t.node)}, more...) }
	}
	return []attempt{
		{"read a file of the host (`/etc/passwd`)", func(t *target) (string, error) { return t.read("/etc/passwd") }},
		{"read files of the installation but its own", (*target).readAll},
		{"read the node's memory", func(t *target) (string, error) { return t.read(fmt.Sprintf("/proc/%d/mem", t.node)) }},
		{"read the node's environment", func(t *target) (string, error) { return t.read(fmt.Sprintf("/proc/%d/environ", t.node)) }},
		{"make a file in `/tmp`", (*target).write},
		{"start a program", func(t *target) (string, error) { return t.exec("/bin/true") }},
		simple("memory that is both written and executed", unix.SYS_MMAP, fixed(0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)),
		{"signal other processes of the installation", (*target).signal},
		simple("trace the node", unix.SYS_PTRACE, func(t *target) []uintptr { return []uintptr{unix.PTRACE_SEIZE, uintptr(t.node), 0, 0} }),
		simple("a handle of the node's process", unix.SYS_PIDFD_OPEN, pid(0)),
		simple("another user (root)", unix.SYS_SETUID, fixed(0)),
		simple("new name spaces (a network)", unix.SYS_UNSHARE, fixed(unix.CLONE_NEWNET)),
		{"mount a file system", (*target).mount},
		simple("load a program into the kernel (bpf)", unix.SYS_BPF, func(t *target) []uintptr {
			return []uintptr{unix.BPF_MAP_CREATE, t.put(words(unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1)), 16}
		}),
		simple("io_uring", unix.SYS_IO_URING_SETUP, func(t *target) []uintptr { return []uintptr{1, t.put(make([]byte, 120))} }),
		simple("another name for the machine", unix.SYS_SETHOSTNAME, func(t *target) []uintptr { return []uintptr{t.str("x"), 0} }),
		{"sockets", (*target).sockets},
		{"connect to sockets of the installation", (*target).knock},
		{"connect to a service on the host's loopback", func(t *target) (string, error) { return t.connect(t.open) }},
		{"connect to the API's port", func(t *target) (string, error) {
			return t.connect(netip.MustParseAddrPort("127.0.0.1:" + t.on.ports["API"]))
		}},
		{"connect to an instance's address", (*target).reach},
		{"connect inside an instance", (*target).inside},
	}
}

func words(v ...uint32) []byte {
	b := make([]byte, 72)
	for i, w := range v {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return b
}

// openAt opens a file from within.
func (t *target) openAt(path string, flags int) (uintptr, error) {
	t.clear()
	dir := unix.AT_FDCWD
	fd, err := t.call(unix.SYS_OPENAT, uintptr(dir), t.str(path), uintptr(flags|unix.O_CLOEXEC|unix.O_NONBLOCK), 0o600)
	return fd, err
}

// read tells whether a file of the host's can be read; a file of the same name in another root is the process's own.
func (t *target) read(path string) (string, error) {
	fd, err := t.openAt(path, unix.O_RDONLY)
	if err != nil {
		return cell(err)
	}
	mine, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%d", t.pid, fd))
	if err != nil {
		return "", err
	}
	its, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if _, err := t.call(unix.SYS_CLOSE, fd); err != nil {
		return "", err
	}
	if !os.SameFile(mine, its) {
		return "its own", nil
	}
	return "yes", nil
}

func (t *target) write() (string, error) {
	path := fmt.Sprintf("/tmp/owned-%d", time.Now().UnixNano())
	fd, err := t.openAt(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
	if err != nil {
		return cell(err)
	}
	if _, err := t.call(unix.SYS_CLOSE, fd); err != nil {
		return "", err
	}
	if os.Remove(path) != nil {
		return "its own", nil
	}
	return "yes", nil
}

// mount tries a folder where nothing is hidden if it succeeds.
func (t *target) mount() (string, error) {
	dir, err := os.MkdirTemp(tempDir, "bwo-")
	if err != nil {
		return "", err
	}
	defer os.Remove(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	t.clear()
	_, err = t.call(unix.SYS_MOUNT, t.str("none"), t.str(dir), t.str("tmpfs"), 0, 0)
	return cell(err)
}

// exec asks for a program in a way that changes nothing if it may be started: with arguments that cannot be read.
func (t *target) exec(path string) (string, error) {
	t.clear()
	if _, err := t.call(unix.SYS_EXECVE, t.str(path), 1, 0); !errors.Is(err, unix.EFAULT) {
		return cell(err)
	}
	return "yes", nil
}

// readAll tries each file of the installation that is not in the process's own folder, but for what images and builds are made of.
func (t *target) readAll() (string, error) {
	var got []string
	tried := 0
	err := filepath.WalkDir(t.on.root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, t.on.root+"/")
		if d.IsDir() && (rel == t.name || rel == "run/rootfs" || strings.HasPrefix(rel, "node/images/") || strings.HasPrefix(rel, "containerd/")) {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() || tried > 2000 {
			return nil
		}
		tried++
		res, err := t.read(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if res != "no" {
			got = append(got, "`"+rel+"`")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if tried < 20 {
		return "", fmt.Errorf("only %d files were tried", tried)
	}
	return listed(got), nil
}

func listed(got []string) string {
	if len(got) == 0 {
		return "no"
	}
	slices.Sort(got)
	return strings.Join(slices.Compact(got), ", ")
}

// signal tries signal 0, which asks only whether one might.
func (t *target) signal() (string, error) {
	var got []string
	all, err := t.on.status()
	if err != nil {
		return "", err
	}
	for _, p := range all {
		if p.PID == t.pid || p.PID == 0 {
			continue
		}
		switch res, err := t.signalOne(p.PID); {
		case err != nil:
			return "", err
		case res != "no":
			got = append(got, p.Name)
		}
	}
	return listed(got), nil
}

func (t *target) signalOne(pid int) (string, error) {
	_, err := t.call(unix.SYS_KILL, uintptr(pid), 0)
	return cell(err)
}

// kinds are those of sockets.
var kinds = []struct {
	name             string
	family, kind, of uintptr
}{
	{"TCP", unix.AF_INET, unix.SOCK_STREAM, 0}, {"TCP", unix.AF_INET6, unix.SOCK_STREAM, 0}, {"UDP", unix.AF_INET, unix.SOCK_DGRAM, 0},
	{"UDP", unix.AF_INET6, unix.SOCK_DGRAM, 0}, {"unix", unix.AF_UNIX, unix.SOCK_STREAM, 0}, {"unix packets", unix.AF_UNIX, unix.SOCK_SEQPACKET, 0},
	{"unix datagrams", unix.AF_UNIX, unix.SOCK_DGRAM, 0}, {"raw", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {"routes", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
	{"firewall", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, {"audit", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT},
	{"packets of the link", unix.AF_PACKET, unix.SOCK_RAW, 0}, {"ciphers of the kernel", unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, {"the hypervisor", unix.AF_VSOCK, unix.SOCK_STREAM, 0},
}

func (t *target) sockets() (string, error) {
	var got []string
	for _, k := range kinds {
		fd, err := t.call(unix.SYS_SOCKET, k.family, k.kind|unix.SOCK_CLOEXEC, k.of)
		if err == nil {
			got = append(got, k.name)
			if _, err := t.call(unix.SYS_CLOSE, fd); err != nil {
				return "", err
			}
			continue
		}
		if _, err := cell(err); err != nil && !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.ESOCKTNOSUPPORT) {
			return "", fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return listed(got), nil
}

// knock connects to every socket file of the installation, by whichever kind of socket the process can make.
func (t *target) knock() (string, error) {
	var got []string
	tried := 0
	err := filepath.WalkDir(filepath.Join(t.on.root, "run"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "rootfs" {
			return filepath.SkipDir
		}
		if d.Type()&fs.ModeSocket == 0 {
			return nil
		}
		tried++
		for _, kind := range []uintptr{unix.SOCK_STREAM, unix.SOCK_SEQPACKET, unix.SOCK_DGRAM} {
			t.clear()
			fd, err := t.call(unix.SYS_SOCKET, unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if errors.Is(err, errEnded) {
				return err
			}
			if err != nil {
				continue
			}
			addr := append([]byte{unix.AF_UNIX, 0}, path...)
			_, err = t.call(unix.SYS_CONNECT, fd, t.put(append(addr, 0)), uintptr(len(addr)+1))
			if errors.Is(err, errEnded) {
				return err
			}
			// Of another kind than who listens: it might have been connected to.
			if err == nil || errors.Is(err, unix.EPROTOTYPE) || errors.Is(err, unix.EAGAIN) {
				got = append(got, "`"+strings.TrimSuffix(d.Name(), ".sock")+"`")
			}
			if _, err := t.call(unix.SYS_CLOSE, fd); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if tried < 10 {
		return "", fmt.Errorf("there are only %d sockets", tried)
	}
	return listed(got), nil
}

// connect makes a TCP connection from within.
func (t *target) connect(to netip.AddrPort) (string, error) {
	t.clear()
	fd, err := t.call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return cell(err)
	}
	second := t.put(binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, 1), 0)) // struct timeval
	if _, err := t.call(unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, second, 16); err != nil {
		return "", err
	}
	a := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	a = binary.BigEndian.AppendUint16(a, to.Port())
	a = append(append(a, to.Addr().AsSlice()...), make([]byte, 8)...)
	_, err = t.call(unix.SYS_CONNECT, fd, t.put(a), uintptr(len(a)))
	if errors.Is(err, unix.EINPROGRESS) { // it had its second, and nobody answered
		err = unix.EHOSTUNREACH
	}
	if _, cerr := t.call(unix.SYS_CLOSE, fd); cerr != nil {
		return "", cerr
	}
	return cell(err)
}

// reach connects to an instance by its address. Who is in the host's network namespace is not made to try: the instances' range leads to
// nobody there, so that the packet would leave the machine.
func (t *target) reach() (string, error) {
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", t.pid))
	if err != nil {
		return "", err
	}
	host, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil || mine != host {
		return t.connect(t.other)
	}
	routes, err := netlink.RouteGet(t.other.Addr().AsSlice())
	if err != nil {
		return "no", nil // there is no way at all
	}
	for _, r := range routes {
		if r.Gw == nil {
			return "", fmt.Errorf("the host has a way of its own to %s", t.other)
		}
	}
	return "no", nil
}

// inside enters the network namespace of an instance by a descriptor that the process has, and connects to what listens there: the app, at
// its address and at the loopback, and something on another port.
func (t *target) inside() (string, error) {
	dir := fmt.Sprintf("/proc/%d", t.pid)
	home, err := os.Readlink(dir + "/ns/net")
	if err != nil {
		return "", err
	}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return "", err
	}
	back := uintptr(0)
	spaces := map[uintptr]string{}
	for _, e := range fds {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			return "", err
		}
		switch to, _ := os.Readlink(dir + "/fd/" + e.Name()); {
		case to == home:
			back = uintptr(n)
		case strings.HasPrefix(to, "net:["):
			spaces[uintptr(n)] = dir + "/fd/" + e.Name()
		}
	}
	for fd, path := range spaces {
		l, err := listenWithin(path, netip.AddrPortFrom(t.other.Addr(), 0))
		if err != nil {
			continue // another instance's, which has another address
		}
		defer l.Close()
		if _, err := t.call(unix.SYS_SETNS, fd, unix.CLONE_NEWNET); err != nil {
			return cell(err)
		}
		var got []string
		for what, at := range map[string]netip.AddrPort{"the release's port": t.other, "its loopback": netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), t.other.Port()),
			"another port": netip.MustParseAddrPort(l.Addr().String())} {
			if res, err := t.connect(at); err != nil {
				return "", err
			} else if res == "yes" {
				got = append(got, what)
			}
		}
		if _, err := t.call(unix.SYS_SETNS, back, unix.CLONE_NEWNET); err != nil {
			return "", err
		}
		return listed(got), nil
	}
	if len(spaces) > 0 {
		return "", errors.New("none of its namespaces is the instance's")
	}
	return "no", nil
}

// listenWithin listens in a network namespace.
func listenWithin(path string, at netip.AddrPort) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var f *os.File
		if f, err = os.Open(path); err != nil {
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", at.String())
		}
	}()
	<-done
	return l, err
}

func rendered(columns []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(columns)
	b.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
	for _, r := range rows {
		line(r)
	}
	return b.String()
}

// difference shows the lines that differ.
func difference(was, is string) string {
	var b strings.Builder
	old := strings.Split(was, "\n")
	for i, l := range strings.Split(is, "\n") {
		if i >= len(old) || old[i] != l {
			if i < len(old) {
				b.WriteString("- " + old[i] + "\n")
			}
			b.WriteString("+ " + l + "\n")
		}
	}
	return b.String()
}
