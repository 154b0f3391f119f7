package node

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

var historySeed = flag.Uint64("history.seed", 0, "play this history alone, and print it")

// Random histories of the node and its engine: jobs are started step by step, and end; the node is killed and comes back, the engine is away
// and comes back, the machine is started anew, each between any two steps; who asked for a job asks again until it is told that there is one.
// What decides (fateOf, missed) is the real thing; the engine, and what the node remembers, are models.
//
// Always: a job's process is let go once. In the end: whatever ran is known to be over, nothing is known that never ran, but for what a machine
// that was started anew took along, and nothing is left in the engine that the node does not know.
func TestRecoverHistories(t *testing.T) {
	first, last := uint64(1), uint64(20_000)
	if *historySeed != 0 {
		first, last = *historySeed, *historySeed
	}
	for seed := first; seed <= last; seed++ {
		h := &recoverHistory{rng: rand.New(rand.NewPCG(seed, 5)), engine: map[bulwark.InstanceID]*modelContainer{}, ran: map[bulwark.InstanceID]int{}}
		h.begin()
		for range 60 {
			h.step()
		}
		h.settle()
		if *historySeed != 0 {
			t.Log(strings.Join(h.lines, "\n"))
		}
		if h.broken != "" {
			t.Fatalf("%s\nsee it with: go test ./internal/node -run TestRecoverHistories -history.seed %d -v\n%s", h.broken, seed, strings.Join(h.lines, "\n"))
		}
	}
}

// modelContainer is what the engine has of one instance.
type modelContainer struct {
	task  driver.State // "" for none
	begun bool         // the label that says that its process was about to be let go
	exit  bool         // the label that holds the exit code
	pid   int
}

// status is what the driver reports of it (containerd.Driver.List).
func (c *modelContainer) status(id bulwark.InstanceID) driver.Status {
	st := driver.Status{Instance: id, State: c.task, PID: c.pid, ExitCode: -1}
	switch {
	case c.task == "" && !c.begun && !c.exit:
		st.State = driver.Created
	case c.task == "":
		st.State, st.PID = driver.Stopped, 0
	}
	return st
}

type recoverHistory struct {
	rng    *rand.Rand
	engine map[bulwark.InstanceID]*modelContainer
	jobs   []bulwark.InstanceID        // that somebody wants
	ran    map[bulwark.InstanceID]int  // how often its process was let go
	lost   map[bulwark.InstanceID]bool // went with the machine
	pids   int

	up, listening bool // the node; it hears of ends
	starts        map[bulwark.InstanceID]*modelStart
	known         map[bulwark.InstanceID]*modelKnown
	early         map[life]bool

	lines  []string
	broken string
}

type modelStart struct{ step, pid int }

type modelKnown struct {
	pid  int
	over bool
}

func (h *recoverHistory) say(format string, args ...any) {
	h.lines = append(h.lines, fmt.Sprintf(format, args...))
}

func (h *recoverHistory) fail(format string, args ...any) {
	if h.broken == "" {
		h.broken = fmt.Sprintf(format, args...)
	}
}

// begin is the node's start: instances.recover.
func (h *recoverHistory) begin() {
	h.up, h.listening = true, false
	h.starts, h.known, h.early = map[bulwark.InstanceID]*modelStart{}, map[bulwark.InstanceID]*modelKnown{}, map[life]bool{}
	if h.lost == nil {
		h.lost = map[bulwark.InstanceID]bool{}
	}
	for id, c := range h.engine {
		switch fateOf(c.status(id).State, nodeapi.KindJob) {
		case forget:
			delete(h.engine, id)
		case watch:
			h.known[id] = &modelKnown{pid: c.pid}
		case over:
			h.known[id] = &modelKnown{over: true}
		}
	}
}

// ended is instances.ended.
func (h *recoverHistory) ended(e driver.Exit) {
	k, ok := h.known[e.Instance]
	if !ok {
		if len(h.starts) > 0 {
			h.early[life{e.Instance, e.PID}] = true
		}
		return
	}
	if k.pid == e.PID || k.pid == 0 {
		k.over = true
	}
}

// listen is a turn of Node.follow: from here on ends are heard of, and those before are asked for.
func (h *recoverHistory) listen() {
	h.listening = true
	known, found := map[bulwark.InstanceID]int{}, []driver.Status{}
	for id, k := range h.known {
		known[id] = k.pid
	}
	for id, c := range h.engine {
		found = append(found, c.status(id))
	}
	for _, e := range missed(known, found, time.Now()) {
		h.ended(e)
	}
}

// advance does the next step of a start: containerd.Driver.Run, then instances.adopt.
func (h *recoverHistory) advance(id bulwark.InstanceID, s *modelStart) {
	c := h.engine[id]
	switch s.step++; s.step {
	case 1:
		h.engine[id] = &modelContainer{} // in place of what was cut off
	case 2:
		h.pids++
		s.pid, c.pid, c.task = h.pids, h.pids, driver.Created
	case 3:
		c.begun = true
	case 4:
		c.task = driver.Running
		if h.ran[id]++; h.ran[id] > 1 {
			h.fail("%s was let go %d times", id, h.ran[id])
		}
	case 5:
		h.known[id] = &modelKnown{pid: s.pid, over: h.early[life{id, s.pid}]}
		if delete(h.starts, id); len(h.starts) == 0 {
			clear(h.early)
		}
	}
	h.say("start of %s: step %d", id, s.step)
}

// exit ends a job's process; settle writes down how, as long as the node lives.
func (h *recoverHistory) exit(id bulwark.InstanceID, c *modelContainer) {
	c.task = driver.Stopped
	h.say("%s ends", id)
	if h.up && h.listening {
		h.ended(driver.Exit{Instance: id, PID: c.pid})
	}
}

// ask asks for each job that nobody knows of and that is not being started.
func (h *recoverHistory) ask() {
	for _, id := range h.jobs {
		if _, ok := h.known[id]; !ok && h.up && h.starts[id] == nil {
			h.starts[id] = &modelStart{}
		}
	}
}

func (h *recoverHistory) step() {
	running := func() (bulwark.InstanceID, *modelContainer) {
		for _, id := range slices.Sorted(maps.Keys(h.engine)) {
			if c := h.engine[id]; c.task == driver.Running && h.rng.IntN(2) == 0 {
				return id, c
			}
		}
		return "", nil
	}
	switch h.rng.IntN(12) {
	case 0:
		if len(h.jobs) < 4 {
			h.jobs = append(h.jobs, bulwark.InstanceID(fmt.Sprintf("job%d", len(h.jobs)+1)))
		}
	case 1, 2:
		if id, c := running(); c != nil {
			h.exit(id, c)
		}
	case 3: // the settling of one that ended
		for _, id := range slices.Sorted(maps.Keys(h.known)) {
			if c := h.engine[id]; h.up && h.known[id].over && c != nil && c.task == driver.Stopped {
				c.exit = true
				if h.rng.IntN(2) == 0 {
					c.task = ""
				}
			}
		}
	case 4:
		h.say("the node is killed")
		h.up = false
	case 5:
		h.say("the engine is killed and comes back")
		h.listening = false
	case 6:
		if h.rng.IntN(8) == 0 {
			h.say("the machine is started anew")
			h.up = false
			for id, c := range h.engine {
				if c.begun {
					h.lost[id] = true
				}
				c.task = ""
			}
		}
	case 7:
		if !h.up {
			h.say("the node is back")
			h.begin()
		}
	case 8:
		if h.up && !h.listening {
			h.say("it hears again")
			h.listen()
		}
	default:
		h.ask()
		for _, id := range slices.Sorted(maps.Keys(h.starts)) {
			if h.up && h.rng.IntN(2) == 0 {
				h.advance(id, h.starts[id])
			}
		}
	}
}

// settle lets everything come to its end, and looks.
func (h *recoverHistory) settle() {
	h.say("nothing fails any more")
	if !h.up {
		h.begin()
	}
	if !h.listening {
		h.listen()
	}
	for h.ask(); len(h.starts) > 0; {
		for _, id := range slices.Sorted(maps.Keys(h.starts)) {
			h.advance(id, h.starts[id])
		}
	}
	for id, c := range h.engine {
		if c.task == driver.Running {
			h.exit(id, c)
		}
	}
	for _, id := range h.jobs {
		switch k := h.known[id]; {
		case k == nil || !k.over:
			h.fail("%s has ended, and it is not known", id)
		case h.ran[id] == 0 && !h.lost[id]:
			h.fail("%s is taken for over, and never ran", id)
		}
	}
	for id, c := range h.engine {
		if h.known[id] == nil {
			h.fail("%s is left in the engine: %+v", id, *c)
		}
	}
}
