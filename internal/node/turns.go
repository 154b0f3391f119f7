package node

import (
	"context"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// life is one run of an instance's first process. An id has a second one when its first start was given up, because who asked for
// it went away, and somebody asks again.
type life struct {
	instance bulwark.InstanceID
	pid      int
}

// turn waits until nobody else is starting an instance, and has others wait until over is called. A server that was killed leaves
// a start behind that is being taken back while its successor asks for the same one.
func (n *instances) turn(ctx context.Context, id bulwark.InstanceID) (over func(), err error) {
	for {
		n.mu.Lock()
		other, busy := n.turns[id]
		if !busy {
			mine := make(chan struct{})
			n.turns[id] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				defer n.mu.Unlock()
				delete(n.turns, id)
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// get returns a copy of what is known of an instance.
func (n *instances) get(id bulwark.InstanceID) (nodeapi.Instance, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok := n.all[id]
	if !ok {
		return nodeapi.Instance{}, false
	}
	return i.Instance, true
}
