package dial

import (
	"net"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// space is a network namespace with its loopback up, made for a test.
type space struct {
	t    *testing.T
	file *os.File
	do   chan func()
}

// newSpace makes a namespace on a thread of its own, on which in runs functions until the test ends.
func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t, do: make(chan func())}
	ready := make(chan error)
	offMainThread(func() {
		ready <- s.enter()
		for f := range s.do {
			f()
		}
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(s.do); s.file.Close() })
	return s
}

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

func (s *space) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	s.file = f
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
	req.flags = unix.IFF_UP | unix.IFF_RUNNING
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return os.NewSyscallError("bring lo up", errno)
	}
	return nil
}

// in runs f on the thread that lives in the namespace.
func (s *space) in(f func()) {
	done := make(chan struct{})
	s.do <- func() { defer close(done); f() }
	<-done
}

// listen opens a listener inside.
func (s *space) listen(address string) net.Listener {
	s.t.Helper()
	var l net.Listener
	var err error
	s.in(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	return l
}

// deaf opens a listener inside whose queue is full, so that a further connection attempt gets no answer.
func (s *space) deaf(port int) {
	s.t.Helper()
	var fds []int
	s.in(func() {
		addr := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(l, addr)
		}
		if err == nil {
			err = unix.Listen(l, 0)
		}
		if err != nil {
			s.t.Error(err)
			return
		}
		fds = append(fds, l)
		for range 4 {
			c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				s.t.Error(err)
				return
			}
			fds = append(fds, c)
			_ = unix.Connect(c, addr)
		}
	})
	s.t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
}
