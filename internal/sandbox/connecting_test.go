package sandbox_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/sandbox"
)

// TestMain lets the test binary play a process that connects, such as egress.
func TestMain(m *testing.M) {
	if to := os.Getenv("SANDBOX_TEST_CONNECT"); to != "" {
		if err := connecting(to); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// connecting is the child: it does what it may, and tries what it may not.
func connecting(to string) error {
	if err := sandbox.EnterConnecting(); err != nil {
		return err
	}
	for range 3 { // what is read anew each time stays readable
		for _, name := range []string{"/etc/resolv.conf", "/etc/hosts", "/proc/net/route"} {
			if _, err := os.ReadFile(name); err != nil {
				return err
			}
		}
		if _, err := net.InterfaceAddrs(); err != nil {
			return err
		}
		for _, network := range []string{"tcp", "udp"} {
			c, err := net.Dial(network, to)
			if err != nil {
				return err
			}
			c.Close()
		}
	}
	if found, err := net.LookupHost("localhost"); err != nil || len(found) == 0 {
		return fmt.Errorf("localhost: %v, %w", found, err)
	}
	for name, attempt := range map[string]func() error{
		"read a program":   func() error { _, err := os.ReadFile("/bin/true"); return err },
		"read of others":   func() error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", os.Getppid())); return err },
		"read of itself":   func() error { _, err := os.ReadFile("/proc/self/environ"); return err },
		"list a directory": func() error { _, err := os.ReadDir("/"); return err },
		"listen":           func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
		"a unix socket":    func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"a raw socket":     func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, 1); return err },
		"a packet socket":  func() error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err },
		"another netlink":  func() error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT); return err },
		"a signal":         func() error { return unix.Kill(os.Getppid(), 0) },
		"removing a file":  func() error { return os.Remove("/etc/hosts") },
		"becoming root":    func() error { return unix.Setuid(0) },
		"executable memory": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			return err
		},
		"a network namespace": func() error { return unix.Setns(0, unix.CLONE_NEWNET) },
	} {
		if attempt() == nil {
			return fmt.Errorf("could still: %s", name)
		}
	}
	fmt.Println("hardened")
	switch os.Getenv("SANDBOX_TEST_LAST") {
	case "exec":
		return unix.Exec("/bin/true", nil, nil)
	case "write":
		_, err := os.Create("/tmp/never")
		return err
	case "mount":
		return unix.Mount("", "/", "", unix.MS_REMOUNT, "")
	}
	return nil
}

func TestAProcessThatConnects(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil { // another user runs it
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "child")
	build := exec.Command("go", "test", "-c", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the real one is built; -race needs cgo
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, last := range []string{"", "exec", "write", "mount"} {
		cmd := exec.Command(bin)
		cmd.Env = []string{"SANDBOX_TEST_CONNECT=" + l.Addr().String(), "SANDBOX_TEST_LAST=" + last}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.Output()
		if got := strings.TrimSpace(string(out)); got != "hardened" {
			t.Fatalf("%s: %s, %v", last, got, err)
		}
		if last == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGSYS {
			t.Errorf("%s: the child ended with %v", last, cmd.ProcessState)
		}
	}
}
