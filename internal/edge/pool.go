package edge

import (
	"bufio"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

const (
	maxIdle  = 64               // idle connections kept per instance
	idleTime = 20 * time.Second // how long one is kept
	// lifeTime is how long a connection is used at all: then dial is asked again whether the host is still claimed.
	lifeTime = time.Minute
	// freshTime is how long a connection may have been idle to carry a request that cannot be repeated. Servers close
	// idle connections after a few seconds (Node after five, gunicorn after two); within a second none does.
	freshTime = time.Second
	// maxReplyHeader bounds what an app can make the edge hold of its answer's header.
	maxReplyHeader = 256 << 10
)

var errReplyHeader = errors.New("the header of the answer is too large")

// upConn is a connection to an instance.
type upConn struct {
	net.Conn
	r      *bufio.Reader
	budget int // bytes that may be read of a header; unlimited if negative
	raw    syscall.RawConn
	peek   func(fd uintptr) // made once, since a closure a request is garbage a request
	quiet  bool             // peek's result
	abort  func()           // ends all reads and writes at once
	reused bool
	host   bulwark.HostName // for which dial made it; it carries requests for no other
	made   time.Time
	since  time.Time // idle since
}

func newUpConn(c net.Conn, host bulwark.HostName) *upConn {
	u := &upConn{Conn: c, budget: -1, host: host, made: time.Now()}
	u.r = bufio.NewReaderSize(readerFunc(u.read), 4096)
	u.abort = func() { u.SetDeadline(time.Unix(1, 0)) }
	if sc, ok := c.(syscall.Conn); ok {
		u.raw, _ = sc.SyscallConn()
	}
	u.peek = func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		u.quiet = err == unix.EAGAIN || err == unix.EINTR
	}
	return u
}

func (u *upConn) buffered() int         { return u.r.Buffered() }
func (u *upConn) await(d time.Duration) { _ = u.SetReadDeadline(time.Now().Add(d)) }
func (u *upConn) end()                  { u.abort() }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// read counts against budget.
func (u *upConn) read(b []byte) (int, error) {
	if u.budget < 0 {
		return u.Conn.Read(b)
	}
	if u.budget == 0 {
		return 0, errReplyHeader
	}
	n, err := u.Conn.Read(b[:min(len(b), u.budget)])
	u.budget -= n
	return n, err
}

// idle says whether nothing came in: neither an end nor bytes that nobody asked for.
func (u *upConn) idle() bool {
	if u.raw == nil || u.r.Buffered() > 0 {
		return false
	}
	u.quiet = false
	if u.raw.Control(u.peek) != nil {
		return false
	}
	return u.quiet
}

// pool holds an instance's idle connections, the one used last on top.
type pool struct {
	mu     sync.Mutex
	conns  []*upConn
	closed bool
}

// get returns an idle connection for host that is still good and not idle for longer than most, nil if there is none.
// Only dial says for which hosts an instance answers, so a connection that was made for one host is not used for
// another, though it leads to the same place.
func (p *pool) get(host bulwark.HostName, most time.Duration) *upConn {
	for {
		c := p.take(host, most)
		if c == nil {
			return nil
		}
		if c.idle() {
			c.reused = true
			return c
		}
		c.Close()
	}
}

func (p *pool) take(host bulwark.HostName, most time.Duration) *upConn {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := len(p.conns) - 1; n >= 0; n-- {
		c := p.conns[n]
		if now.Sub(c.since) > most {
			return nil // those below are idle for longer
		}
		if c.host == host && now.Sub(c.made) < lifeTime {
			p.conns = slices.Delete(p.conns, n, n+1)
			return c
		}
	}
	return nil
}

// put keeps c for the next request, or closes it.
func (p *pool) put(c *upConn) {
	c.since = time.Now()
	p.mu.Lock()
	if !p.closed && len(p.conns) < maxIdle {
		p.conns = append(p.conns, c)
		c = nil
	}
	p.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// closeStale closes what the instance closed, or what was idle for too long.
func (p *pool) closeStale(now time.Time) {
	p.mu.Lock()
	kept := p.conns[:0]
	var stale []*upConn
	for _, c := range p.conns {
		if now.Sub(c.since) < idleTime && now.Sub(c.made) < lifeTime && c.idle() {
			kept = append(kept, c)
		} else {
			stale = append(stale, c)
		}
	}
	clear(p.conns[len(kept):])
	p.conns = kept
	p.mu.Unlock()
	for _, c := range stale {
		c.Close()
	}
}

// closeIdle closes all that is idle; what is in use is closed when it would become so, until reopen.
func (p *pool) closeIdle() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// reopen lets the pool keep connections again.
func (p *pool) reopen() {
	p.mu.Lock()
	p.closed = false
	p.mu.Unlock()
}

// count returns how many connections are idle.
func (p *pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}
