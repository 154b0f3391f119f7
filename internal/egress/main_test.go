package egress

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// inside marks the copy of the test that lives in a network namespace of its own.
const inside = "BULWARK_EGRESS_TEST_INSIDE"

// outside is the range that plays the internet, inner plays somebody's own network; both end at the test itself.
const (
	outside = "203.0.113.0/24"
	inner   = "10.99.0.0/16"
)

// TestMain runs the tests in a network namespace of their own, where they may have any address they like.
func TestMain(m *testing.M) {
	flag.Parse()
	if fuzzing() || os.Getenv(inside) != "" {
		if !fuzzing() {
			must(loopback())
			for _, r := range []string{outside, inner} {
				must(local(r))
			}
		}
		os.Exit(m.Run())
	}
	dir, err := os.Getwd()
	must(err)
	self, err := os.Executable()
	must(err)
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // the child's parent, for Pdeathsig, is this thread
	err = process.Run(context.Background(), process.Cmd{
		Path: self, Args: os.Args[1:], Env: append(os.Environ(), inside+"=1"), Dir: dir,
		Stdout: os.Stdout, Stderr: os.Stderr, Attr: attr,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func fuzzing() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" && f.Value.String() != "false" {
			return true
		}
	}
	return false
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "set-up:", err)
		os.Exit(2)
	}
}

// loopback brings up lo in the calling thread's network namespace.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// local makes every address of a range this machine's own.
func local(r string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	_, dst, err := net.ParseCIDR(r)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL,
		Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
}

// space is a network namespace of a builder: one loopback, no route, no DNS.
type space struct{ jobs chan func() }

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{jobs: make(chan func())}
	ready := make(chan error)
	go func() {
		// The thread is never unlocked, so it ends with the goroutine and no other one gets into its namespace.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = loopback()
		}
		ready <- err
		for job := range s.jobs {
			job()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(s.jobs) })
	return s
}

// do runs f inside s.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.jobs <- func() {
		defer close(done)
		f()
	}
	<-done
}

// listen makes a listening socket inside s, as the node does.
func (s *space) listen(t *testing.T) (*os.File, string) {
	t.Helper()
	var f *os.File
	var addr string
	var err error
	s.do(func() {
		var ln net.Listener
		if ln, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return
		}
		addr = ln.Addr().String()
		f, err = ln.(*net.TCPListener).File()
		ln.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, addr
}

// dial connects from inside s.
func (s *space) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	// By address: a dial by name would go to the resolver of another thread.
	if _, perr := netip.ParseAddrPort(addr); perr != nil {
		return nil, fmt.Errorf("a builder has no DNS for %s", strings.Split(addr, ":")[0])
	}
	s.do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, addr) })
	return conn, err
}
