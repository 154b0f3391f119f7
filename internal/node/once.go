package node

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The labels of what runs once.
const (
	labelKind    = "bulwark.kind"
	labelCause   = "bulwark.cause" // the statement that somebody runs a command by
	labelCommand = "bulwark.command"
	labelSize    = "bulwark.size"
	labelUntil   = "bulwark.until"
)

// How long things that run once may last.
const (
	onceTime = 24 * time.Hour
	keepTime = time.Hour // for which a detached run that has ended is shown
)

// maxCommand bounds what is shown of a command: the engine takes no longer label.
const maxCommand = 1024

// job returns the command of one of a release's cron jobs.
func job(r *statement.Release, name bulwark.ProcessType) (bulwark.Command, bool) {
	for _, j := range r.Plan.Cron {
		if j.Name == name {
			return j.Command, true
		}
	}
	return bulwark.Command{}, false
}

// once makes an instance one that runs once.
func (i *instance) once(kind nodeapi.Kind, name, command string, size bulwark.Size) {
	command = clean(command)
	if len(command) > maxCommand {
		command = strings.ToValidUTF8(command[:maxCommand], "") + "…"
	}
	i.name, i.until = name, time.Now().Add(onceTime)
	i.Kind, i.Name, i.Command, i.Size = kind, name, command, size
	i.labels[labelName], i.labels[labelKind], i.labels[labelCommand], i.labels[labelSize] = name, string(kind), command, string(size)
	i.labels[labelUntil] = strconv.FormatInt(i.until.Unix(), 10)
}

// onceFromLabels reads what once wrote, after a restart of the node.
func (i *instance) onceFromLabels() {
	kind := nodeapi.Kind(i.labels[labelKind])
	if kind == "" {
		return
	}
	i.Kind, i.Name, i.Command, i.Size = kind, i.name, i.labels[labelCommand], bulwark.Size(i.labels[labelSize])
	until, err := strconv.ParseInt(i.labels[labelUntil], 10, 64)
	if err != nil {
		until = 0 // nobody but the node writes labels; without one its time is up
	}
	i.until = time.Unix(until, 0)
}

// watchOnce follows what runs once to its end: nothing probes it and dial never hears of it. It is ended when its time is
// up. Who started it forgets it, but for a detached run, which nobody waits for.
func (n *instances) watchOnce(ctx context.Context, i *instance) {
	n.phase(i, nodeapi.PhaseHealthy, "")
	timer := time.NewTimer(time.Until(i.until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	case <-i.gone:
		if i.Kind != nodeapi.KindDetached {
			return
		}
		timer.Reset(keepTime)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
	if i.Kind == nodeapi.KindJob {
		n.expire(i) // the server wants to know how it ended
		return
	}
	n.stopOnce(i)
}

// expire ends an instance and leaves it to be seen.
func (n *instances) expire(i *instance) {
	p := &attached{n: n, i: i}
	p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(killTime)
	defer timer.Stop()
	select {
	case <-i.gone:
	case <-timer.C:
		p.Signal(syscall.SIGKILL)
	}
}

// stopOnce stops and forgets an instance that runs once.
func (n *instances) stopOnce(i *instance) { (&attached{n: n, i: i}).forget() }

// endOnce ends what runs once of an app that was destroyed.
func (n *instances) endOnce(app bulwark.AppID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range n.all {
		if i.App == app && i.Kind != "" {
			go n.stopOnce(i)
		}
	}
}

// endLost ends the commands of people who may not run them any more: a role that was taken away, a key or a token that was
// removed, counts for what is under way too.
func (n *instances) endLost(still func(bulwark.Digest) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range n.all {
		cause := i.labels[labelCause]
		if cause == "" || i.Phase.Over() {
			continue
		}
		go func() {
			err := still(bulwark.Digest(cause))
			// To who does not belong to an app's place any more, it is not there.
			if k := bulwark.KindOf(err); k == bulwark.KindForbidden || k == bulwark.KindNotFound {
				n.log.Info("a command is ended: who started it may not any more", "instance", i.Instance.Instance, "error", err)
				n.stopOnce(i)
			}
		}()
	}
}
