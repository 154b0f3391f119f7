package node

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// fate is what becomes of something that the engine has when the node begins.
type fate int

const (
	forget fate = iota
	watch
	over // it has ended, and somebody may want to know how
)

// fateOf decides it: a pure function of what the engine and the labels say.
func fateOf(state driver.State, kind nodeapi.Kind) fate {
	switch {
	case kind == nodeapi.KindRun:
		return forget // who listened to it is gone
	case state == driver.Running:
		return watch
	case state == driver.Stopped:
		return over
	}
	return forget // its start was cut off: it never ran, and nobody was told that it exists
}

// missed are the ends that the engine told nobody of, by what it has now and by the processes of the instances that are known: a pure
// function. What is being started is not known yet: its end is told too, for the start to find.
func missed(known map[bulwark.InstanceID]int, found []driver.Status, now time.Time) (out []driver.Exit) {
	has := map[bulwark.InstanceID]bool{}
	for _, st := range found {
		has[st.Instance] = true
		if st.State != driver.Stopped {
			continue
		}
		pid, ok := known[st.Instance]
		if !ok {
			pid = st.PID
		}
		out = append(out, driver.Exit{Instance: st.Instance, PID: pid, Code: st.ExitCode, At: now})
	}
	for id, pid := range known {
		if !has[id] { // a shim that died takes its container along
			out = append(out, driver.Exit{Instance: id, PID: pid, Code: 137, At: now})
		}
	}
	return out
}

// recover takes over what runs after a restart of the node.
func (n *instances) recover(ctx context.Context) error {
	found, err := n.driver.List(ctx)
	if err != nil {
		return err
	}
	told := n.dial.told(ctx)
	var mine []*instance
	for _, st := range found {
		i, err := fromLabels(st)
		what := forget
		if err == nil {
			what = fateOf(st.State, i.Kind)
		}
		switch what {
		case forget:
			if err := n.driver.Remove(ctx, st.Instance); err != nil {
				return err
			}
			continue
		case watch:
			i.pid = st.PID
			if i.netns, err = n.outside(i, st.PID); err != nil {
				n.log.Info("instance ended meanwhile", "instance", st.Instance)
			} else if told[st.Instance] {
				if e, err := n.registration(ctx, i); err != nil {
					n.log.Warn("dial may forget an instance for a moment", "instance", st.Instance, "error", err)
				} else {
					n.dial.inherit(e)
				}
			}
		case over:
			i.Phase, i.ExitCode = nodeapi.PhaseExited, st.ExitCode
			close(i.gone)
		}
		mine = append(mine, i)
	}
	for _, i := range mine { // not before: the first one that is watched has dial told of all
		n.adopt(i)
	}
	return nil
}

func fromLabels(st driver.Status) (*instance, error) {
	app, err := bulwark.ParseAppID(st.Labels[labelApp])
	if err != nil {
		return nil, err
	}
	process, err := bulwark.ParseProcessType(st.Labels[labelProcess])
	if err != nil {
		return nil, err
	}
	generation, err := strconv.ParseUint(st.Labels[labelGeneration], 10, 64)
	if err != nil {
		return nil, err
	}
	address, err := netip.ParseAddr(st.Labels[labelAddress])
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(st.Labels[labelPort], 10, 16)
	if err != nil {
		return nil, err
	}
	i := &instance{
		Instance: nodeapi.Instance{Instance: st.Instance, App: app, Process: process, Generation: generation,
			Phase: nodeapi.PhaseStarting, Since: time.Now(), Isolation: bulwark.Isolation(st.Labels[labelIsolation])},
		labels: st.Labels, address: address, port: uint16(port), health: st.Labels[labelHealth], gone: make(chan struct{}), name: st.Labels[labelName],
	}
	i.onceFromLabels()
	return i, nil
}

// resync notes the end of what ended while nobody listened.
func (n *Node) resync(ctx context.Context) {
	// Those that are known first: what starts in between is then not missed in the list.
	n.instances.mu.Lock()
	known := map[bulwark.InstanceID]int{}
	for id, i := range n.instances.all {
		known[id] = i.pid
	}
	n.instances.mu.Unlock()
	found, err := n.instances.driver.List(ctx)
	if err != nil {
		n.config.Log.Warn("the engine does not answer", "error", err)
		return
	}
	for _, e := range missed(known, found, time.Now()) {
		n.instances.ended(e)
	}
}
