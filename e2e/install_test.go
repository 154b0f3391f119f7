package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/supervise"
)

// installation is one real installation of the platform.
type installation struct {
	dir   string // holds the root, etc and the supervisor's log
	root  string
	name  string
	ports map[string]string // HTTP, HTTPS, API, SSH
	bin   string            // the program
	inst  *install.Installation
	// within is what the program is started by, if not directly: it sees the machine as that lets it.
	within []string

	tokens sync.Mutex // held by who has made a login token and did not use it yet

	mu sync.Mutex // guards up
	up *supervisor
}

// supervisor is a running `bulwark up`.
type supervisor struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // after ended
}

// prefix is how the folders of these tests are called; sweep finds those that a killed run left.
const prefix = "bwe-"

// making is held while an installation is made.
var making sync.Mutex

// newInstallation makes a folder for an installation and starts it; more are further arguments of `bulwark up`.
func newInstallation(p programs, name string, more ...string) (*installation, error) {
	return newInstallationWithin(nil, p, name, more...)
}

func newInstallationWithin(within []string, p programs, name string, more ...string) (*installation, error) {
	making.Lock() // the next one finds this one's user ids in use
	defer making.Unlock()
	dir, err := os.MkdirTemp(tempDir, prefix)
	if err != nil {
		return nil, err
	}
	i := &installation{dir: dir, root: filepath.Join(dir, "root"), name: name, bin: p.bulwark, within: within}
	if err := errors.Join(os.Chmod(dir, 0o755), i.makeEtc(), os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600)); err != nil {
		return i, err
	}
	if i.ports, err = freePorts("HTTP", "HTTPS", "API", "SSH"); err != nil {
		return i, err
	}
	err = i.start(append([]string{"--name", name, "--engine", p.engine, "--bases", p.bases, "--etc", filepath.Join(dir, "etc"), "--blocks", "256", "--build-disk", "3000", "--probes", "asked",
		"--acme", "none", // what stories claim is nobody's to have a certificate for
		"--name-server", names.Address,
		"--http-port", i.ports["HTTP"], "--https-port", i.ports["HTTPS"], "--api-port", i.ports["API"], "--ssh-port", i.ports["SSH"]}, more...)...)
	return i, err
}

// tempDir is short: sockets below it have at most 107 characters in their path.
const tempDir = "/tmp"

// makeEtc copies the register of user ids, and reserves in it what other installations run under: their ids may be
// registered in a place that we do not know.
func (i *installation) makeEtc() error {
	etc := filepath.Join(i.dir, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		return err
	}
	used, err := usedSlots()
	if err != nil {
		return err
	}
	for _, name := range []string{"passwd", "group", "subuid", "subgid"} {
		b, err := os.ReadFile("/etc/" + name)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if strings.HasPrefix(name, "sub") {
			for _, slot := range used {
				b = append(bytes.TrimRight(b, "\n"), fmt.Sprintf("\nothers:%d:%d\n", firstID+slot*slotSize, uint32(slotSize))...)
				b = bytes.TrimLeft(b, "\n")
			}
		}
		if err := os.WriteFile(filepath.Join(etc, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// firstID is where installations take their user ids from, slotSize how many one of these tests has (--blocks 256).
const (
	firstID  = 0x20000000
	slotSize = 256 << 16
)

// usedSlots are the ranges in which user ids are in use. The others are free, also below them: the tests are more than there are ranges.
func usedSlots() ([]uint32, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	used := map[uint32]bool{}
	note := func(st os.FileInfo, err error) {
		if err != nil {
			return
		}
		if uid := st.Sys().(*syscall.Stat_t).Uid; uid >= firstID && uid < 0x70000000 {
			used[(uid-firstID)/slotSize] = true
		}
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			note(os.Stat("/proc/" + e.Name()))
		}
	}
	// Folders of installations that stand still, too.
	roots, _ := filepath.Glob(tempDir + "/*/root/server")
	for _, r := range roots {
		note(os.Lstat(r))
	}
	return slices.Sorted(maps.Keys(used)), nil
}

func freePorts(names ...string) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, out[name], _ = net.SplitHostPort(l.Addr().String())
	}
	return out, nil
}

// start runs `bulwark up` and returns when it is ready.
func (i *installation) start(args ...string) error {
	log, err := os.OpenFile(filepath.Join(i.dir, "up.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	s := &supervisor{cmd: i.command(context.Background(), append([]string{"up", "--root", i.root}, args...)...), ended: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = in, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is for the tests; they take it down
	err = s.cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return err
	}
	go func() { s.err = s.cmd.Wait(); close(s.ended) }()
	i.mu.Lock()
	i.up = s
	i.mu.Unlock()
	ready := make(chan bool, 1)
	go func() {
		defer out.Close()
		lines := bufio.NewScanner(out)
		ready <- lines.Scan() && lines.Text() == "ready"
		io.Copy(io.Discard, out)
	}()
	select {
	case ok := <-ready:
		if !ok {
			<-s.ended
			return fmt.Errorf("bulwark up ended: %w\n%s", s.err, i.logs())
		}
	case <-time.After(time.Minute):
		s.cmd.Process.Kill()
		return fmt.Errorf("bulwark up was not ready in a minute\n%s", i.logs())
	}
	i.inst, err = install.Open(i.root)
	return err
}

func (i *installation) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append(append(slices.Clone(i.within), i.bin), args...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// killUp kills the supervisor alone, as the kernel does when memory is short.
func (i *installation) killUp() error {
	i.mu.Lock()
	s := i.up
	i.mu.Unlock()
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	<-s.ended
	return nil
}

// run runs an operator's command and returns its output.
func (i *installation) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	b, err := i.command(ctx, append(args, "--root", i.root)...).CombinedOutput()
	if err != nil {
		return string(b), fmt.Errorf("bulwark %s: %w\n%s", strings.Join(args, " "), err, b)
	}
	return string(b), nil
}

// settle is for what is over already to go away: a process that has ended is seen until its parent has asked for its end.
const settle = 10 * time.Second

// down stops everything and removes the installation; it tells what was left.
func (i *installation) down() error {
	if i.inst == nil { // it never came up
		return os.RemoveAll(i.dir)
	}
	_, err := i.run("down")
	if err == nil {
		select {
		case <-i.up.ended:
			if i.up.err != nil {
				err = fmt.Errorf("bulwark up, after bulwark down: %w", i.up.err)
			}
		case <-time.After(30 * time.Second):
			err = errors.New("bulwark up still runs 30 s after bulwark down")
			i.up.cmd.Process.Kill()
		}
	}
	if err == nil {
		err = poll(settle, func() error {
			if left := i.processes(); len(left) > 0 {
				return fmt.Errorf("after bulwark down, before uninstall, there still run:\n%s", strings.Join(left, "\n"))
			}
			return nil
		})
	}
	if err != nil { // so that the rest can go all the same
		i.killUp()
	}
	_, uerr := i.run("uninstall", "--yes")
	if uerr == nil {
		uerr = errors.Join(poll(settle, i.nothingLeft), os.RemoveAll(i.dir))
	}
	return errors.Join(err, uerr)
}

// nothingLeft looks for all that an installation has on a machine.
func (i *installation) nothingLeft() error {
	var left []string
	add := func(what string, found ...string) {
		for _, f := range found {
			left = append(left, what+" "+f)
		}
	}
	add("process", i.processes()...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], i.root) || f[4] == i.inst.RouterNamespacePath()) {
			add("mount", f[4])
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if b, _ := os.ReadFile(l); strings.HasPrefix(string(b), i.root) {
			add("loop device", l)
		}
	}
	for _, name := range []string{i.inst.CgroupName(), i.inst.BuildCgroupName()} {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
		more, _ := filepath.Glob("/sys/fs/cgroup/" + name)
		add("control group", append(groups, more...)...)
	}
	for _, path := range []string{i.root, i.inst.RouterNamespacePath()} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			add("path", path)
		}
	}
	for _, file := range []string{"subuid", "subgid"} {
		b, err := os.ReadFile(filepath.Join(i.dir, "etc", file))
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte("bulwark-"+i.name+":")) {
			add("line in", file)
		}
	}
	scratch, _ := filepath.Glob(tempDir + "/bulwark-pack-*")
	for _, s := range scratch {
		if st, err := os.Lstat(s); err == nil && i.inst.IDs.Contains(st.Sys().(*syscall.Stat_t).Uid) {
			add("path", s)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("bulwark uninstall left:\n%s", strings.Join(left, "\n"))
	}
	return nil
}

// processes are those of the installation: under its ids, or with its root in their command line.
func (i *installation) processes() []string {
	var out []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		st, serr := os.Stat("/proc/" + e.Name())
		if err != nil || serr != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(line) == 0 { // gone, or nothing but its exit status is left
			continue
		}
		args := strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		if i.inst.IDs.Contains(st.Sys().(*syscall.Stat_t).Uid) || slices.ContainsFunc(strings.Fields(args), func(a string) bool { return strings.HasPrefix(a, i.root) }) {
			out = append(out, fmt.Sprintf("%d %s", pid, args))
		}
	}
	return out
}

// status is what the supervisor says of the processes.
func (i *installation) status() ([]supervise.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return supervise.NewClient(i.inst).Status(ctx)
}

// authorities are those that a browser trusts which was told to trust this installation.
func (i *installation) authorities() (*x509.CertPool, error) {
	b, err := os.ReadFile(filepath.Join(i.root, "node", "keys", "ca.pem"))
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(b) {
		err = errors.New("the authority is not PEM")
	}
	return pool, err
}

// usual matches what the logs are full of: requests that the edge answered as it should, the engine's word for each container that
// ended, and what holds for every process on this machine.
var usual = regexp.MustCompile(`"status":[1-4]\d\d,|cgroups: epoll wait|lacks CAP_SYS_RESOURCE`)

// logs are the ends of the processes' logs.
func (i *installation) logs() string {
	const lines, width = 60, 500
	files, _ := filepath.Glob(filepath.Join(i.root, "logs", "*"))
	var b strings.Builder
	for _, f := range append([]string{filepath.Join(i.dir, "up.log")}, files...) {
		text, err := os.ReadFile(f)
		if err != nil || len(text) == 0 || strings.Contains(filepath.Base(f), "access") {
			continue
		}
		all := slices.DeleteFunc(strings.Split(strings.TrimRight(string(text), "\n"), "\n"), usual.MatchString)
		fmt.Fprintf(&b, "--- %s\n", strings.TrimPrefix(f, i.dir+"/"))
		for _, l := range all[max(0, len(all)-lines):] {
			b.WriteString(l[:min(width, len(l))] + "\n")
		}
	}
	return b.String()
}

// sweep removes what runs of these tests left that were killed.
func sweep(p programs) {
	dirs, _ := filepath.Glob(filepath.Join(tempDir, prefix+"*"))
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "pid"))
		pid, aerr := strconv.Atoi(string(b))
		if err != nil || aerr != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		root := filepath.Join(dir, "root")
		if _, err := install.Open(root); err == nil {
			old := &installation{dir: dir, root: root, bin: p.bulwark}
			_, derr := old.run("down", "--force")
			_, err := old.run("uninstall", "--yes")
			if err != nil {
				fmt.Fprintf(os.Stderr, "e2e: an earlier run's installation at %s cannot be removed: %v\n", root, errors.Join(derr, err))
				continue
			}
		}
		os.RemoveAll(dir)
	}
}
