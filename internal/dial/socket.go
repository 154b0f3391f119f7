package dial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// job asks a worker for an unconnected socket in target's namespace.
type job struct {
	target *target
	done   func(fd int, err error) // called on the worker's goroutine; must not block
}

// errAstray says that a thread could not go back to dial's own namespace.
var errAstray = errors.New("the thread did not get back to its own network namespace")

// work makes sockets, one after the other, on a thread of its own. When the thread cannot return to its own namespace
// the goroutine ends without unlocking it, which makes Go throw the thread away, and dial ends.
func (s *server) work(ctx context.Context) {
	runtime.LockOSThread()
	for {
		select {
		case <-ctx.Done():
			runtime.UnlockOSThread()
			return
		case j := <-s.jobs:
			fd, err := socketIn(j.target, s.cfg.Home)
			if errors.Is(err, errAstray) {
				s.fatal <- bulwark.Fail(bulwark.KindInternal, "Dial lost its own network namespace and ends.", "The supervisor starts it again.", err)
				return
			}
			j.done(fd, err)
		}
	}
}

// socketIn makes a TCP socket in t's namespace and leaves the thread in home. The thread must be locked.
func socketIn(t *target, home *os.File) (int, error) {
	if err := control(t.netns, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) }); err != nil {
		return -1, fmt.Errorf("enter the instance's network namespace: %w", err)
	}
	family := unix.AF_INET
	if t.address.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if back := control(home, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) }); back != nil {
		if err == nil {
			unix.Close(fd)
		}
		return -1, errors.Join(errAstray, back)
	}
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	return fd, nil
}

// connect connects fd, which lives in the namespace it was made in, and returns it as a file, or why not. It takes fd
// over.
func connect(ctx context.Context, fd int, to netip.AddrPort, timeout time.Duration) (*os.File, bulwark.DialError) {
	// Small answers must not wait for an acknowledgement; the edge writes whole messages.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	err := unix.Connect(fd, sockaddr(to))
	// After connect, not before: a socket that is not connecting reports a hang-up to the poller.
	f := os.NewFile(uintptr(fd), "instance")
	if err == nil {
		return f, ""
	}
	if err == unix.EINPROGRESS {
		err = await(ctx, f, timeout)
	}
	if err == nil {
		return f, ""
	}
	f.Close()
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ETIMEDOUT) {
		return nil, bulwark.DialTimeout
	}
	return nil, bulwark.DialRefused
}

// await waits until f is connected or has failed.
func await(ctx context.Context, f *os.File, timeout time.Duration) error {
	if err := f.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case code != 0:
			result = unix.Errno(code)
		default:
			// No error yet does not mean connected: only a peer's address does.
			_, err = unix.Getpeername(int(fd))
			return err == nil
		}
		return true
	})
	if err != nil {
		return err
	}
	return result
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
