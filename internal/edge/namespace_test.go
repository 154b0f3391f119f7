package edge

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/dial"
)

// offMainThread runs f on a thread that ends with it. The main thread would not end, and stands for the process in /proc.
func offMainThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return // locked: the thread ends
		}
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			f()
		}()
		<-started // this goroutine holds the main thread until the other one has its own
		runtime.UnlockOSThread()
	}()
}

// namespace makes a network namespace with a listener on 127.0.0.1:8080 inside, and returns both.
func namespace(t *testing.T) (*os.File, net.Listener) {
	t.Helper()
	var ns *os.File
	var l net.Listener
	done := make(chan error)
	offMainThread(func() {
		done <- func() (err error) {
			if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			var req struct {
				name  [unix.IFNAMSIZ]byte
				flags uint16
				_     [22]byte
			}
			copy(req.name[:], "lo")
			req.flags = unix.IFF_UP
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
				return errno
			}
			l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", bulwark.EdgePort))
			return err
		}()
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close(); l.Close() })
	return ns, l
}

// TestRealDialAndNamespaces joins the edge and the real dial: two instances with the same address and port, each in a
// world of its own, and a host that the server routes although its owner never claimed it.
func TestRealDialAndNamespaces(t *testing.T) {
	ctx := t.Context()
	r := newRig(t, nil)
	r.dial.stop()
	nodes := unixSocket(t, "unixpacket", filepath.Join(r.dir, "node"))
	dctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- dial.Run(dctx, dial.Config{Node: dup(t, nodes).(*net.UnixListener), EdgePath: filepath.Join(r.dir, "dial")})
	}()
	defer func() { cancel(); <-ended }()
	node, err := dial.Connect(filepath.Join(r.dir, "node"))
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	for _, host := range testHosts {
		ns, l := namespace(t)
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprintf(w, "%s at %s", q.Host, host) }))
		app := r.serve(host, "")
		if err := node.Register(ctx, dial.Entry{NetNS: ns, Registration: bulwark.Registration{Instance: r.table.Apps[app].Instances[0], App: app,
			Address: "127.0.0.1", Port: bulwark.EdgePort, Hosts: []bulwark.HostName{host}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, h2 := range []bool{false, true} {
		for _, host := range testHosts {
			resp, body := get(t, r.client(h2), "https://"+string(host)+"/")
			if want := fmt.Sprintf("%s at %s", host, host); resp.StatusCode != 200 || body != want {
				t.Errorf("%d %q, want %q", resp.StatusCode, body, want)
			}
		}
	}
	// A server that was taken over routes a name to an app whose owners never claimed it: dial refuses, and a
	// connection that is open for another name of the app is of no use.
	stolen := bulwark.HostName("lonely.example.org")
	r.table.Routes[stolen] = r.table.Routes["a.example.org"]
	r.put()
	if resp, body := get(t, r.client(true), "https://lonely.example.org/"); resp.StatusCode != 503 {
		t.Errorf("a host that nobody claimed: %d %q", resp.StatusCode, body)
	}
}
