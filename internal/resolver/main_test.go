package resolver

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// inside marks the copy of the test that lives in a network namespace of its own.
const inside = "BULWARK_RESOLVER_TEST_INSIDE"

// TestMain runs the tests in a network namespace of their own, where they may have any address and port 53.
func TestMain(m *testing.M) {
	flag.Parse()
	if fuzzing() || os.Getenv(inside) != "" {
		if !fuzzing() {
			// The first plays the internet, the second the instances' links.
			must(local("203.0.113.0/24", "10.77.0.0/16"))
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

// local brings up the loopback and makes every address of the ranges this machine's own.
func local(ranges ...string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, r := range ranges {
		_, dst, err := net.ParseCIDR(r)
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL,
			Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
			return err
		}
	}
	return nil
}
