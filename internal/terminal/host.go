package terminal

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"
)

// Streams are the node's ends of a command's standard streams. Whoever runs the command closes Stdout and Stderr after the
// last byte; Stderr is not used if there is a terminal.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
}

// Process is a command that was started for a stream.
type Process interface {
	// Resize tells the command's terminal its size.
	Resize(Window)
	// Signal passes a signal on.
	Signal(syscall.Signal)
	// End ends the command, in steps that get harder; it may be called while Wait waits and returns when that is done.
	End()
	// Wait returns the exit code once the command has ended.
	Wait() (code int, err error)
}

// closeTime is how long a client may take to close after it was told the end.
const closeTime = 10 * time.Second

// Host runs the node's end of a stream: it has start start the command when the client's first frame was opened, and returns
// when the command has ended, which it does at the latest when the client is gone or ctx ends. The stream is closed then.
func (s *Stream) Host(ctx context.Context, start func(Start, Streams) (Process, error)) error {
	defer s.conn.Close()
	s.silent = SilentFor
	first, err := s.Receive()
	if err != nil {
		return err
	}
	h := &host{stream: s, stdin: newInbox(func(n int) { _ = s.Send(taken(n)) })} // the receiver learns that the client is gone
	h.outputs.Add(2)
	stdout, stderr := &outlet{h: h, kind: TypeStdout}, &outlet{h: h, kind: TypeStderr}
	p, err := start(first.Start(), Streams{Stdin: h.stdin, Stdout: stdout, Stderr: stderr})
	if err != nil {
		err = errors.Join(err, s.finish(failure(err)))
		s.linger(func() {
			for {
				if _, rerr := s.Receive(); rerr != nil {
					return
				}
			}
		})
		return err
	}
	gone := make(chan error, 1)
	go func() { gone <- h.receive(p) }()
	code, err := h.wait(ctx, p, gone)
	h.stdin.close()
	if err != nil {
		err = errors.Join(err, s.finish(failure(err)))
	} else {
		h.flush(gone)
		err = s.finish(Frame{TypeExit, []byte{byte(code)}})
	}
	if h.left == nil {
		s.linger(func() { h.left = <-gone })
	}
	return err
}

// linger waits until the client has closed, which it does when it has read all. A relay between the two that cannot pass on what the
// client still sends gives up both directions, and with them the end that is on its way.
func (s *Stream) linger(left func()) {
	timer := time.AfterFunc(closeTime, func() { s.conn.Close() })
	defer timer.Stop()
	left()
}

// finish sends the last frame and close.
func (s *Stream) finish(f Frame) error {
	if err := s.Send(f); err != nil {
		return err
	}
	return s.Send(Frame{Type: TypeClose})
}

// host is what a stream's goroutines share.
type host struct {
	stream  *Stream
	stdin   *inbox
	outputs sync.WaitGroup
	left    error // why the client left; nil if it has not
}

// wait waits for the command's end, and brings it about when the client has gone or ctx has ended.
func (h *host) wait(ctx context.Context, p Process, gone <-chan error) (code int, err error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, err = p.Wait()
	}()
	select {
	case <-ended:
		return code, err
	case h.left = <-gone:
		if !errors.Is(h.left, io.EOF) {
			h.stream.conn.Close() // nobody reads: what is printed must not wait for it
			break
		}
		timer := time.AfterFunc(endTime, func() { h.stream.conn.Close() }) // it waits no longer either
		defer timer.Stop()
	case <-ctx.Done():
	}
	// Its stdin stays open: what was cut off is no end, and a shell would run half a line.
	p.End()
	<-ended
	return code, err
}

// receive passes on what the client sends until it has closed; the error is why.
func (h *host) receive(p Process) error {
	for {
		f, err := h.stream.Receive()
		if err != nil {
			return err
		}
		switch f.Type {
		case TypeStdin:
			if err := h.stdin.put(f.Data); err != nil {
				return err
			}
		case TypeStdinEnd:
			h.stdin.finish()
		case TypeWindow:
			p.Resize(f.Window())
		case TypeSignal:
			p.Signal(syscall.Signal(f.Data[0]))
		}
	}
}

// flush waits until the command's output was sent. A client that reads slowly is waited for, one that is gone is not.
func (h *host) flush(gone <-chan error) {
	done := make(chan struct{})
	go func() {
		h.outputs.Wait()
		close(done)
	}()
	if h.left != nil {
		gone = nil // its sends end by themselves
	}
	select {
	case <-done:
	case h.left = <-gone:
	}
}

// outlet sends what a command prints. When nobody listens any more it takes everything, so that a command which is being
// ended can say its last words to nobody.
type outlet struct {
	h    *host
	kind Type
	once sync.Once
}

// Write implements [io.Writer].
func (o *outlet) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), MaxPayload)
		if o.h.stream.Send(Frame{o.kind, rest[:n]}) != nil {
			break
		}
		rest = rest[n:]
	}
	return len(b), nil
}

// Close implements [io.Closer].
func (o *outlet) Close() error {
	o.once.Do(o.h.outputs.Done)
	return nil
}

// inbox holds stdin that the command has not taken yet, at most StdinWindow: so the receiver never waits for the command,
// and sees a signal or an end behind it.
type inbox struct {
	taken func(int)
	mu    sync.Mutex // guards what follows
	more  *sync.Cond
	buf   []byte
	end   bool // nothing more comes
	shut  bool // what is left is of no use
}

func newInbox(taken func(int)) *inbox {
	i := &inbox{taken: taken}
	i.more = sync.NewCond(&i.mu)
	return i
}

func (i *inbox) put(b []byte) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.buf)+len(b) > StdinWindow {
		return malformed("more than there is room for")
	}
	i.buf = append(i.buf, b...)
	i.more.Broadcast()
	return nil
}

func (i *inbox) finish() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.end = true
	i.more.Broadcast()
}

func (i *inbox) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.end, i.shut, i.buf = true, true, nil
	i.more.Broadcast()
}

// Read implements [io.Reader].
func (i *inbox) Read(b []byte) (int, error) {
	i.mu.Lock()
	for len(i.buf) == 0 && !i.end {
		i.more.Wait()
	}
	n := copy(b, i.buf)
	i.buf = i.buf[n:]
	shut := i.shut
	i.mu.Unlock()
	switch {
	case n == 0:
		return 0, io.EOF
	case !shut:
		i.taken(n)
	}
	return n, nil
}
