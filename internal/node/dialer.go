package node

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/dial"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// dialer keeps dial informed. Dial keeps nothing over its own restart, so each new connection begins with all there is.
type dialer struct {
	path    string
	log     *slog.Logger
	mu      sync.Mutex // guards what follows
	client  *dial.Client
	entries map[bulwark.InstanceID]dial.Entry
	passed  map[bulwark.InstanceID]bool // of entries, what the dial at the other end of client refuses; the next one is asked again
}

// register makes an instance known. The entry is kept: a dial that is away learns of it when it is back.
func (d *dialer) register(ctx context.Context, e dial.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// What dial cannot be told must not be kept: telling all would fail for ever, for all apps.
	if b, err := json.Marshal(e.Registration); err != nil || len(b) > fdpass.MaxMessage/2 {
		return bulwark.Fail(bulwark.KindTooLarge, "The app has more host names than can be served.", "Remove some with bulwark domains remove.", err)
	}
	if ctx.Err() != nil {
		return ctx.Err() // it ends: what is registered now would stay for ever
	}
	id := e.Registration.Instance
	for again := false; ; again = true { // the first connection may be one to a dial that has ended
		if d.client == nil {
			if err := d.connect(ctx); err != nil {
				d.entries[id] = e
				return err
			}
		}
		err := d.client.Register(ctx, e)
		if refused(err) {
			return err // kept, it would keep all others from being told
		}
		if err == nil || again {
			delete(d.passed, id)
			d.entries[id] = e
			return err
		}
		d.hangUp()
	}
}

// told returns what dial knows, which at a node's start is what an earlier node told it. A dial that is away knows nothing.
func (d *dialer) told(ctx context.Context) map[bulwark.InstanceID]bool {
	out := map[bulwark.InstanceID]bool{}
	c, err := dial.Connect(d.path)
	if err != nil {
		return out
	}
	defer c.Close()
	all, err := c.List(ctx)
	if err != nil {
		d.log.Debug("dial is away", "error", err)
	}
	for _, id := range all {
		out[id] = true
	}
	return out
}

// inherit notes an instance that dial was told of by an earlier node. The first sync replaces all that dial knows: without
// those that still run, they would get no connection until this node has tried them.
func (d *dialer) inherit(e dial.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries[e.Registration.Instance] = e
}

// knows tells whether dial was told of an instance.
func (d *dialer) knows(id bulwark.InstanceID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.entries[id]
	return ok
}

func (d *dialer) unregister(ctx context.Context, id bulwark.InstanceID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.entries[id]; !ok {
		return nil
	}
	delete(d.entries, id)
	delete(d.passed, id)
	if d.client == nil {
		return d.connect(ctx)
	}
	if err := d.client.Unregister(ctx, id); err != nil && bulwark.KindOf(err) != bulwark.KindNotFound {
		return d.connect(ctx)
	}
	return nil
}

// connect makes a new connection and tells all. The caller holds mu.
func (d *dialer) connect(ctx context.Context) error {
	d.hangUp()
	d.passed = map[bulwark.InstanceID]bool{}
	for {
		c, err := dial.Connect(d.path)
		if err != nil {
			return err
		}
		all := maps.Clone(d.entries)
		maps.DeleteFunc(all, func(id bulwark.InstanceID, _ dial.Entry) bool { return d.passed[id] })
		err = c.Sync(ctx, slices.Collect(maps.Values(all)))
		if err == nil {
			d.client = c
			return nil
		}
		c.Close()
		if !refused(err) || !d.sift(ctx) {
			return err
		}
	}
}

// hangUp ends the connection, if there is one. The caller holds mu.
func (d *dialer) hangUp() {
	if d.client != nil {
		d.client.Close()
		d.client = nil
	}
}

// refused tells that dial does not take what it was told, whenever it is told it.
func refused(err error) bool {
	return err != nil && (bulwark.KindOf(err) == bulwark.KindInvalid || bulwark.KindOf(err) == bulwark.KindTooLarge)
}

// sift notes the entries that dial refuses, and tells whether there are more of them: one would keep all others from being told. They are
// kept: a dial that somebody owns must not make the node forget what its successor has to know.
func (d *dialer) sift(ctx context.Context) (any bool) {
	c, err := dial.Connect(d.path)
	if err != nil {
		return false
	}
	defer c.Close()
	for id, e := range d.entries {
		if d.passed[id] {
			continue
		}
		if err := c.Register(ctx, e); refused(err) {
			d.log.Error("an instance cannot be reached: dial refuses its registration", "instance", id, "error", err)
			d.passed[id], any = true, true
		}
	}
	return any
}

// keep notices a dial that was replaced, and tells the new one all.
func (d *dialer) keep(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.look(ctx)
	}
}

// patience is how long a dial may take to answer when it is looked at: who registers an instance waits meanwhile.
const patience = 2 * time.Second

func (d *dialer) look(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if d.client != nil {
		known, err := d.client.List(ctx)
		foreign := func(id bulwark.InstanceID) bool { _, ours := d.entries[id]; return !ours || d.passed[id] }
		if err != nil || len(known) != len(d.entries)-len(d.passed) || slices.ContainsFunc(known, foreign) {
			d.hangUp()
		}
	}
	if d.client == nil {
		if err := d.connect(ctx); err != nil && ctx.Err() == nil {
			d.log.Debug("dial is away", "error", err)
		}
	}
}
