package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// How often the node takes away what nobody needs, if nothing asks for it sooner, and how soon again when it could not.
const (
	tidyEvery = 10 * time.Minute
	tidyAgain = 5 * time.Second
)

// tidy takes away what nobody needs any more, at the start, after each build, and now and then: images, what destroyed
// apps leave whose grace is over, and keys that were replaced.
func (n *Node) tidy(ctx context.Context) {
	for {
		wait := tidyEvery
		if done, err := n.tidyOnce(ctx); err != nil && ctx.Err() == nil {
			n.config.Log.Warn("not everything that nobody needs could be removed", "error", err)
		} else if !done {
			wait = tidyAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-n.builds.built:
		case <-time.After(wait):
		}
	}
}

// tidyOnce tells false if an admission is under way.
func (n *Node) tidyOnce(ctx context.Context) (bool, error) {
	done, err := n.builds.images.Collect(ctx, func(ctx context.Context) (map[bulwark.Digest][]ledger.Layer, error) {
		return n.ledger.Collect(ctx, n.imagesInUse())
	})
	return done, errors.Join(err, n.forgetFinal(ctx), n.ledger.Expire(ctx), n.ledger.Settle(ctx))
}

// imagesInUse are those that something runs from, whatever the ledger says, and the one that builders are made of.
func (n *Node) imagesInUse() []bulwark.Digest {
	var use []bulwark.Digest
	if d, err := layoutDigest(filepath.Join(n.builds.config.Bases, "builder")); err == nil {
		use = append(use, d)
	}
	n.instances.mu.Lock()
	defer n.instances.mu.Unlock()
	for _, i := range n.instances.all {
		use = append(use, bulwark.Digest(i.labels[labelImage]))
	}
	return use
}

// forgetFinal removes the disks and the logs of destroyed apps that nobody can bring back any more.
func (n *Node) forgetFinal(ctx context.Context) error {
	entries, err := os.ReadDir(n.builds.config.Dir)
	for _, e := range entries {
		if app, perr := bulwark.ParseAppID(e.Name()); perr == nil {
			err = errors.Join(err, n.ifFinal(ctx, app, n.builds.disks.forget))
		}
	}
	logs, lerr := n.instances.applogs.Apps()
	for _, app := range logs {
		lerr = errors.Join(lerr, n.ifFinal(ctx, app, n.instances.applogs.Remove))
	}
	return errors.Join(err, lerr)
}

func (n *Node) ifFinal(ctx context.Context, app bulwark.AppID, forget func(bulwark.AppID) error) error {
	final, err := n.ledger.Final(ctx, app)
	if err == nil && final {
		err = forget(app)
	}
	return err
}

// tidyStore removes what a node that was killed left half made.
func tidyStore(store *images.Store, rootfs string) error {
	return store.Tidy(func(name string) bool { return images.Mounted(filepath.Join(rootfs, name)) })
}
