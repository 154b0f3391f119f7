package node

import (
	"context"
	"time"

	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// graceEvery is how often the time is counted that the node has lived through: that much of a run is lost to a kill.
const graceEvery = time.Minute

// finish ends destroyed apps for good when their grace is over. The server has no part in it: it asks how things stand.
func (n *Node) finish(ctx context.Context) {
	for {
		wait := graceEvery
		done, next, err := n.ledger.Finish(ctx)
		if err != nil && ctx.Err() == nil {
			n.config.Log.Warn("no grace was counted", "error", err)
		}
		if next > 0 {
			wait = min(wait, next)
		}
		if len(done) > 0 {
			n.config.Log.Info("the grace of destroyed apps is over", "apps", done)
			poke(n.builds.built) // their images, disks and logs go
		}
		select {
		case <-ctx.Done():
			return
		case <-n.graced:
		case <-time.After(wait):
		}
	}
}

// graces tells how destroyed apps stand.
func (n *Node) graces(ctx context.Context, in nodeapi.Graces) (*[]nodeapi.Grace, error) {
	all, err := n.ledger.Graces(ctx, in.Apps)
	out := []nodeapi.Grace{}
	for _, g := range all {
		out = append(out, nodeapi.Grace(g))
	}
	return &out, err
}

// poke wakes who waits for c, which has room for one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
