package terminal

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Local is what a client connects to a stream.
type Local struct {
	Start   Start
	Stdin   io.Reader // read until its end; a read that is under way when the command ends is left behind
	Stdout  io.Writer
	Stderr  io.Writer
	Windows <-chan Window         // new sizes of the terminal; may be nil
	Signals <-chan syscall.Signal // to pass on; may be nil
}

// endTime is how long a client waits for the end that it asked for: a little longer than a node takes to kill.
const endTime = 20 * time.Second

// Attach runs a client's end of a stream until the command has ended, and returns its exit code. When ctx ends the command
// is asked to end; its last words are still printed, and the error is ctx's. The stream is closed in any case.
func (s *Stream) Attach(ctx context.Context, l Local) (code int, err error) {
	var helpers sync.WaitGroup
	done := make(chan struct{})
	defer func() {
		close(done)
		s.conn.Close()
		helpers.Wait()
	}()
	if err := s.Send(l.Start.Frame()); err != nil {
		return 0, cut(err)
	}
	room := newRoom(StdinWindow)
	go s.pump(l.Stdin, room, done) // not waited for: a read of a terminal cannot be ended
	helpers.Go(func() { s.attend(ctx, l, done) })
	code, err = s.print(l, room)
	if err == nil {
		_ = s.Send(Frame{Type: TypeClose}) // the node may be gone: it has said all
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return code, err
}

// print passes on what the node sends until it has closed.
func (s *Stream) print(l Local, room *room) (code int, err error) {
	ended := false
	for {
		f, err := s.Receive()
		switch {
		case errors.Is(err, io.EOF) && !ended:
			return 0, malformed("an end without an exit code")
		case errors.Is(err, io.EOF):
			return code, nil
		case err != nil:
			return 0, err
		}
		switch f.Type {
		case TypeStdout:
			_, err = l.Stdout.Write(f.Data)
		case TypeStderr:
			_, err = l.Stderr.Write(f.Data)
		case TypeTaken:
			err = room.free(f.Taken())
		case TypeExit:
			code, ended = int(f.Data[0]), true
		case TypeFailure:
			return 0, f.Failure()
		}
		if err != nil {
			return 0, err
		}
	}
}

// attend sends what happens beside stdin: signs of life, sizes, signals, and the wish to end.
func (s *Stream) attend(ctx context.Context, l Local, done <-chan struct{}) {
	alive := time.NewTicker(AliveEvery)
	defer alive.Stop()
	for {
		f := Frame{Type: TypeAlive}
		select {
		case <-done:
			return
		case <-ctx.Done():
			s.hangUp(done)
			return
		case <-alive.C:
		case w := <-l.Windows:
			f = w.Frame()
		case sig := <-l.Signals:
			f = Frame{TypeSignal, []byte{byte(sig)}}
		}
		if s.Send(f) != nil {
			return // the receiver learns why
		}
	}
}

// hangUp asks the node to end the command, and cuts the connection if it does not.
func (s *Stream) hangUp(done <-chan struct{}) {
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	go func() { _ = s.Send(Frame{Type: TypeClose}) }() // blocks if the node does not read; the timer ends that
	select {
	case <-done:
	case <-timer.C:
		s.conn.Close()
	}
}

// pump sends stdin, never more than the node has room for.
func (s *Stream) pump(stdin io.Reader, room *room, done <-chan struct{}) {
	buf := make([]byte, MaxPayload)
	for {
		n, err := stdin.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			k := room.take(len(rest), done)
			if k == 0 || s.Send(Frame{TypeStdin, rest[:k]}) != nil {
				return
			}
			rest = rest[k:]
		}
		if err != nil {
			_ = s.Send(Frame{Type: TypeStdinEnd}) // the command may have ended meanwhile
			return
		}
	}
}

// room is how much stdin may be on its way.
type room struct {
	mu    sync.Mutex // guards left
	left  int
	total int
	more  chan struct{}
}

func newRoom(n int) *room { return &room{left: n, total: n, more: make(chan struct{}, 1)} }

// take waits for room and returns how much of n there is, 0 when done is closed.
func (r *room) take(n int, done <-chan struct{}) int {
	for {
		r.mu.Lock()
		k := min(n, r.left)
		r.left -= k
		r.mu.Unlock()
		if k > 0 {
			return k
		}
		select {
		case <-r.more:
		case <-done:
			return 0
		}
	}
}

// free gives room back.
func (r *room) free(n int) error {
	r.mu.Lock()
	r.left += n
	ok := r.left <= r.total
	r.mu.Unlock()
	select {
	case r.more <- struct{}{}:
	default:
	}
	if !ok {
		return bulwark.Failf(bulwark.KindInvalid, "The node has taken more than it was sent.")
	}
	return nil
}
