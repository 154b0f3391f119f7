package edge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// connectTime bounds how long a request waits for a connection to one instance, dial's absence included.
const connectTime = 2 * time.Second

// dialAway is what the edge itself says when dial is not there; like dial's own reasons, nothing was sent.
const dialAway bulwark.DialError = "away"

// dialer asks dial for connections. Dial connects to the edge, never the other way round.
type dialer struct {
	logger *slog.Logger

	mu      sync.Mutex
	conn    *fdpass.Conn  // nil while dial is away
	since   time.Time     // when it came
	arrived chan struct{} // closed when conn is there
	pending map[uint64]waiting
	next    uint64
}

// waiting is a request to dial that has no answer yet.
type waiting struct {
	conn   *fdpass.Conn
	answer chan dialed // has room for one
}

type dialed struct {
	file *os.File
	why  bulwark.DialError
}

func newDialer(logger *slog.Logger) *dialer {
	return &dialer{logger: logger, arrived: make(chan struct{}), pending: map[uint64]waiting{}}
}

// present says whether dial is connected.
func (d *dialer) present() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil
}

// accept takes one of dial's connections, and the next when that has ended. The others are left to the edges beside us: one that leaves
// still needs dial for what it answers, and its successor does already.
func (d *dialer) accept(ctx context.Context, l *net.UnixListener, uid uint32) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for ctx.Err() == nil {
		sock, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			d.logger.Error("cannot accept dial", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
				continue
			}
		}
		if pid, peer, _, err := fdpass.Peer(sock); err != nil || peer != uid {
			d.logger.Warn("refused a connection to dial's socket", "uid", peer, "pid", pid, "error", err)
			sock.Close()
			continue
		}
		d.serve(ctx, fdpass.New(sock))
	}
}

// serve uses conn until it ends.
func (d *dialer) serve(ctx context.Context, conn *fdpass.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.Send(bulwark.DialRequest{Taken: true}); err != nil {
		conn.Close() // it waited for us longer than its dial lived
		return
	}
	d.mu.Lock()
	d.conn, d.since = conn, time.Now()
	close(d.arrived)
	d.mu.Unlock()
	d.receive(conn)
}

// receive hands dial's answers to those who wait, until dial is gone.
func (d *dialer) receive(conn *fdpass.Conn) {
	for {
		var reply bulwark.DialReply
		files, err := conn.Receive(&reply)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				d.logger.Error("lost dial", "error", err)
			}
			d.lose(conn)
			return
		}
		d.mu.Lock()
		w, ok := d.pending[reply.ID]
		delete(d.pending, reply.ID)
		d.mu.Unlock()
		if !ok || len(files) > 1 || (reply.Error == "") != (len(files) == 1) {
			fdpass.CloseAll(files) // nobody waits any more, or nonsense
			if ok {
				w.answer <- dialed{why: bulwark.DialRefused}
			}
			continue
		}
		if reply.Error != "" {
			w.answer <- dialed{why: reply.Error}
			continue
		}
		w.answer <- dialed{file: files[0]}
	}
}

// lose notes that conn is gone and tells those who wait for it.
func (d *dialer) lose(conn *fdpass.Conn) {
	conn.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == conn {
		d.conn = nil
		d.arrived = make(chan struct{})
	}
	for id, w := range d.pending {
		if w.conn == conn {
			delete(d.pending, id)
			w.answer <- dialed{why: dialAway}
		}
	}
}

// Dial knows nothing when it begins: the node tells it all there is within a part of a second. Until settleTime has
// passed, "unknown" means "not told yet", and it is asked again.
const (
	settleTime = 3 * time.Second
	settleStep = 20 * time.Millisecond
)

// connect returns a new connection to the instance, for a request to host. While dial is being replaced it waits.
func (d *dialer) connect(ctx context.Context, id bulwark.InstanceID, host bulwark.HostName) (net.Conn, bulwark.DialError) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	for {
		conn, why := d.once(ctx, id, host)
		if why != dialAway && (why != bulwark.DialUnknown || !d.settling()) {
			return conn, why
		}
		select {
		case <-ctx.Done():
			return nil, why
		case <-time.After(settleStep):
		}
	}
}

// settling tells that dial has come a short while ago.
func (d *dialer) settling() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn == nil || time.Since(d.since) < settleTime
}

// once asks dial for a connection one time.
func (d *dialer) once(ctx context.Context, id bulwark.InstanceID, host bulwark.HostName) (net.Conn, bulwark.DialError) {
	n, answer, why := d.ask(ctx, id, host)
	if why != "" {
		return nil, why
	}
	select {
	case a := <-answer:
		return a.open()
	case <-ctx.Done():
	}
	d.mu.Lock()
	_, unanswered := d.pending[n]
	delete(d.pending, n)
	d.mu.Unlock()
	if !unanswered { // the answer crossed the time-out: it is in the channel, or about to be
		if a := <-answer; a.file != nil {
			a.file.Close()
		}
	}
	return nil, bulwark.DialTimeout
}

// ask sends a request to dial, waiting for dial to be there.
func (d *dialer) ask(ctx context.Context, id bulwark.InstanceID, host bulwark.HostName) (uint64, chan dialed, bulwark.DialError) {
	for {
		d.mu.Lock()
		conn, arrived := d.conn, d.arrived
		if conn == nil {
			d.mu.Unlock()
			select {
			case <-arrived:
				continue
			case <-ctx.Done():
				return 0, nil, dialAway
			}
		}
		d.next++
		n, answer := d.next, make(chan dialed, 1)
		d.pending[n] = waiting{conn: conn, answer: answer}
		d.mu.Unlock()
		conn.Socket().SetWriteDeadline(time.Now().Add(connectTime)) // a dial that does not read must not hold us
		if err := conn.Send(bulwark.DialRequest{ID: n, Instance: id, Host: host}); err != nil {
			d.lose(conn) // answers us too; dial comes again
		}
		return n, answer, ""
	}
}

// open makes a connection of what dial passed.
func (a dialed) open() (net.Conn, bulwark.DialError) {
	if a.file == nil {
		return nil, a.why
	}
	defer a.file.Close()
	c, err := net.FileConn(a.file)
	if err != nil {
		return nil, bulwark.DialRefused
	}
	return c, ""
}
