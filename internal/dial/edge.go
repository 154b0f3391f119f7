package dial

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

const (
	retryFirst = 5 * time.Millisecond
	retryMost  = time.Second
)

// maxEdges is how many edges are served at once: more than replace each other in the time in which one leaves.
const maxEdges = 16

// followEdge keeps one connection waiting at the edge's socket. An edge that has none takes it and says so, and the next one waits:
// so an edge that begins has dial at once, and one that leaves keeps it, whether it is this dial or its successor.
func (s *server) followEdge(ctx context.Context) {
	wait := retryFirst
	room := make(chan struct{}, maxEdges)
	for ctx.Err() == nil {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := fdpass.Dial(s.cfg.EdgePath)
		if err != nil {
			<-room
			if wait >= retryMost {
				s.cfg.Logger.Warn("the edge cannot be reached", "error", err)
			}
			pause(ctx, wait)
			wait = min(2*wait, retryMost)
			continue
		}
		began := time.Now()
		taken := make(chan struct{})
		s.wg.Go(func() {
			defer func() { <-room }()
			s.serveEdge(ctx, conn, sync.OnceFunc(func() { close(taken) }))
		})
		<-taken
		// An edge that takes connections and drops them at once must not be asked in a tight loop.
		if time.Since(began) > retryMost {
			wait = retryFirst
		}
		pause(ctx, wait)
		wait = min(2*wait, retryMost)
	}
}

// serveEdge answers one edge until it hangs up. It calls taken when an edge has accepted conn, or none can any more.
func (s *server) serveEdge(ctx context.Context, conn *fdpass.Conn, taken func()) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer taken()
	defer conn.Close()
	for {
		var req bulwark.DialRequest
		files, err := conn.Receive(&req)
		fdpass.CloseAll(files) // the edge has nothing to give
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.cfg.Logger.Error("lost the edge", "error", err)
			}
			return
		}
		if req.Taken {
			taken()
			continue
		}
		s.dial(ctx, conn, req)
	}
}

// dial answers one request. It blocks while all workers are busy, which slows the edge down and no one else.
func (s *server) dial(ctx context.Context, conn *fdpass.Conn, req bulwark.DialRequest) {
	target, why := s.registry.find(req.Instance, req.Host)
	if why != "" {
		s.cfg.Logger.Warn("refused a connection", "instance", req.Instance, "host", req.Host, "why", why)
		s.reply(conn, req.ID, nil, why)
		return
	}
	select {
	case s.attempts <- struct{}{}:
	case <-ctx.Done():
		return
	}
	done := func(fd int, err error) {
		s.wg.Go(func() {
			if errors.Is(err, os.ErrClosed) { // since it was found it was registered anew, or forgotten
				<-s.attempts
				s.dial(ctx, conn, req)
				return
			}
			defer func() { <-s.attempts }()
			if err != nil {
				s.cfg.Logger.Error("cannot make a socket", "instance", req.Instance, "error", err)
				s.reply(conn, req.ID, nil, bulwark.DialRefused)
				return
			}
			f, why := connect(ctx, fd, target.address, s.cfg.Timeout)
			s.reply(conn, req.ID, f, why)
		})
	}
	select {
	case s.jobs <- job{target: target, done: done}:
	case <-ctx.Done():
		<-s.attempts
	}
}

// reply sends an answer and closes our copy of the socket.
func (s *server) reply(conn *fdpass.Conn, id uint64, f *os.File, why bulwark.DialError) {
	reply := bulwark.DialReply{ID: id, Error: why}
	if f == nil {
		_ = conn.Send(reply) // an edge that is gone needs no answer
		return
	}
	err := conn.Send(reply, f)
	f.Close()
	if err != nil && !errors.Is(err, unix.EPIPE) {
		s.cfg.Logger.Error("cannot pass a socket", "error", err)
		_ = conn.Send(bulwark.DialReply{ID: id, Error: bulwark.DialRefused})
	}
}
