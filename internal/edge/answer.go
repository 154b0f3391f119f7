package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

const (
	continueTime = time.Second // how long an app may think about "Expect: 100-continue"
	maxInterim   = 8           // 1xx answers before the real one
	hintsTime    = time.Second // in which a client takes one
)

// exchange sends the request over conn and its answer to the client. It returns false if the connection turned out to
// be dead and the request can be sent again without a doubt.
func (x *exchange) exchange(pools *exchanges) bool {
	c, set := x.conn, x.app.set.Load()
	send := &sender{x: x, conn: c, pools: pools, set: set}
	c.budget = maxReplyHeader
	_ = c.SetDeadline(time.Now().Add(set.firstByte))
	stop := context.AfterFunc(x.r.Context(), c.abort) // after the deadline, which it replaces
	x.yield()                                         // an instance that reads nothing makes this wait
	n, err := c.Write(x.head)
	if err == nil {
		var resp *http.Response
		if resp, err = x.readHead(send); err == nil {
			c.budget = -1
			x.first = time.Since(x.start)
			send.answering.Store(true)
			if resp.StatusCode == http.StatusSwitchingProtocols {
				x.tunnel(resp, stop)
				return true
			}
			x.up = c
			whole := x.deliver(resp, send, pools)
			x.up = nil
			send.finish()
			if stop() && whole && send.clean() && !resp.Close && c.r.Buffered() == 0 {
				x.inst.conns.put(c)
			} else {
				c.Close()
			}
			return true
		}
	}
	c.Close()
	stop()
	gone := x.r.Context().Err() != nil // before the interruption, which net/http may take for the client's end
	send.interrupt()
	if !gone && c.reused && !timedOut(err) && (n == 0 || x.repeatable() && c.budget == maxReplyHeader) {
		return false
	}
	x.noAnswer(err, send, gone)
	return true
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// noAnswer tells the client that nothing usable came back.
func (x *exchange) noAnswer(err error, send *sender, gone bool) {
	x.inst.failed.Add(1)
	switch {
	case gone:
		x.unserved(clientGone)
	case send.clientErr != nil:
		x.fault = "request cut off"
		x.refuse(pageSlowRequest)
	case timedOut(err):
		x.fault = "no first byte"
		x.refuse(pageSlowAnswer)
	default:
		x.fault = "no answer"
		if errors.Is(err, errReplyHeader) {
			x.fault = "answer header too large"
		}
		x.refuse(pageBadAnswer)
	}
}

// readHead reads the answer's head and passes interim answers on. It starts sending the body: at once, or when the app
// agrees to it, if the client asked.
func (x *exchange) readHead(send *sender) (*http.Response, error) {
	c := x.conn
	if x.framing != noBody {
		if x.expects {
			_ = c.SetReadDeadline(time.Now().Add(continueTime))
			if _, err := c.r.Peek(1); timedOut(err) && x.r.Context().Err() == nil {
				send.start()
			} else {
				_ = c.SetReadDeadline(time.Now().Add(send.set.firstByte))
			}
		} else {
			send.start()
		}
	}
	for range maxInterim {
		resp, err := http.ReadResponse(c.r, x.r)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode == http.StatusContinue:
			if x.expects {
				send.start()
			}
		case resp.StatusCode == http.StatusEarlyHints:
			x.earlyHints(resp.Header)
		case resp.StatusCode == http.StatusSwitchingProtocols && x.upgrade && hasToken(resp.Header["Upgrade"], "websocket"):
			return resp, nil
		case resp.StatusCode >= 200:
			return resp, nil
		case resp.StatusCode < 102:
			return nil, errors.New("the answer has an impossible status")
		}
		c.budget = maxReplyHeader - 1 // a byte of answer was there: nothing is repeated any more
	}
	return nil, errors.New("the answer has too many interim answers")
}

// earlyHints passes a 103 on, of which only links make sense.
func (x *exchange) earlyHints(from http.Header) {
	links := from["Link"]
	if links == nil || x.r.ProtoMajor == 1 && x.r.ProtoMinor == 0 || x.r.ProtoMajor > 2 { // HTTP/3's library would wait for who takes nothing
		return
	}
	rc := http.NewResponseController(x.w)
	_ = rc.SetWriteDeadline(time.Now().Add(hintsTime))
	h := x.w.Header()
	h["Link"] = links
	x.w.WriteHeader(http.StatusEarlyHints)
	delete(h, "Link")
	_ = rc.SetWriteDeadline(time.Time{})
}

// deliver sends the answer to the client. It returns whether the instance's part was read to its end, so that the
// connection stands before the next answer.
func (x *exchange) deliver(resp *http.Response, send *sender, pools *exchanges) bool {
	if x.look != nil && !x.examined(resp, send.set.pause) {
		return false
	}
	if s := x.sight; s != nil {
		s.status, s.header = resp.StatusCode, resp.Header
		if s.keeps = waf.Inspects(resp.Header); !s.keeps && send.clean() {
			x.sighted() // an answer may go on for hours
		}
	}
	x.endLook()
	if send.clean() {
		x.letGo() // of what is about to be sent nothing more is kept than a piece
	}
	x.status = resp.StatusCode
	h := x.w.Header()
	x.copyHeader(h, resp)
	if x.r.ProtoMajor == 1 && x.bodyOutstanding(send) {
		h["Connection"] = []string{"close"}
	}
	squeeze := x.compress(h, resp)
	if squeeze != nil {
		defer squeeze.release()
	}
	x.w.WriteHeader(resp.StatusCode)
	if x.r.Method == "HEAD" || resp.ContentLength == 0 || resp.StatusCode == 204 || resp.StatusCode == 304 {
		return true
	}
	// The common case: all of it has come with the head.
	if n := resp.ContentLength; n > 0 && n <= int64(x.up.buffered()) && !x.replay && squeeze == nil {
		body, _ := x.conn.r.Peek(int(n))
		x.sight.keep(body)
		k, err := x.w.Write(body)
		x.out = int64(k)
		if err != nil {
			x.fault, x.aborted = "client gone", true
			return false
		}
		_, _ = x.conn.r.Discard(int(n))
		return true
	}
	return x.stream(resp, send, pools, squeeze)
}

// holdTime is how long a piece of an answer that is looked at is waited for, before what is there goes on.
const holdTime = 500 * time.Millisecond

// examined has the firewall look at an answer; false: it was refused.
func (x *exchange) examined(resp *http.Response, pause time.Duration) bool {
	none := x.r.Method == "HEAD" || resp.ContentLength == 0 || resp.StatusCode == 204 || resp.StatusCode == 304
	if none || !waf.Inspects(resp.Header) {
		return !x.givesAway(resp, nil)
	}
	held := firstBytes{ReadCloser: resp.Body, f: x.e.firewall, g: x.guard}
	var end error
	buf := make([]byte, 4<<10)
	for len(held.kept) < waf.MaxBody && end == nil && !held.dropped {
		// Looked at before it is read: a reader of chunks that was cut off by a deadline goes no further.
		if x.conn == nil {
			x.up.await(pause) // of one by HTTP/2 nobody sees whether it pauses
		} else if x.conn.r.Buffered() == 0 {
			_ = x.conn.SetReadDeadline(time.Now().Add(holdTime))
			if _, err := x.conn.r.Peek(1); timedOut(err) && x.r.Context().Err() == nil {
				break
			}
			_ = x.conn.SetReadDeadline(time.Now().Add(pause))
		}
		_, end = held.Read(buf[:min(len(buf), waf.MaxBody-len(held.kept))])
	}
	if held.dropped {
		x.decline(bulwark.RefusedBusy, pageBusy)
		return false
	}
	x.held += int64(cap(held.kept))
	x.up.await(pause)
	if x.givesAway(resp, held.kept) {
		return false
	}
	resp.Body, x.replay = &replayed{ReadCloser: resp.Body, first: held.kept, end: end}, true
	return true
}

// bodyOutstanding says that some of the request's body has not been read from the client.
func (x *exchange) bodyOutstanding(send *sender) bool {
	return x.framing != noBody && !send.clean()
}

// stream copies the answer's body, piece by piece as it comes.
func (x *exchange) stream(resp *http.Response, send *sender, pools *exchanges, squeeze *compressing) bool {
	buf := pools.buffers.Get().(*[]byte)
	defer pools.buffers.Put(buf)
	rc := http.NewResponseController(x.w)
	// With a length given, the last piece is flushed with the answer's end; without one, nobody knows when that is.
	live := resp.ContentLength < 0 || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	// A piece has to be taken within a minute: who floods takes a byte now and then, and holds an instance by that.
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	for {
		if x.up.buffered() == 0 {
			x.awaitMore(send.set.pause)
		}
		n, err := resp.Body.Read(*buf)
		if n > 0 || squeeze != nil && err == io.EOF {
			x.sight.keep((*buf)[:n])
			_ = rc.SetWriteDeadline(time.Now().Add(clientStallTime))
			pause := live && err == nil && x.up.buffered() == 0
			var werr error
			if squeeze != nil {
				werr = squeeze.write((*buf)[:n], pause, err == io.EOF)
			} else {
				var k int
				k, werr = x.w.Write((*buf)[:n])
				x.out += int64(k)
			}
			if werr == nil && pause {
				werr = rc.Flush()
			}
			if werr != nil {
				x.fault, x.aborted = "client gone", true
				return false
			}
		}
		if err == io.EOF {
			x.copyTrailer(resp)
			return true
		}
		if err != nil {
			x.inst.failed.Add(1)
			x.fault, x.aborted = "answer broke off", true
			if x.r.Context().Err() != nil {
				x.fault = "client gone"
			}
			return false
		}
	}
}

// copyHeader writes the answer's header: the app's, without what is about its connection or tells what it runs on,
// with the security headers that it did not set itself.
func (x *exchange) copyHeader(h http.Header, resp *http.Response) {
	gone := connectionTokens(resp.Header)
	for k, v := range resp.Header {
		switch k {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
			"Server", "X-Powered-By", "X-Aspnet-Version", "X-Aspnetmvc-Version", "X-Request-Id", "Alt-Svc":
			continue
		}
		if gone != nil && containsFold(gone, k) {
			continue
		}
		h[k] = v
	}
	x.guard.chosen.Load().headers.addTo(h, x.r, func() bool { return x.scriptless(resp) })
	if x.e.altSvc != nil && x.r.ProtoMajor < 3 {
		h["Alt-Svc"] = x.e.altSvc
	}
	h["X-Request-Id"] = []string{x.id}
	if _, typed := h["Content-Type"]; !typed {
		h["Content-Type"] = nil // net/http would guess one
	}
	if resp.ContentLength >= 0 && x.r.Method != "HEAD" && resp.StatusCode != 204 && resp.StatusCode != 304 && h["Content-Length"] == nil {
		h["Content-Length"] = []string{strconv.FormatInt(resp.ContentLength, 10)}
	}
	if len(resp.Trailer) > 0 && x.r.ProtoMajor == 1 {
		delete(h, "Content-Length") // by HTTP/1.1 fields come behind chunks alone
	}
	for k := range resp.Trailer {
		if _, there := h[k]; trailerAllowed(k) && !there { // HTTP/3's library leaves out of the header what comes behind
			h["Trailer"] = append(h["Trailer"], k)
		}
	}
}

// copyTrailer adds what came behind the body. Fields that were not announced need a prefix for net/http to see them.
func (x *exchange) copyTrailer(resp *http.Response) {
	if len(resp.Trailer) == 0 {
		return
	}
	h := x.w.Header()
	announced := map[string]bool{}
	for _, k := range h["Trailer"] {
		announced[k] = true
	}
	for k, v := range resp.Trailer {
		switch {
		case !trailerAllowed(k) || len(v) == 0: // what does not come would have HTTP/2's library wait for it
			if announced[k] {
				delete(h, k)
			}
		case h[k] != nil && !announced[k]:
		case announced[k]:
			h[k] = v
		default:
			h[http.TrailerPrefix+k] = v
		}
	}
}

func containsFold(list []string, s string) bool {
	for _, v := range list {
		if strings.EqualFold(v, s) {
			return true
		}
	}
	return false
}
