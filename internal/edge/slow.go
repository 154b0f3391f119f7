package edge

import (
	"context"
	"time"
)

// How a client is treated that goes on though it is refused: its answers come later, so that each of its connections asks less often, and what
// is answered costs nearly nothing. To close them would cost more: each handshake takes the edge longer than an answer.
const (
	slowAfter = 50 // refusals in a row
	slowLong  = time.Second
	slowMost  = 4096 // answers that wait at a time
)

// slow waits, if a client was refused often.
func (e *edge) slow(ctx context.Context, inRow int) {
	if inRow < slowAfter || e.slowed.Add(1) > slowMost {
		if inRow >= slowAfter {
			e.slowed.Add(-1)
		}
		return
	}
	defer e.slowed.Add(-1)
	t := time.NewTimer(slowLong)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-e.closing.Done():
	}
}
