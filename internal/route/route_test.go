package route_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/instance"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/route"
)

var historySeed = flag.Uint64("history.seed", 0, "play this history alone, and print it")

const (
	histories = 3000
	domain    = bulwark.HostName("example.org")
)

// Random histories of what can come to pass around the table: people make apps and destroy them, take names and give them back, scale and
// deploy; instances come up, crash and are replaced; the server is killed and knows nothing of the node's for a while; it does not reach the
// edge, or does and nobody hears it; the edge begins anew with the table that was kept for it, or with none.
//
// Always: the edge takes what it is told; each instance in the table should run, for requests, and belongs to its app; and who has an
// instance that should run and was in the table has one there afterwards. In the end, when nothing fails any more: the table has each name,
// and each healthy instance of the release that serves, and nothing else.
func TestHistories(t *testing.T) {
	first, last := uint64(1), uint64(histories)
	if *historySeed != 0 {
		first, last = *historySeed, *historySeed
	}
	for seed := first; seed <= last; seed++ {
		h := &history{rng: rand.New(rand.NewPCG(seed, 11)), names: map[bulwark.AppID][]bulwark.HostName{}, states: map[bulwark.InstanceID]nodeapi.Phase{}, knows: true}
		for range 80 {
			h.step()
		}
		h.settle()
		if *historySeed != 0 || h.broken != "" {
			t.Log(strings.Join(h.lines, "\n"))
		}
		if h.broken != "" {
			t.Fatalf("%s\nsee it with: go test ./internal/route -run TestHistories -history.seed %d -v", h.broken, seed)
		}
	}
}

// history is one of them: what is in the store, what the node says, and what the edge has.
type history struct {
	rng    *rand.Rand
	apps   []app.App
	names  map[bulwark.AppID][]bulwark.HostName
	rows   []instance.Row
	states map[bulwark.InstanceID]nodeapi.Phase
	knows  bool // the server has the node's list
	edge   bulwark.Table
	made   int
	lines  []string
	broken string
}

func (h *history) say(format string, args ...any) {
	h.lines = append(h.lines, fmt.Sprintf(format, args...))
}

func (h *history) breaks(format string, args ...any) {
	if h.broken == "" {
		h.broken = fmt.Sprintf(format, args...)
	}
}

func (h *history) chance(n int) bool { return h.rng.IntN(100) < n }

func (h *history) step() {
	switch n := h.rng.IntN(100); {
	case n < 40:
		h.sync(h.rng.IntN(10))
	case n < 60:
		h.live()
	case n < 70:
		h.people()
	case n < 80 && len(h.apps) > 0:
		h.deploy(&h.apps[h.rng.IntN(len(h.apps))])
	case n < 88 && len(h.apps) > 0:
		h.scale(h.apps[h.rng.IntN(len(h.apps))], h.rng.IntN(3))
	case n < 92:
		h.knows = false
		h.say("the server is killed")
	case n < 96:
		h.knows = true
	case n < 97:
		h.edge = bulwark.Table{}
		h.say("the edge begins with nothing")
	}
}

// people make apps and destroy them, and give them names.
func (h *history) people() {
	switch n := h.rng.IntN(4); {
	case n == 0 && len(h.apps) < 4:
		h.made++
		a := app.App{ID: bulwark.NewAppID(), Name: bulwark.AppName(fmt.Sprintf("app-%d", h.made))}
		h.apps = append(h.apps, a)
		h.say("%s is made", a.Name)
	case len(h.apps) == 0:
	case n == 1:
		i := h.rng.IntN(len(h.apps))
		a := h.apps[i]
		h.say("%s is destroyed", a.Name)
		h.apps = slices.Delete(h.apps, i, i+1)
		delete(h.names, a.ID)
		for j := range h.rows {
			h.rows[j].Want = h.rows[j].Want && h.rows[j].App != a.ID
		}
	default:
		a := h.apps[h.rng.IntN(len(h.apps))]
		if h.names[a.ID] = append(h.names[a.ID], bulwark.HostName(fmt.Sprintf("h%d.example.net", h.made))); n == 3 {
			h.names[a.ID] = nil
		}
		h.made++
	}
}

// deploy takes a step: it makes candidates, promotes them when one is healthy, and has the old ones end.
func (h *history) deploy(a *app.App) {
	var candidates, healthy []int
	for i, r := range h.rows {
		if r.App == a.ID && r.Want && r.Candidate {
			candidates = append(candidates, i)
			if r.Process == bulwark.ProcessWeb && h.states[r.ID] == nodeapi.PhaseHealthy {
				healthy = append(healthy, i)
			}
		}
	}
	switch {
	case len(candidates) == 0:
		h.add(*a, a.Promoted+1, true, bulwark.ProcessWeb)
		h.add(*a, a.Promoted+1, true, bulwark.ProcessType("worker"))
		h.say("v%d of %s is begun", a.Promoted+1, a.Name)
	case len(healthy) > 0:
		a.Promoted++
		h.say("v%d of %s is promoted", a.Promoted, a.Name)
		for i, r := range h.rows {
			if r.App == a.ID {
				h.rows[i].Want, h.rows[i].Candidate = r.Release == a.Promoted, false
			}
		}
	}
}

func (h *history) add(a app.App, number uint64, candidate bool, p bulwark.ProcessType) {
	h.rows = append(h.rows, instance.Row{ID: bulwark.NewInstanceID(), App: a.ID, Release: number, Process: p, Want: true, Candidate: candidate})
}

func (h *history) scale(a app.App, n int) {
	if a.Promoted == 0 {
		return
	}
	h.say("%s has web=%d", a.Name, n)
	for i, r := range h.rows {
		if r.App == a.ID && r.Want && !r.Candidate && r.Process == bulwark.ProcessWeb {
			if h.rows[i].Want = n > 0; n > 0 {
				n--
			}
		}
	}
	for ; n > 0; n-- {
		h.add(a, a.Promoted, false, bulwark.ProcessWeb)
	}
}

// live has instances come up, crash, end, and be replaced.
func (h *history) live() {
	for i, r := range h.rows {
		switch now := h.states[r.ID]; {
		case !h.chance(50):
		case now == "":
			h.states[r.ID] = nodeapi.PhaseStarting
		case now == nodeapi.PhaseStarting:
			h.states[r.ID] = nodeapi.PhaseHealthy
		case now == nodeapi.PhaseHealthy && r.Want && h.chance(15):
			h.say("%s crashes", r.ID)
			h.states[r.ID] = nodeapi.PhaseExited
			r.ID = bulwark.NewInstanceID()
			h.rows[i].Want = false
			h.rows = append(h.rows, r)
		}
	}
	h.rows = slices.DeleteFunc(h.rows, func(r instance.Row) bool {
		if r.Want || h.inTable(r.ID) {
			return false
		}
		delete(h.states, r.ID)
		return true
	})
}

func (h *history) inTable(id bulwark.InstanceID) bool {
	for _, up := range h.edge.Apps {
		if slices.Contains(up.Instances, id) {
			return true
		}
	}
	return false
}

func (h *history) state(id bulwark.InstanceID) (nodeapi.Instance, bool) {
	phase, ok := h.states[id]
	return nodeapi.Instance{Instance: id, Phase: phase}, ok && h.knows
}

// sync is [route.Pusher.Sync] with a fault, or none.
func (h *history) sync(fault int) {
	before := h.edge
	next, emptied, changed := route.Next(h.edge, route.Table(h.apps, h.names, h.rows, h.state, domain), h.rows)
	if !changed || fault == 0 {
		return // it does not reach the edge
	}
	h.take(next, emptied)
	for id, up := range h.edge.Apps {
		kept := 0
		for _, i := range up.Instances {
			at := slices.IndexFunc(h.rows, func(r instance.Row) bool { return r.ID == i })
			if at < 0 || !h.rows[at].Want || h.rows[at].App != id || h.rows[at].Process != bulwark.ProcessWeb || h.rows[at].Candidate {
				h.breaks("%s is in the table, and should not get requests", i)
			}
		}
		for _, i := range before.Apps[id].Instances {
			if slices.ContainsFunc(h.rows, func(r instance.Row) bool { return r.ID == i && r.Want }) {
				kept++
			}
		}
		if kept > 0 && len(up.Instances) == 0 {
			h.breaks("%s had %d instances that should run, and has none", up.Name, kept)
		}
	}
	if fault == 1 {
		h.knows = false
		h.say("the server is killed before it hears of that")
	}
}

// take is what the edge does with a table, as edge.tables.swap.
func (h *history) take(next bulwark.Table, emptied []bulwark.AppID) {
	if next.Generation <= h.edge.Generation {
		h.breaks("the edge has generation %d and is given %d", h.edge.Generation, next.Generation)
	}
	for id, up := range h.edge.Apps {
		if after, stays := next.Apps[id]; stays && len(up.Instances) > 0 && len(after.Instances) == 0 && !slices.Contains(emptied, id) {
			h.breaks("%s loses its last instance unnamed", up.Name)
		}
	}
	h.edge = next
}

// settle takes the faults away, and compares the table with what there is.
func (h *history) settle() {
	h.knows = true
	for range 2 {
		for _, r := range h.rows {
			h.states[r.ID] = nodeapi.PhaseHealthy
		}
		h.sync(9)
	}
	routes := 0
	for _, a := range h.apps {
		names := append([]bulwark.HostName{bulwark.HostName(string(a.Name)) + "." + domain}, h.names[a.ID]...)
		for _, n := range names {
			if h.edge.Routes[n] != a.ID {
				h.breaks("%s does not lead to %s", n, a.Name)
			}
		}
		routes += len(names)
		var want []bulwark.InstanceID
		for _, r := range h.rows {
			if r.App == a.ID && r.Want && !r.Candidate && r.Process == bulwark.ProcessWeb {
				want = append(want, r.ID)
			}
		}
		if got := h.edge.Apps[a.ID].Instances; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			h.breaks("%s has %v in the table, and there are %v", a.Name, got, want)
		}
	}
	if len(h.edge.Routes) != routes || len(h.edge.Apps) != len(h.apps) {
		h.breaks("%d names and %d apps in the table, and there are %d and %d", len(h.edge.Routes), len(h.edge.Apps), routes, len(h.apps))
	}
}
