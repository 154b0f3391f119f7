package edge

import "time"

// How a client is treated that goes on though it is refused: its answers come later, so that each of its connections asks less often, and what
// is answered costs nearly nothing. To close them would cost more: each handshake takes the edge longer than an answer.
const (
	slowAfter = 50 // refusals in a row
	slowLong  = time.Second
	slowEach  = 1000  // so many that wait make it a second more
	slowMost  = 16384 // answers that wait at a time
)

// slow waits, if a client was refused often.
func (x *exchange) slow(inRow int) {
	if inRow < slowAfter {
		return
	}
	x.yield()
	e := x.e
	if e.slowed.Add(1) > slowMost {
		e.slowed.Add(-1)
		return
	}
	defer e.slowed.Add(-1)
	// The more wait, the longer each does, so that to refuse them takes about as much however many there are.
	t := time.NewTimer(slowLong + slowLong*time.Duration(e.slowed.Load())/slowEach)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.r.Context().Done():
	case <-e.closing.Done():
	}
}
