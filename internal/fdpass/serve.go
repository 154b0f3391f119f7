package fdpass

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Server answers the connections of one user of the machine's.
type Server struct {
	Listener *net.UnixListener // of unixpacket; Run closes it
	User     uint32            // who may connect, as the kernel says it: nothing is read from anybody else
	Most     int               // connections at once; one more is hung up on
	Log      *slog.Logger
	Serve    func(*Conn) // one connection, which is closed when it returns, and when ctx ends
}

// acceptPause is how long Run waits when there are no descriptors left: they come back when connections end.
const acceptPause = 50 * time.Millisecond

// Run serves until ctx ends and all connections with it; then it returns nil. An error is the listener's.
func (s Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	defer s.Listener.Close()
	defer context.AfterFunc(ctx, func() { s.Listener.Close() })()
	room := make(chan struct{}, s.Most)
	for {
		sock, err := s.Listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				sock.Close()
			}
			return nil
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED):
			s.Log.Error("a connection of the node's cannot be accepted", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		case err != nil:
			return err
		}
		if pid, uid, _, err := Peer(sock); err != nil || uid != s.User {
			s.Log.Warn("a stranger at the node's socket was turned away", "uid", uid, "pid", pid, "error", err)
			sock.Close()
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			sock.Close()
			continue
		}
		conn := New(sock)
		work.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.Serve(conn)
		})
	}
}
