package dial

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// TestMain lets the test binary play the hardened dial process.
func TestMain(m *testing.M) {
	if path := os.Getenv("DIAL_TEST_EDGE"); path != "" {
		os.Exit(hardened(path))
	}
	os.Exit(m.Run())
}

// hardened is the child: descriptor 3 is the node's listener. It tells on standard output what it can still do.
func hardened(edge string) int {
	l, err := net.FileListener(os.NewFile(3, "node"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	home, err := Home()
	if err == nil {
		err = Harden()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, attempt := range []struct {
		name string
		do   func() error
	}{
		{"read a file", func() error { _, err := os.ReadFile("/etc/passwd"); return err }},
		{"netlink socket", func() error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err }},
		{"udp socket", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); return err }},
		{"raw socket", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, 1); return err }},
		{"listen", func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }},
		{"signal", func() error { return unix.Kill(os.Getppid(), 0) }},
		{"become root", func() error { return unix.Setuid(0) }},
	} {
		if attempt.do() == nil {
			fmt.Println("could still: ", attempt.name)
			return 1
		}
	}
	fmt.Println("hardened")
	if os.Getenv("DIAL_TEST_HOSTILE") != "" {
		_ = unix.Mount("", "/", "", unix.MS_REMOUNT, "")
		fmt.Println("alive")
		return 1
	}
	if err := Run(context.Background(), Config{Node: l.(*net.UnixListener), EdgePath: edge, Home: home}); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// spawn starts the child as an unprivileged user with CAP_SYS_ADMIN alone.
func spawn(t *testing.T, node *net.UnixListener, env ...string) (*os.Process, *os.File) {
	t.Helper()
	bin := withoutCgo(t)
	lf, err := node.File()
	if err != nil {
		t.Fatal(err)
	}
	defer lf.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p, err := os.StartProcess(bin, []string{"dial"}, &os.ProcAttr{Env: env, Dir: "/", Files: []*os.File{nil, w, os.Stderr, lf},
		Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(); p.Wait(); r.Close() })
	return p, r
}

// withoutCgo builds this test binary as the real one is built: Harden refuses a binary with cgo, which -race needs.
func withoutCgo(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(openDir(t), "child")
	cmd := exec.Command("go", "test", "-c", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// openDir is a directory that another user can enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func line(t *testing.T, r io.Reader) string {
	t.Helper()
	buf := make([]byte, 512)
	n, err := r.Read(buf)
	if err != nil {
		t.Fatal("the child said nothing:", err)
	}
	return strings.TrimSpace(string(buf[:n]))
}

func TestHardenedProcessStillDials(t *testing.T) {
	dir := openDir(t)
	edges, nodes := packets(t, filepath.Join(dir, "edge")), packets(t, filepath.Join(dir, "node"))
	if err := os.Chmod(filepath.Join(dir, "edge"), 0o777); err != nil {
		t.Fatal(err)
	}
	_, out := spawn(t, nodes, "DIAL_TEST_EDGE="+filepath.Join(dir, "edge"))
	if got := line(t, out); got != "hardened" {
		t.Fatal(got)
	}
	sock, err := edges.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	if _, uid, _, err := fdpass.Peer(sock); err != nil || uid != 65534 {
		t.Fatalf("the peer is %d, %v", uid, err)
	}
	edge := fdpass.New(sock)
	defer edge.Close()
	node, err := Connect(filepath.Join(dir, "node"))
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	ns := newSpace(t)
	l := ns.listen("127.0.0.1:0")
	go greet(l, "inside")
	e := entry(ns, port(l), "a.org")
	if err := node.Register(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		conn, why := ask(t, edge, e.Registration.Instance, "a.org")
		if why != "" {
			t.Fatal(why)
		}
		if got, _ := io.ReadAll(conn); string(got) != "inside" {
			t.Fatalf("got %q", got)
		}
	}
	if _, why := ask(t, edge, e.Registration.Instance, "b.org"); why != bulwark.DialDenied {
		t.Errorf("got %q", why)
	}
}

func TestHardenedProcessDiesOfMount(t *testing.T) {
	dir := openDir(t)
	p, out := spawn(t, packets(t, filepath.Join(dir, "node")), "DIAL_TEST_EDGE=/nowhere", "DIAL_TEST_HOSTILE=1")
	if got := line(t, out); got != "hardened" {
		t.Fatal(got)
	}
	state, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if ws := state.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGSYS {
		t.Errorf("the child ended with %v", state)
	}
}
