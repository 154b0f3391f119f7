package terminal

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/bulwark-paas/bulwark"
)

// Stream is one end of an encrypted stream. One goroutine may receive while others send.
type Stream struct {
	conn io.ReadWriteCloser
	node bool // this is the node's end

	write sync.Mutex // guards out, sent and closed; held over a record, so that records go out in the order of their numbers
	out   half
	sent  bool // the last frame, but for close, is out
	shut  bool // close is out

	in      half
	started bool // the first frame is in
	stdin   bool // stdin has ended
	last    bool // only close may follow
	over    bool // close is in
	buf     []byte
	silent  time.Duration // how long the other end may be silent; 0 for ever
}

// half is one direction.
type half struct {
	aead   cipher.AEAD
	number uint64
}

// nonce returns the next nonce. A number is never used twice: 2^64 records are never reached.
func (h *half) nonce() []byte {
	n := make([]byte, chacha20poly1305.NonceSize)
	binary.BigEndian.PutUint64(n[4:], h.number)
	h.number++
	return n
}

func newStream(conn io.ReadWriteCloser, out, in []byte, node bool) (*Stream, error) {
	s := &Stream{conn: conn, node: node, buf: make([]byte, 1+MaxPayload+chacha20poly1305.Overhead)}
	var err error
	if s.out.aead, err = chacha20poly1305.New(out); err != nil {
		return nil, err
	}
	s.in.aead, err = chacha20poly1305.New(in)
	return s, err
}

// Send sends a frame. Nothing is sent after close.
func (s *Stream) Send(f Frame) error {
	if err := f.check(); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if s.shut || s.sent && f.Type != TypeClose {
		return io.ErrClosedPipe
	}
	s.shut = f.Type == TypeClose
	s.sent = s.sent || f.Type == TypeExit || f.Type == TypeFailure
	size := 1 + len(f.Data) + chacha20poly1305.Overhead
	record := binary.BigEndian.AppendUint16(make([]byte, 0, 2+size), uint16(size))
	plain := append([]byte{byte(f.Type)}, f.Data...)
	_, err := s.conn.Write(s.out.aead.Seal(record, s.out.nonce(), plain, record))
	return err
}

// Receive returns the next frame, io.EOF after the other end's close. Every other error is final: the stream was cut off,
// altered on its way, or the other end does not keep to the protocol.
func (s *Stream) Receive() (Frame, error) {
	if s.over {
		return Frame{}, io.EOF
	}
	if d, ok := s.conn.(interface{ SetReadDeadline(time.Time) error }); ok && s.silent > 0 {
		if err := d.SetReadDeadline(time.Now().Add(s.silent)); err != nil {
			return Frame{}, cut(err)
		}
	}
	var head [2]byte
	if _, err := io.ReadFull(s.conn, head[:]); err != nil {
		return Frame{}, cut(err)
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < 1+chacha20poly1305.Overhead || n > len(s.buf) {
		return Frame{}, malformed(fmt.Sprintf("a record of %d bytes", n))
	}
	if _, err := io.ReadFull(s.conn, s.buf[:n]); err != nil {
		return Frame{}, cut(err)
	}
	plain, err := s.in.aead.Open(s.buf[:0], s.in.nonce(), s.buf[:n], head[:])
	if err != nil {
		return Frame{}, bulwark.Fail(bulwark.KindForbidden, "The terminal's stream was altered on its way.",
			"Somebody between you and the node may be at work; the command is ended.", err)
	}
	f := Frame{Type(plain[0]), plain[1:]}
	if err := f.check(); err != nil {
		return Frame{}, err
	}
	if err := s.place(f); err != nil {
		return Frame{}, err
	}
	if s.over {
		return Frame{}, io.EOF
	}
	return f, nil
}

// place tells whether a frame may come from the other end now, and notes what may follow.
func (s *Stream) place(f Frame) error {
	fromClient := f.Type < TypeClose
	switch {
	case f.Type == TypeClose:
	case fromClient != s.node, s.last:
		return outOfPlace(f)
	case s.node && (f.Type == TypeStart) == s.started:
		return outOfPlace(f) // start is the first frame, and only the first
	case s.stdin && (f.Type == TypeStdin || f.Type == TypeStdinEnd):
		return outOfPlace(f)
	}
	s.started = true
	s.stdin = s.stdin || f.Type == TypeStdinEnd
	s.last = s.last || f.Type == TypeExit || f.Type == TypeFailure
	s.over = f.Type == TypeClose
	return nil
}

func outOfPlace(f Frame) error {
	return malformed(fmt.Sprintf("a frame of type %d out of place", f.Type))
}

// cut is the error of a connection that ended before close.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return bulwark.Fail(bulwark.KindUnavailable, "The connection was cut before the command had ended; the node ends the command.",
		"Run it again, with --detach if it is to go on without you.", err)
}
