package node

import (
	"context"
	"time"
)

// How often the node looks whether a project's key has become too old, and how soon again when one could not be changed.
const (
	rotateEvery = time.Hour
	rotateAgain = time.Minute
)

// rotate changes the keys of projects that have become too old. It looks at the start, too: a machine that was off for
// long has old keys.
func (n *Node) rotate(ctx context.Context) {
	n.settleKeys(ctx)
	age := n.config.KeyAge
	if age == 0 {
		age = DefaultKeyAge
	}
	for {
		wait := rotateEvery
		if err := n.rotateOnce(ctx, age); err != nil && ctx.Err() == nil {
			wait = rotateAgain
			n.config.Log.Error("a project's key that is too old could not be changed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (n *Node) rotateOnce(ctx context.Context, age time.Duration) error {
	made, err := n.ledger.RotateDue(ctx, age)
	for _, k := range made {
		n.config.Log.Info("a project has a new key, because its key was too old", "project", k.Project, "version", k.Version)
	}
	if len(made) > 0 {
		n.settleKeys(ctx)
	}
	return err
}

// settleKeys removes the private keys that were replaced. It goes on when who asked for a new one is gone. What cannot be
// removed now is tried again by tidy.
func (n *Node) settleKeys(ctx context.Context) {
	if err := n.ledger.Settle(context.WithoutCancel(ctx)); err != nil {
		n.config.Log.Error("a private key that was replaced could not be removed yet", "error", err)
	}
}
