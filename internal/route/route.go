// Package route is the last step of the pipeline: the edge's table, a pure function of apps, domains and healthy
// instances, pushed to the edge whole. It promises that an instance is in the table only while its release is the
// promoted one, it should run and the node says that it is healthy.
//
// Whoever owns the server can write any table; dial gives the edge no socket to an instance for a host name that the
// instance's owners did not claim.
package route

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/instance"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
)

// Pusher keeps the edge's table in agreement with the rows.
type Pusher struct {
	db     *db.DB
	edge   Edge
	states Instances
	domain bulwark.HostName
	log    *slog.Logger

	mu    sync.Mutex // held over a push: pushes are in order; guards plans
	plans map[bulwark.AppID]plan
}

// Edge is what the pusher asks of the edge.
type Edge interface {
	Table(context.Context) (bulwark.Table, error)
	// PutTable replaces the table; apps that lose their last instance have to be named.
	PutTable(ctx context.Context, t bulwark.Table, emptied ...bulwark.AppID) error
	Drain(ctx context.Context, id bulwark.InstanceID, within time.Duration) (left int, err error)
}

// Instances is what the node says.
type Instances interface {
	State(bulwark.InstanceID) (nodeapi.Instance, bool)
	Changed() <-chan struct{}
}

// New makes a pusher.
func New(d *db.DB, edge Edge, states Instances, domain bulwark.HostName, log *slog.Logger) *Pusher {
	return &Pusher{db: d, edge: edge, states: states, domain: domain, log: log}
}

// Run pushes whenever something changed, until ctx ends.
func (p *Pusher) Run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := p.states.Changed()
		if err := p.Sync(ctx); err != nil && ctx.Err() == nil {
			p.log.Debug("the edge is away", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(2 * time.Second):
		}
	}
}

// Sync implements [instance.Edge].
func (p *Pusher) Sync(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	have, err := p.edge.Table(ctx)
	if err != nil {
		return err
	}
	want, rows, err := p.table(ctx)
	if err != nil {
		return err
	}
	next, emptied, changed := Next(have, want, rows)
	if !changed {
		return nil
	}
	return p.edge.PutTable(ctx, next, emptied...)
}

// Next decides what the edge is told: the table that follows the one it has, and the apps that lose their last instance because their
// owners will it so. An app keeps the instances that the edge has when none is healthy now though some should run: a set of instances
// is not swapped for an empty one. Those that should end are not kept. want is changed.
func Next(have, want bulwark.Table, rows []instance.Row) (next bulwark.Table, emptied []bulwark.AppID, changed bool) {
	emptied = keep(have, want, rows)
	if same(have, want) {
		return have, nil, false
	}
	want.Generation = have.Generation + 1
	return want, emptied, true
}

func keep(have, want bulwark.Table, rows []instance.Row) (emptied []bulwark.AppID) {
	should, wanted := map[bulwark.AppID]bool{}, map[bulwark.InstanceID]bool{}
	for _, r := range rows {
		if r.Want && r.Process == bulwark.ProcessWeb {
			should[r.App], wanted[r.ID] = true, true
		}
	}
	for id, up := range want.Apps {
		if len(up.Instances) > 0 || len(have.Apps[id].Instances) == 0 {
			continue
		}
		if should[id] {
			for _, i := range have.Apps[id].Instances {
				if wanted[i] {
					up.Instances = append(up.Instances, i)
				}
			}
			want.Apps[id] = up
		}
		if len(up.Instances) == 0 {
			emptied = append(emptied, id)
		}
	}
	return emptied
}

// Drain implements [instance.Edge].
func (p *Pusher) Drain(ctx context.Context, id bulwark.InstanceID, within time.Duration) error {
	_, err := p.edge.Drain(ctx, id, within)
	return err
}

// table reads all that the table is made of.
func (p *Pusher) table(ctx context.Context) (bulwark.Table, []instance.Row, error) {
	apps, err := app.Everywhere(ctx, p.db.Reader())
	if err != nil {
		return bulwark.Table{}, nil, err
	}
	domains, err := app.Domains(ctx, p.db.Reader())
	if err != nil {
		return bulwark.Table{}, nil, err
	}
	rows, err := instance.Rows(ctx, p.db.Reader(), "")
	if err != nil {
		return bulwark.Table{}, nil, err
	}
	t := Table(apps, domains, rows, p.states.State, p.domain)
	return t, rows, p.times(ctx, apps, t)
}

// times gives each app the time-outs of its release's plan. A release is immutable, so it is read once.
func (p *Pusher) times(ctx context.Context, apps []app.App, t bulwark.Table) error {
	now := map[bulwark.AppID]plan{}
	for _, a := range apps {
		if a.Promoted == 0 {
			continue
		}
		known, ok := p.plans[a.ID]
		if !ok || known.release != a.Promoted {
			full, err := release.Get(ctx, p.db.Reader(), a.ID, a.Promoted)
			if err != nil {
				return err
			}
			known = plan{release: a.Promoted, firstByte: full.Release.Plan.FirstByte, idle: full.Release.Plan.Idle}
		}
		now[a.ID] = known
		up := t.Apps[a.ID]
		up.FirstByte, up.Idle = known.firstByte, known.idle
		t.Apps[a.ID] = up
	}
	p.plans = now
	return nil
}

// plan is what the table takes from a release.
type plan struct {
	release         uint64
	firstByte, idle bulwark.Duration
}

// Table is the pure function.
func Table(apps []app.App, domains map[bulwark.AppID][]bulwark.HostName, rows []instance.Row,
	state func(bulwark.InstanceID) (nodeapi.Instance, bool), domain bulwark.HostName) bulwark.Table {
	t := bulwark.Table{Routes: map[bulwark.HostName]bulwark.AppID{}, Apps: map[bulwark.AppID]bulwark.Upstream{}}
	promoted := map[bulwark.AppID]uint64{}
	for _, a := range apps {
		promoted[a.ID] = a.Promoted
		t.Routes[bulwark.HostName(string(a.Name)+"."+string(domain))] = a.ID
		for _, h := range domains[a.ID] {
			t.Routes[h] = a.ID
		}
		t.Apps[a.ID] = bulwark.Upstream{Name: a.Name}
	}
	for _, r := range rows {
		up, ok := t.Apps[r.App]
		if !ok || r.Process != bulwark.ProcessWeb || !r.Want || r.Release != promoted[r.App] {
			continue
		}
		if i, ok := state(r.ID); ok && i.Phase == nodeapi.PhaseHealthy {
			up.Instances = append(up.Instances, r.ID)
			t.Apps[r.App] = up
		}
	}
	return t
}

func same(a, b bulwark.Table) bool {
	return maps.Equal(a.Routes, b.Routes) && maps.EqualFunc(a.Apps, b.Apps, func(x, y bulwark.Upstream) bool {
		return x.Name == y.Name && x.FirstByte == y.FirstByte && x.Idle == y.Idle && x.Queue == y.Queue && slices.Equal(x.Instances, y.Instances)
	})
}
