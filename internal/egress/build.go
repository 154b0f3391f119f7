package egress

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// build is the proxy of one builder: a listener inside its network namespace, its policy and its record.
type build struct {
	*settings
	id     bulwark.BuildID
	ledger *ledger
	spent  atomic.Int64 // bytes moved, both ways
	server *http.Server
	ctx    context.Context // ends with the build
	cancel context.CancelFunc
	work   sync.WaitGroup // everything that may still write to the ledger

	mu      sync.Mutex // guards what follows
	policy  Policy
	ln      net.Listener
	conns   map[*client]struct{}
	stopped bool
	// turnedAway counts the connections that are just being told that they are too many.
	turnedAway int
}

// maxTurnedAway is how many may be told so at once; the others are hung up on.
const maxTurnedAway = 16

func startBuild(id bulwark.BuildID, ln net.Listener, policy Policy, s *settings) *build {
	b := &build{settings: s, id: id, ledger: newLedger(), policy: policy, ln: ln, conns: map[*client]struct{}{}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	b.server = &http.Server{
		Handler:           http.HandlerFunc(b.serve),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       s.idle,
		MaxHeaderBytes:    32 << 10,
		Protocols:         protocols,
		ErrorLog:          log.New(io.Discard, "", 0), // what a builder sends is not our log's to repeat
		BaseContext:       func(net.Listener) context.Context { return b.ctx },
	}
	b.listen(ln)
	return b
}

// listen serves ln until it is closed. The caller holds mu, or is the only one who knows b.
func (b *build) listen(ln net.Listener) {
	b.work.Go(func() {
		// The error says that the listener was closed; every other one ends the listener too, and the node sees a
		// builder that cannot connect.
		if err := b.server.Serve(&gate{ln, b}); err != nil && b.ctx.Err() == nil {
			b.log.Debug("egress: listener ended", "build", b.id, "error", err)
		}
	})
}

func (b *build) renew(ln net.Listener, policy Policy) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return bulwark.Failf(bulwark.KindConflict, "The build %s is being released.", b.id)
	}
	if b.policy.App != policy.App {
		return bulwark.Failf(bulwark.KindConflict, "The build %s is registered for another app.", b.id)
	}
	old := b.ln
	b.policy, b.ln = policy, ln
	b.listen(ln)
	old.Close()
	return nil
}

// stop closes the listener and all connections and waits until each is in the ledger. It may be called twice.
func (b *build) stop() {
	b.mu.Lock()
	b.stopped = true
	b.ln.Close()
	open := make([]*client, 0, len(b.conns))
	for c := range b.conns {
		open = append(open, c)
	}
	b.mu.Unlock()
	b.cancel()
	for _, c := range open {
		c.Close()
	}
	b.server.Close()
	b.work.Wait()
}

func (b *build) current() Policy {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.policy
}

// begin notes that a handler runs; false when the build is over. It keeps work from growing while stop waits for it.
func (b *build) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return false
	}
	b.work.Add(1)
	return true
}

func (b *build) report() Report {
	entries, lost := b.ledger.snapshot()
	return Report{Build: b.id, App: b.current().App, Entries: entries, Lost: lost}
}

// finish records a connection. Only the first of its kind goes to the log: a builder must not be able to flood it.
func (b *build) finish(f *flow, cause error) {
	if !b.ledger.close(f) {
		return
	}
	b.log.Info("egress", "build", b.id, "host", f.host, "port", f.port, "address", f.address,
		"verdict", f.verdict, "reason", f.reason, "up", f.up.Load(), "down", f.down.Load(), "cause", cause)
}

// refuse records a connection that came to nothing.
func (b *build) refuse(f *flow, r *refusal) {
	f.end(r.verdict, r.reason)
	b.finish(f, r.cause)
}

// spend takes n bytes from what the build may move.
func (b *build) spend(n int, policy Policy) bool {
	limit := policy.MaxBytes
	if limit <= 0 {
		limit = DefaultMaxBytes
	}
	return b.spent.Add(int64(n)) <= limit
}

// gate is a listener that lets in as many connections as the build may have.
type gate struct {
	net.Listener
	b *build
}

// Accept implements [net.Listener].
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			conn.Close()
			continue
		}
		if c := g.b.admit(tcp); c != nil {
			return c, nil
		}
	}
}

func (b *build) admit(tcp *net.TCPConn) *client {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := b.policy.MaxConns
	if limit <= 0 {
		limit = DefaultMaxConns
	}
	if b.stopped {
		tcp.Close()
		return nil
	}
	if len(b.conns) >= limit {
		b.refuse(b.ledger.begin(), &refusal{verdict: Refused, reason: TooManyConns})
		if b.turnedAway < maxTurnedAway {
			b.turnedAway++
			b.work.Go(func() { b.turnAway(tcp) })
		} else {
			tcp.Close()
		}
		return nil
	}
	c := &client{TCPConn: tcp, b: b}
	b.conns[c] = struct{}{}
	return c
}

// turnAway tells a connection that it is one too many. It reads what was asked before it closes: to close with bytes
// unread would reset the connection, and the answer with it.
func (b *build) turnAway(tcp *net.TCPConn) {
	defer func() {
		tcp.Close()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.turnedAway--
	}()
	tcp.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(tcp, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Bulwark-Egress: too_many_conns\r\n\r\nThe build has too many connections open. Fetch less at once.\n")
	tcp.CloseWrite()
	_, _ = io.CopyN(io.Discard, tcp, 64<<10)
}

// client is a connection from the builder.
type client struct {
	*net.TCPConn
	b    *build
	once sync.Once
}

// Close closes the connection and makes room for another.
func (c *client) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(func() {
		c.b.mu.Lock()
		defer c.b.mu.Unlock()
		delete(c.b.conns, c)
	})
	return err
}
