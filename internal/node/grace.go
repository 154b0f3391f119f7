package node

import (
	"context"
	"maps"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// graceEvery is how often the time is counted that the node has lived through: that much of a run is lost to a kill.
const graceEvery = time.Minute

// leftFor is how long an instance of a destroyed app may take to go: a drain and an end, with room.
const leftFor = 2 * time.Minute

// finish ends destroyed apps for good when their grace is over, and the instances that a server leaves running of those that were
// destroyed. The server has no part in either: it ends instances gently and sooner, and asks how things stand.
func (n *Node) finish(ctx context.Context) {
	seen := map[bulwark.InstanceID]time.Time{}
	for {
		for _, id := range left(n.instances.list(), seen, time.Now(), func(app bulwark.AppID) bool {
			all, err := n.ledger.Graces(ctx, []bulwark.AppID{app}) // not of one that the ledger does not know
			return err == nil && len(all) > 0
		}) {
			n.config.Log.Warn("an instance of a destroyed app was left running; it is ended", "instance", id)
			go func() {
				if err := n.instances.end(ctx, nodeapi.Stop{Instance: id, Grace: bulwark.Duration(haltGrace)}); err != nil && ctx.Err() == nil {
					n.config.Log.Warn("an instance of a destroyed app was not ended yet", "instance", id, "error", err)
				}
			}()
		}
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

// left returns the instances of destroyed apps that have been there for too long. seen keeps since when each is known to be one.
func left(all []nodeapi.Instance, seen map[bulwark.InstanceID]time.Time, now time.Time, destroyed func(bulwark.AppID) bool) (out []bulwark.InstanceID) {
	here := map[bulwark.InstanceID]bool{}
	for _, i := range all {
		if !destroyed(i.App) {
			continue
		}
		here[i.Instance] = true
		if _, ok := seen[i.Instance]; !ok {
			seen[i.Instance] = now
		}
		if now.Sub(seen[i.Instance]) >= leftFor {
			out = append(out, i.Instance)
		}
	}
	maps.DeleteFunc(seen, func(id bulwark.InstanceID, _ time.Time) bool { return !here[id] })
	return out
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
