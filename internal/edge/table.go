package edge

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
)

const (
	defaultFirstByte = 30 * time.Second
	defaultPause     = 60 * time.Second
)

// snapshot is a table with the state that belongs to its apps. It is immutable; requests see one whole snapshot.
type snapshot struct {
	table bulwark.Table
	apps  map[bulwark.AppID]*app
	wild  map[bulwark.HostName]bulwark.AppID // routes of patterns, by what their names have after the first label
}

// tables holds the current snapshot and swaps it.
type tables struct {
	dialer  *dialer
	current atomic.Pointer[snapshot]

	mu        sync.Mutex // one swap at a time
	instances map[bulwark.InstanceID]*instance
}

func newTables(d *dialer) *tables {
	t := &tables{dialer: d, instances: map[bulwark.InstanceID]*instance{}}
	t.current.Store(&snapshot{apps: map[bulwark.AppID]*app{}})
	return t
}

// route returns the app that serves host, nil if none does.
func (t *tables) route(host bulwark.HostName) *app {
	s := t.current.Load()
	id, ok := s.table.Routes[host]
	if !ok && len(s.wild) > 0 {
		id, ok = s.wild[host.Above()]
	}
	if !ok {
		return nil
	}
	return s.apps[id]
}

// patterns are the routes of those names that stand for many.
func patterns(routes map[bulwark.HostName]bulwark.AppID) map[bulwark.HostName]bulwark.AppID {
	wild := map[bulwark.HostName]bulwark.AppID{}
	for h, id := range routes {
		if below, is := h.Wildcard(); is {
			wild[below] = id
		}
	}
	return wild
}

// keepFunc stores an encoded table before it comes into force.
type keepFunc func([]byte) error

// swap puts next in the place of the current table.
func (t *tables) swap(next bulwark.Table, force []bulwark.AppID, keep keepFunc) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.current.Load()
	if err := newer(now.table.Generation, next.Generation); err != nil {
		return err
	}
	for id, up := range now.table.Apps {
		if after, stays := next.Apps[id]; stays {
			if err := notEmptied(id, up, after, force); err != nil {
				return err
			}
		}
	}
	if err := keep(encodeTable(next)); err != nil {
		return err
	}
	t.put(next, patterns(next.Routes), now.apps, next.Apps)
	return nil
}

// patch applies p to the current table.
func (t *tables) patch(p bulwark.TablePatch, keep keepFunc) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.current.Load()
	if p.BaseGeneration != now.table.Generation {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The change is to table %d, but the edge has table %d.", p.BaseGeneration,
			now.table.Generation), "Send the whole table.", nil)
	}
	if err := newer(now.table.Generation, p.Generation); err != nil {
		return err
	}
	next := bulwark.Table{Generation: p.Generation, Routes: now.table.Routes, Apps: now.table.Apps}
	wild := now.wild
	if len(p.SetRoutes)+len(p.DeleteRoutes) > 0 {
		next.Routes = cloned(now.table.Routes)
		for _, h := range p.DeleteRoutes {
			delete(next.Routes, h)
		}
		maps.Copy(next.Routes, p.SetRoutes)
		wild = patterns(next.Routes)
	}
	if len(p.SetApps)+len(p.DeleteApps) > 0 {
		next.Apps = cloned(now.table.Apps)
		for _, id := range p.DeleteApps {
			delete(next.Apps, id)
		}
		maps.Copy(next.Apps, p.SetApps)
	}
	for id, after := range p.SetApps {
		if err := notEmptied(id, now.table.Apps[id], after, p.Force); err != nil {
			return err
		}
	}
	if err := checkTable(next); err != nil {
		return err
	}
	if err := keep(encodeTable(next)); err != nil {
		return err
	}
	t.put(next, wild, now.apps, p.SetApps)
	return nil
}

func cloned[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return maps.Clone(m)
}

func newer(have, got uint64) error {
	if got > have {
		return nil
	}
	return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The table has generation %d, and the edge has %d already.", got, have),
		"Derive the table again, with a higher generation.", nil)
}

// notEmptied refuses to take the last instance from an app that stays: it is far more often a fault of whoever counts
// healthy instances than an intention.
func notEmptied(id bulwark.AppID, before, after bulwark.Upstream, force []bulwark.AppID) error {
	if len(before.Instances) == 0 || len(after.Instances) > 0 {
		return nil
	}
	for _, f := range force {
		if f == id {
			return nil
		}
	}
	return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The table would leave the app %s without any instance.", after.Name),
		"Name the app in force if it really is to be scaled to nothing.", nil)
}

// install puts a restored table into force without asking.
func (t *tables) install(next bulwark.Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(next, patterns(next.Routes), t.current.Load().apps, next.Apps)
}

// put makes next the current table. changed are the apps whose set may differ from the one that is in force. The
// caller holds mu.
func (t *tables) put(next bulwark.Table, wild map[bulwark.HostName]bulwark.AppID, before map[bulwark.AppID]*app, changed map[bulwark.AppID]bulwark.Upstream) {
	s := &snapshot{table: next, wild: wild, apps: make(map[bulwark.AppID]*app, len(next.Apps))}
	stays := make(map[*instance]bool)
	var touched []*app
	var old []*instance
	sets := make(map[*app]*upstreams, len(changed))
	for id := range next.Apps {
		a := before[id]
		up, differs := changed[id]
		if a == nil {
			a, up = &app{id: id}, next.Apps[id]
			differs = true
		}
		s.apps[id] = a
		if !differs {
			continue
		}
		set := t.upstreams(up)
		for _, i := range set.instances {
			stays[i] = true
		}
		if was := a.set.Load(); was != nil {
			old = append(old, was.instances...)
		} else {
			a.set.Store(set) // before the snapshot that shows the app
		}
		touched = append(touched, a)
		sets[a] = set
	}
	for id, a := range before {
		if s.apps[id] == nil {
			old = append(old, a.set.Load().instances...)
			touched = append(touched, a)
			sets[a] = &upstreams{name: a.set.Load().name, firstByte: defaultFirstByte, pause: defaultPause}
		}
	}
	t.current.Store(s)
	for _, a := range touched {
		a.set.Store(sets[a])
	}
	for _, i := range old {
		if !stays[i] {
			i.retired.Store(true)
			i.conns.closeIdle()
			i.h2c.retire()
		}
	}
	for _, a := range touched {
		a.wakeAll()
	}
}

// upstreams makes an app's set, with the instances that are known already. The caller holds mu.
func (t *tables) upstreams(up bulwark.Upstream) *upstreams {
	set := &upstreams{name: up.Name, firstByte: time.Duration(up.FirstByte), pause: time.Duration(up.Idle), queue: int64(up.Queue)}
	if set.firstByte <= 0 {
		set.firstByte = defaultFirstByte
	}
	if set.pause <= 0 {
		set.pause = defaultPause
	}
	if set.queue <= 0 {
		set.queue = defaultQueue
	}
	for _, iid := range up.Instances {
		i := t.instances[iid]
		if i == nil {
			i = &instance{id: iid}
			t.instances[iid] = i
		}
		if i.retired.Swap(false) {
			i.conns.reopen()
		}
		set.instances = append(set.instances, i)
	}
	return set
}

// find returns an instance that the edge knows, in the table or not any more.
func (t *tables) find(id bulwark.InstanceID) *instance {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.instances[id]
}

// all lists the known instances.
func (t *tables) all() []*instance {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*instance, 0, len(t.instances))
	for _, i := range t.instances {
		list = append(list, i)
	}
	return list
}

// sweep closes idle connections that their instance has closed, and forgets instances that have gone.
func (t *tables) sweep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, i := range t.all() {
				i.conns.closeStale(now)
				i.h2c.tidy(now)
				if i.retired.Load() && i.inFlight.Load() == 0 {
					t.forget(i)
				}
			}
		}
	}
}

func (t *tables) forget(i *instance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i.retired.Load() && i.inFlight.Load() == 0 { // it may have come back into the table
		delete(t.instances, i.id)
	}
}

// close closes all idle connections.
func (t *tables) close() {
	for _, i := range t.all() {
		i.retired.Store(true)
		i.conns.closeIdle()
		i.h2c.retire()
	}
}
