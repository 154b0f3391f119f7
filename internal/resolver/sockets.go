package resolver

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// maxSockets is how many groups of sockets the node may hand over: one for each instance would do.
const maxSockets = 4096

// sockets are those that the node handed over together.
type sockets struct {
	udp    []*net.UDPConn
	tcp    []*net.TCPListener
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	closed bool
}

// adopt makes sockets of files: bound UDP sockets and listening TCP sockets, nothing else.
func adopt(files []*os.File) (*sockets, error) {
	s := &sockets{conns: map[net.Conn]struct{}{}}
	for _, f := range files {
		if err := s.add(f); err != nil {
			s.closeAll()
			return nil, bulwark.Fail(bulwark.KindInvalid, "A descriptor is neither a bound UDP socket nor a listening TCP socket.", "", err)
		}
	}
	return s, nil
}

func (s *sockets) add(f *os.File) error {
	if pc, err := net.FilePacketConn(f); err == nil {
		udp, ok := pc.(*net.UDPConn)
		if !ok {
			pc.Close()
			return errors.New("a packet socket of another kind")
		}
		s.udp = append(s.udp, udp)
		return prepare(udp)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return err
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		ln.Close()
		return errors.New("a listener of another kind")
	}
	s.tcp = append(s.tcp, tcp)
	return control(tcp, func(fd int) error {
		if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || v == 0 {
			return errors.Join(errors.New("a TCP socket that does not listen"), err)
		}
		return nil
	})
}

// prepare has the kernel tell to which of the machine's addresses a query came: the answer must leave from the same.
func prepare(udp *net.UDPConn) error {
	if udp.RemoteAddr() != nil {
		return errors.New("a UDP socket that is connected")
	}
	return control(udp, func(fd int) error {
		err4 := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		if err4 != nil && err6 != nil {
			return err4
		}
		return nil
	})
}

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
}

// listen serves sockets under a name; those that had the name before are closed.
func (r *resolver) listen(name string, files []*os.File) error {
	s, err := adopt(files)
	if err != nil {
		return err
	}
	r.mu.Lock()
	old := r.sockets[name]
	if r.closed || old == nil && len(r.sockets) >= maxSockets {
		r.mu.Unlock()
		s.closeAll()
		return bulwark.Failf(bulwark.KindBusy, "The resolver takes no more sockets.")
	}
	r.sockets[name] = s
	ctx, cancel := context.WithCancel(r.ctx)
	s.cancel = cancel
	for _, u := range s.udp {
		s.work.Go(func() { r.serveUDP(ctx, s, u) })
	}
	for _, l := range s.tcp {
		s.work.Go(func() { r.serveTCP(ctx, s, l) })
	}
	r.mu.Unlock()
	if old != nil {
		old.stop()
	}
	return nil
}

// unlisten closes the sockets of a name.
func (r *resolver) unlisten(name string) error {
	r.mu.Lock()
	s := r.sockets[name]
	delete(r.sockets, name)
	r.mu.Unlock()
	if s == nil {
		return bulwark.Failf(bulwark.KindNotFound, "The resolver has no sockets called %+q.", name)
	}
	s.stop()
	return nil
}

// close stops all sockets.
func (r *resolver) close() {
	r.mu.Lock()
	r.closed = true
	all := make([]*sockets, 0, len(r.sockets))
	for _, s := range r.sockets {
		all = append(all, s)
	}
	clear(r.sockets)
	r.mu.Unlock()
	for _, s := range all {
		s.stop()
	}
	r.flights.Wait()
}

func (s *sockets) stop() {
	s.cancel()
	s.closeAll()
	s.work.Wait()
}

func (s *sockets) closeAll() {
	for _, u := range s.udp {
		u.Close()
	}
	for _, l := range s.tcp {
		l.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}

func (s *sockets) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *sockets) forget(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}
