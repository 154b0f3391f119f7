package edge

import (
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// sender sends a request's body on a goroutine of its own, so that an answer that comes early is not missed. The
// handler always waits for it to end before it returns: it reads the request, which is gone then.
type sender struct {
	x     *exchange
	conn  *upConn
	pools *exchanges
	set   *upstreams

	done      chan struct{} // closed at the end; nil: never started
	whole     bool          // all was sent; valid when done is closed
	clientErr error         // the client did not deliver; valid when done is closed
	h2c       *h2cBody      // where net/http sends it, in the place of all below
	answering atomic.Bool   // the answer has begun, so its reader watches the time
}

// start begins, once.
func (s *sender) start() {
	if s.done != nil {
		return
	}
	// From here on the watch is on the body's progress; the wait for the first byte begins when all is sent.
	_ = s.conn.SetReadDeadline(time.Time{})
	if s.x.r.Context().Err() != nil {
		s.conn.abort()
	}
	if s.x.r.ProtoMajor == 1 {
		// Else net/http would read the rest of the body before it writes the answer's first byte.
		_ = http.NewResponseController(s.x.w).EnableFullDuplex()
	}
	s.done = make(chan struct{})
	go s.run()
}

// clean says that there was no body, or that all of it is sent.
func (s *sender) clean() bool {
	if s.h2c != nil {
		return s.h2c.whole.Load()
	}
	if s.done == nil {
		return s.x.framing == noBody
	}
	select {
	case <-s.done:
		return s.whole
	default:
		return false
	}
}

// finish ends a sender whose answer is complete already.
func (s *sender) finish() {
	if s.done == nil || s.clean() {
		return
	}
	_ = http.NewResponseController(s.x.w).Flush() // the client gets its answer before its upload is cut off
	s.conn.Close()
	s.interrupt()
}

// interrupt makes the sender end and waits for it.
func (s *sender) interrupt() {
	if s.done == nil {
		return
	}
	select {
	case <-s.done:
		return
	default:
	}
	// On HTTP/1.1 the connection is not used again after this, see deliver and refuse.
	_ = http.NewResponseController(s.x.w).SetReadDeadline(time.Unix(1, 0))
	if s.x.r.ProtoMajor >= 2 {
		s.x.r.Body.Close()
	}
	<-s.done
}

// How slowly a body may come: a client that sends a byte now and then holds a place at an instance for as long as it likes.
const (
	bodyGrace = 30 * time.Second // that may be waited for it in all
	bodyRate  = 512              // bytes for each second more
)

// allowance is how long so many bytes of a body may be waited for in all.
func allowance(came int64) time.Duration { return bodyGrace + time.Duration(came/bodyRate)*time.Second }

// readBody reads a piece of the client's body. While the app answers, the client may take its time: both talk.
func (x *exchange) readBody(rc *http.ResponseController, b []byte, talks bool) (int, error) {
	patience := clientStallTime
	if !talks {
		patience = min(patience, allowance(x.came)-x.waited)
	}
	began := time.Now()
	_ = rc.SetReadDeadline(began.Add(max(patience, time.Millisecond)))
	n, err := x.r.Body.Read(b)
	x.waited += time.Since(began)
	x.came += int64(n)
	return n, err
}

const (
	chunkRoom = 16 // before a piece: its length in hexadecimal and a line end
	chunkTail = 2
)

func (s *sender) run() {
	defer close(s.done)
	buf := s.pools.buffers.Get().(*[]byte)
	defer s.pools.buffers.Put(buf)
	rc := http.NewResponseController(s.x.w)
	sent := int64(0)
	for {
		n, err := s.x.readBody(rc, (*buf)[chunkRoom:len(*buf)-chunkTail], s.answering.Load())
		if n > 0 {
			s.x.arrived(n)
			sent += int64(n)
			if !s.write(s.piece(*buf, n)) {
				return
			}
		}
		if err == io.EOF && s.x.framing == fixedLength && sent != s.x.r.ContentLength {
			err = io.ErrUnexpectedEOF // the instance waits for the rest, and would take what comes next for it
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			s.clientErr = err
			s.conn.abort()
			return
		}
	}
	_ = rc.SetReadDeadline(time.Time{})
	if s.x.framing == chunked && !s.write(appendTrailer([]byte("0\r\n"), s.x.r.Trailer)) {
		return
	}
	if !s.answering.Load() {
		_ = s.conn.SetReadDeadline(time.Now().Add(s.set.firstByte))
		if s.x.r.Context().Err() != nil {
			s.conn.abort()
		}
	}
	s.whole = true
}

// piece frames the n bytes behind chunkRoom, in place.
func (s *sender) piece(buf []byte, n int) []byte {
	if s.x.framing == fixedLength {
		return buf[chunkRoom : chunkRoom+n]
	}
	var hex [chunkRoom]byte
	length := append(strconv.AppendInt(hex[:0], int64(n), 16), "\r\n"...)
	from := chunkRoom - len(length)
	copy(buf[from:], length)
	return append(buf[from:chunkRoom+n], "\r\n"...)
}

func (s *sender) write(b []byte) bool {
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.set.pause))
	if s.x.r.Context().Err() != nil {
		s.conn.abort()
	}
	_, err := s.conn.Write(b)
	return err == nil
}
