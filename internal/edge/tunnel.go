package edge

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tunnelPause is how long a WebSocket may be silent in both directions. It is longer than an answer's, since these are
// made to wait; browsers and libraries send a ping at least every minute.
const tunnelPause = 5 * time.Minute

// tunnel passes a 101 on and then bytes both ways, until one side ends or is silent for too long.
func (x *exchange) tunnel(resp *http.Response, stop func() bool) {
	defer x.conn.Close()
	x.status = resp.StatusCode
	x.endLook() // it may go on for hours
	x.sighted()
	if !stop() {
		x.unserved(clientGone)
		return
	}
	// Counted before the hijack: from then on the server does not wait for us any more.
	x.e.upgraded.Add(1)
	defer x.e.upgraded.Done()
	if x.conned != nil {
		x.conned.free.Store(true)
	}
	client, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.fault = "no hijack"
		x.refuse(pageBadAnswer)
		return
	}
	defer client.Close()
	end := context.AfterFunc(x.e.closing, func() { client.Close(); x.conn.Close() })
	defer end()
	_ = client.SetDeadline(time.Now().Add(clientStallTime))
	if _, err := client.Write(x.switching(resp)); err != nil {
		x.fault = "client gone"
		return
	}
	_ = client.SetDeadline(time.Time{})
	_ = x.conn.SetDeadline(time.Time{})

	var both sync.WaitGroup
	live := &liveness{client: client, conn: x.conn}
	live.moved()
	both.Go(func() {
		n := live.copy(x.conn, buffered.Reader)
		x.in.Add(n)
	})
	x.out = live.copy(client, x.conn.r)
	both.Wait()
}

// switching writes the head of the 101 answer.
func (x *exchange) switching(resp *http.Response) []byte {
	h := http.Header{}
	x.copyHeader(h, resp)
	delete(h, "Content-Type")
	delete(h, "Content-Length")
	delete(h, "Trailer")
	b := []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	for k, values := range h {
		for _, v := range values {
			if !strings.ContainsAny(v, "\r\n\x00") {
				b = append(append(append(append(b, k...), ": "...), v...), "\r\n"...)
			}
		}
	}
	return append(b, "\r\n"...)
}

// liveness ends a tunnel in which nothing moves.
type liveness struct {
	client net.Conn
	conn   *upConn
}

// moved gives both directions time again.
func (l *liveness) moved() {
	until := time.Now().Add(tunnelPause)
	_ = l.client.SetDeadline(until)
	_ = l.conn.SetDeadline(until)
}

// copy moves bytes until an end, and then ends the other direction too: a WebSocket has no half.
func (l *liveness) copy(dst io.Writer, src io.Reader) (total int64) {
	defer l.conn.Close()
	defer l.client.Close()
	buf := make([]byte, 8<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			l.moved()
			k, werr := dst.Write(buf[:n])
			total += int64(k)
			if werr != nil {
				return total
			}
		}
		if err != nil {
			return total
		}
	}
}
