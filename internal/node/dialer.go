package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/dial"
)

// dialer keeps dial informed. Dial keeps nothing over its own restart, so each new connection begins with all there is.
type dialer struct {
	path    string
	log     *slog.Logger
	mu      sync.Mutex // guards client and entries
	client  *dial.Client
	entries map[bulwark.InstanceID]dial.Entry
}

// register makes an instance known. The entry is kept: a dial that is away learns of it when it is back.
func (d *dialer) register(ctx context.Context, e dial.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err() // it ends: what is registered now would stay for ever
	}
	d.entries[e.Registration.Instance] = e
	if d.client == nil {
		return d.connect(ctx)
	}
	if err := d.client.Register(ctx, e); err != nil {
		return d.connect(ctx) // a sync carries the entry too
	}
	return nil
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
	if d.client != nil {
		d.client.Close()
		d.client = nil
	}
	c, err := dial.Connect(d.path)
	if err != nil {
		return err
	}
	all := make([]dial.Entry, 0, len(d.entries))
	for _, e := range d.entries {
		all = append(all, e)
	}
	if err := c.Sync(ctx, all); err != nil {
		c.Close()
		return err
	}
	d.client = c
	return nil
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
		d.mu.Lock()
		if d.client != nil {
			if known, err := d.client.List(ctx); err != nil || len(known) != len(d.entries) {
				d.client.Close()
				d.client = nil
			}
		}
		if d.client == nil {
			if err := d.connect(ctx); err != nil && ctx.Err() == nil {
				d.log.Debug("dial is away", "error", err)
			}
		}
		d.mu.Unlock()
	}
}
