package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// TestMain lets the test binary play the hardened edge process.
func TestMain(m *testing.M) {
	if os.Getenv("EDGE_TEST_CHILD") != "" {
		if err := hardened(os.Getenv("EDGE_TEST_CHILD")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hardened is the child: it gets its sockets as systemd gives them, gives everything up, tells what it can still do,
// and serves.
func hardened(mode string) error {
	files, err := fdpass.Listeners(os.Environ())
	if err != nil {
		return err
	}
	listener := func(name string) net.Listener {
		l, lerr := net.FileListener(files[name][0])
		err = errors.Join(err, lerr)
		files[name][0].Close()
		return l
	}
	cfg := Config{HTTPS: listener("https"), HTTP: listener("http"), DialUID: 0, Restored: files, AccessLog: os.Stderr}
	cfg.Control, _ = listener("control").(*net.UnixListener)
	cfg.Certs, _ = listener("certs").(*net.UnixListener)
	cfg.Issued, _ = listener("issued").(*net.UnixListener)
	cfg.Dial, _ = listener("dial").(*net.UnixListener)
	if err != nil {
		return err
	}
	notifier, err := fdpass.NewNotifier(os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	cfg.Keeper = notifier
	if err := Harden(); err != nil {
		return err
	}
	for name, attempt := range map[string]func() error{
		"socket":      func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err },
		"unix socket": func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"socketpair":  func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"open":        func() error { _, err := os.Open("/etc/passwd"); return err },
		"open own":    func() error { _, err := os.Open("/proc/self/status"); return err },
		"dial":        func() error { _, err := net.Dial("tcp", "127.0.0.1:1"); return err },
		"list":        func() error { _, err := os.ReadDir("/"); return err },
		"unlink":      func() error { return os.Remove("/nowhere") },
		"kill":        func() error { return unix.Kill(os.Getppid(), 0) },
		"exec memory": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			return err
		},
	} {
		if err := attempt(); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("%s: %v", name, err)
		}
	}
	fmt.Println("hardened")
	switch mode {
	case "exec":
		return unix.Exec("/bin/true", nil, nil)
	case "write":
		_, err := os.Create("/tmp/never")
		return err
	}
	return Run(context.Background(), cfg)
}

// withoutCgo builds this test binary as the real one is built: Harden refuses a binary with cgo, which -race needs.
func withoutCgo(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "child")
	cmd := exec.Command("go", "test", "-c", "-tags", "no_fs_access", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// child is a hardened edge in a process of its own.
type child struct {
	process *os.Process
	out     *bufio.Reader
	notify  *net.UnixConn
	dir     string
}

func spawn(t *testing.T, bin, mode string, p *parts, dir string) *child {
	t.Helper()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify-"+mode), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	files := []*os.File{nil, w, w}
	for _, l := range []interface{ File() (*os.File, error) }{p.https.(*net.TCPListener), p.plain.(*net.TCPListener), p.control, p.certs, p.issued, p.dial} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	env := []string{"EDGE_TEST_CHILD=" + mode, "NOTIFY_SOCKET=" + filepath.Join(dir, "notify-"+mode), "LISTEN_FDS=6", "LISTEN_FDNAMES=https:http:control:certs:issued:dial"}
	process, err := os.StartProcess(bin, []string{"edge"}, &os.ProcAttr{Dir: "/", Env: env, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Kill(); process.Wait(); r.Close(); notify.Close() })
	c := &child{process, bufio.NewReader(r), notify, dir}
	if line, err := c.out.ReadString('\n'); line != "hardened\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return c
}

// TestHardenedProcessServes runs the whole of it without sockets, files and privileges.
func TestHardenedProcessServes(t *testing.T) {
	dir := t.TempDir()
	p := newParts(t, dir)
	bin := withoutCgo(t)
	c := spawn(t, bin, "serve", p, dir)
	d := &fakeDial{path: filepath.Join(dir, "dial"), where: map[bulwark.InstanceID]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go d.follow(ctx)
	r := &rig{t: t, dir: dir, parts: p, addr: p.https.Addr().String(), plain: p.plain.Addr().String(), dial: d}
	r.control, r.certs = edgecontrol.New(filepath.Join(dir, "control")), edgecontrol.New(filepath.Join(dir, "certs"))
	defer r.control.Close()
	r.trust(newAuthority(t))
	r.table = bulwark.Table{Routes: map[bulwark.HostName]bulwark.AppID{}, Apps: map[bulwark.AppID]bulwark.Upstream{}}
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Method) }))
	for range 50 {
		for _, h2 := range []bool{false, true} {
			resp, err := r.client(h2).Post("https://a.example.org/", "x/y", strings.NewReader("x"))
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			resp.Body.Close()
		}
	}
	// What it looks at opens no file: neither an upload nor a body that is larger than what is looked at.
	upload := "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x.php\"\r\nContent-Type: text/plain\r\n\r\n" + strings.Repeat("<?php system('id'); ?> ", 20_000) + "\r\n--b--\r\n"
	resp, err := r.client(true).Post("https://a.example.org/", "multipart/form-data; boundary=b", strings.NewReader(upload))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	r.stats(app, bulwark.NotedWAF, 1)
	stored := map[string]bool{}
	buf, oob := make([]byte, 4096), make([]byte, 64)
	for len(stored) < 6 {
		n, on, _, _, err := c.notify.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatal(err)
		}
		if on > 0 {
			m, _ := unix.ParseSocketControlMessage(oob[:on])
			fds, _ := unix.ParseUnixRights(&m[0])
			unix.Close(fds[0])
		}
		stored[string(buf[:n])] = true
	}
	for _, want := range []string{"READY=1", "FDSTORE=1\nFDNAME=table", "FDSTORE=1\nFDNAME=certificates", "FDSTORE=1\nFDNAME=challenge", "FDSTORE=1\nFDNAME=shields",
		"FDSTORE=1\nFDNAME=patches"} {
		if !stored[want] {
			t.Errorf("the supervisor was told %v, not %q", stored, want)
		}
	}
	for _, mode := range []string{"exec", "write"} {
		c := spawn(t, bin, mode, p, dir)
		state, err := c.process.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if ws := state.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGSYS {
			t.Errorf("%s: the child ended with %v", mode, state)
		}
	}
}
