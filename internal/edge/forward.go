package edge

import (
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// smallBody is the size up to which a body is read whole before an instance is bothered.
const smallBody = 16 << 10

// forward sends the request to an instance and its answer to the client.
func (x *exchange) forward(pools *exchanges) {
	head, ok := x.appendRequest(x.head)
	x.head = head
	if !ok {
		x.refuse(pageBadRequest)
		return
	}
	h2c := !x.upgrade && x.guard.chosen.Load().shield.Backend == bulwark.BackendH2C
	// A small body goes out together with the head: one write, no second goroutine, and a slow client costs the app
	// nothing.
	if x.framing == fixedLength && x.r.ContentLength <= smallBody && !x.expects {
		x.yield()
		if !x.readSmallBody() {
			x.refuse(pageSlowRequest)
			return
		}
		x.framing = noBody // nothing is left to send behind head
		x.small = x.head[len(head):]
	}
	var room [4]*instance
	tried := room[:0]
	for {
		began := time.Now()
		inst, why := x.app.acquire(x.r.Context(), tried, x.yield)
		x.queued += time.Since(began)
		if why != gotInstance {
			x.unserved(why)
			return
		}
		x.inst = inst
		if h2c && x.attemptH2C(pools) || !h2c && x.attempt(pools) {
			return
		}
		tried = append(tried, inst)
		if len(tried) == cap(room[:]) {
			x.unserved(noneThere)
			return
		}
	}
}

func (x *exchange) unserved(why noInstance) {
	switch why {
	case queueFull, waitedLong:
		if why == queueFull {
			x.slow(slowAfter) // to say so at once would have them come back at once
		}
		x.fault = "queue"
		x.guard.tally.note(x.example(bulwark.RefusedBusy))
		x.refuse(pageBusy)
	case clientGone:
		x.fault, x.status, x.aborted = "client gone", 499, true
	default:
		x.fault = "no instance"
		x.refuse(pageNoInstance)
	}
}

// readSmallBody appends the whole body to head.
func (x *exchange) readSmallBody() bool {
	n := int(x.r.ContentLength)
	start := len(x.head)
	if cap(x.head) < start+n {
		x.head = append(make([]byte, 0, start+n), x.head...)
	}
	x.head = x.head[:start+n]
	rc := http.NewResponseController(x.w)
	_ = rc.SetReadDeadline(time.Now().Add(clientStallTime))
	for got := start; got < len(x.head); {
		k, err := x.r.Body.Read(x.head[got:])
		got += k
		x.arrived(k)
		if err != nil && got < len(x.head) {
			x.fault = "request cut off"
			return false
		}
	}
	// The deadline would end the connection's watch for a client that leaves.
	_ = rc.SetReadDeadline(time.Time{})
	return true
}

// attempt tries one instance. It returns false if another one may be tried, which is only so if nothing of the request
// was sent.
func (x *exchange) attempt(pools *exchanges) bool {
	defer x.app.release(x.inst)
	fresh := false
	for {
		why := x.connect(fresh)
		if why != "" {
			x.inst.aside.Store(time.Now().Add(asideTime).UnixNano())
			x.inst.failed.Add(1)
			x.fault = "dial " + string(why)
			return x.r.Context().Err() != nil && x.gone()
		}
		x.inst.requests.Add(1)
		x.fault = ""
		if x.exchange(pools) {
			return true
		}
		fresh = true // the connection had died while it was idle, and repeating is safe
	}
}

func (x *exchange) gone() bool {
	x.unserved(clientGone)
	return true
}

// connect takes an idle connection or asks dial for one.
func (x *exchange) connect(fresh bool) bulwark.DialError {
	if !fresh {
		most := idleTime
		if !x.repeatable() {
			most = freshTime
		}
		if c := x.inst.conns.get(x.host, most); c != nil {
			x.conn = c
			return ""
		}
	}
	x.yield()
	ctx := x.r.Context()
	c, why := x.e.dialer.connect(ctx, x.inst.id, x.host)
	if why != "" {
		return why
	}
	x.conn = newUpConn(c, x.host)
	return ""
}

// repeatable says that the request may be sent again when a reused connection died without a byte of answer: its
// method is idempotent and no body went with it.
func (x *exchange) repeatable() bool {
	if x.r.ContentLength != 0 {
		return false
	}
	switch x.r.Method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE":
		return true
	}
	return false
}
