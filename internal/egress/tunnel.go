package egress

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// errBytes ends a connection whose build has moved as much as it may.
var errBytes = errors.New("the build has moved as many bytes as it may")

// errIdle ends a connection on which nothing moved either way.
var errIdle = errors.New("nothing moved")

// tunnel checks what the builder says first, then copies both ways. It returns why the tunnel ended; what became of it
// is in f.
func (b *build) tunnel(to place, policy Policy, f *flow, down *client, early *bufio.Reader, up *net.TCPConn) error {
	if _, err := io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		f.end(Failed, ClientGone)
		return err
	}
	// What the builder sent before it had its answer comes first.
	first, _ := early.Peek(early.Buffered())
	from := &replayed{TCPConn: down.TCPConn, first: bytes.NewReader(first)}
	var said []byte
	if to.port == PortTLS {
		var no *refusal
		if said, no = inspect(from, to); no != nil {
			f.end(no.verdict, no.reason)
			return errors.Join(no, no.cause)
		}
	}
	t := &splice{b: b, f: f, policy: policy, idle: b.idle}
	t.moved.Store(time.Now().UnixNano())
	if len(said) > 0 {
		if err := t.pass(up, said, &f.up); err != nil {
			return err
		}
	}
	var both sync.WaitGroup
	var errUp, errDown error
	both.Go(func() { errUp = t.upward(up, from, to); t.closeOn(errUp, up, down) })
	both.Go(func() { errDown = t.copy(down, up, &f.down); t.closeOn(errDown, up, down) })
	both.Wait()
	return errors.Join(errUp, errDown)
}

// splice copies between two connections.
type splice struct {
	b      *build
	f      *flow
	policy Policy
	idle   time.Duration
	moved  atomic.Int64 // when a byte last moved, in either direction; UnixNano
}

// closeOn ends both directions when one of them failed. An end of file is no failure: the other direction goes on.
func (t *splice) closeOn(err error, conns ...io.Closer) {
	if err == nil {
		return
	}
	for _, c := range conns {
		c.Close()
	}
}

// upward copies from the builder. On the ports where TLS is not compulsory, a TLS handshake is looked at all the same:
// a rule for a host on port 8443 is about that host too.
func (t *splice) upward(up *net.TCPConn, from *replayed, to place) error {
	if to.port == PortTLS {
		return t.copy(up, from, &t.f.up)
	}
	var one [1]byte
	n, err := t.read(from, one[:])
	if n == 0 {
		return t.ended(up, err)
	}
	from.first = io.MultiReader(bytes.NewReader(one[:]), from.first)
	if one[0] == recordHandshake {
		said, no := inspect(from, to)
		if no != nil {
			t.f.end(no.verdict, no.reason)
			return errors.Join(no, no.cause)
		}
		if err := t.pass(up, said, &t.f.up); err != nil {
			return err
		}
	}
	return t.copy(up, from, &t.f.up)
}

// half is one end of a tunnel.
type half interface {
	net.Conn
	CloseWrite() error
}

// copy copies until from ends, then ends the writing side of to: each direction closes by itself.
func (t *splice) copy(to half, from net.Conn, count *atomic.Int64) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := t.read(from, buf)
		if n > 0 {
			if err := t.pass(to, buf[:n], count); err != nil {
				return err
			}
		}
		if err != nil {
			return t.ended(to, err)
		}
	}
}

func (t *splice) ended(to half, err error) error {
	if errors.Is(err, io.EOF) {
		to.CloseWrite() // fails if the other end is gone already, and then there is nobody to tell
		return nil
	}
	return err
}

// read waits for bytes as long as something moves in either direction: a long download is not idle.
func (t *splice) read(from net.Conn, buf []byte) (int, error) {
	for {
		from.SetReadDeadline(time.Unix(0, t.moved.Load()).Add(t.idle))
		n, err := from.Read(buf)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if time.Since(time.Unix(0, t.moved.Load())) >= t.idle {
			return 0, errIdle
		}
	}
}

func (t *splice) pass(to net.Conn, p []byte, count *atomic.Int64) error {
	t.moved.Store(time.Now().UnixNano())
	if !t.b.spend(len(p), t.policy) {
		t.f.end(Refused, TooManyBytes)
		return errBytes
	}
	to.SetWriteDeadline(time.Now().Add(t.idle))
	n, err := to.Write(p)
	count.Add(int64(n))
	t.moved.Store(time.Now().UnixNano())
	return err
}

// replayed is a connection whose first bytes were read already.
type replayed struct {
	*net.TCPConn
	first io.Reader
}

// Read implements [io.Reader].
func (r *replayed) Read(p []byte) (int, error) {
	if n, err := r.first.Read(p); n > 0 || err != io.EOF {
		return n, err
	}
	return r.TCPConn.Read(p)
}

// metered counts what a plain request moves and bounds how long it may be silent.
type metered struct {
	*net.TCPConn
	b      *build
	f      *flow
	policy Policy
}

// Read implements [io.Reader].
func (m *metered) Read(p []byte) (int, error) {
	m.SetReadDeadline(time.Now().Add(m.b.idle))
	n, err := m.TCPConn.Read(p)
	m.f.down.Add(int64(n))
	if !m.b.spend(n, m.policy) {
		m.f.end(Refused, TooManyBytes)
		return 0, errBytes
	}
	return n, err
}

// Write implements [io.Writer].
func (m *metered) Write(p []byte) (int, error) {
	if !m.b.spend(len(p), m.policy) {
		m.f.end(Refused, TooManyBytes)
		return 0, errBytes
	}
	m.SetWriteDeadline(time.Now().Add(m.b.idle))
	n, err := m.TCPConn.Write(p)
	m.f.up.Add(int64(n))
	return n, err
}

// ReadFrom hides the one of the TCP connection, which would move bytes past the count.
func (m *metered) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{m}, r)
}

// WriteTo hides the one of the TCP connection, for the same reason.
func (m *metered) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{m})
}

func addrOf(c *net.TCPConn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
