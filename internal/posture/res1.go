package posture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
)

func res1() Control {
	return Control{ID: "RES-1", Version: 1, Every: weekly,
		Promise: "On one machine, the platform's processes and an instance may end at any moment: apps serve on, and nothing acknowledged is lost.",
		Tries: "Kills the platform's processes one after the other, right after changes that were acknowledged, and one of two instances, while the model " +
			"app is asked. Not the edge: what it answers just then would be lost to people.",
		Probe: probeRES1}
}

const (
	// backTime is what a process has to be there again.
	backTime = 15 * time.Second
	// calmTime is what a push that is under way has to end: the connection of one that is not through by then is cut, its build goes on.
	calmTime = 2 * time.Minute
	// leastAsked is how many requests are to have been made around an end, at least.
	leastAsked = 10
)

// mortal are the processes in the order in which they end; stores tells which of them keep what people were told is kept.
var mortal = []struct {
	name   string
	stores bool
}{{"egress", false}, {"resolver", false}, {"certs", false}, {"dial", false}, {"containerd", false}, {"node", true}, {"server", true}}

func probeRES1(ctx context.Context, w *World, r *Record) (err error) {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	if _, err := w.Person.Do(ctx, "ps", "scale", "web=2", "--app", app); err != nil {
		return err
	}
	set := []string{}
	defer func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer stop()
		_, serr := w.Person.Do(ctx, "ps", "scale", "web=1", "--app", app)
		if len(set) > 0 {
			_, uerr := w.Person.Do(ctx, append([]string{"config", "unset", "--app", app}, set...)...)
			serr = errors.Join(serr, uerr)
		}
		err = errors.Join(err, serr)
	}()
	nobody, err := w.visitor("nobody-" + randomHex(5))
	if err != nil {
		return err
	}
	r.Proven("a request that is not answered would be seen", nobody(ctx) != nil, "of a name that nobody has")
	for _, m := range mortal {
		if m.stores {
			name := "PROBE_" + strings.ToUpper(m.name) + "_" + strings.ToUpper(randomHex(4))
			// Told as done: from here on nobody may forget it.
			if _, err := w.Person.Do(ctx, "config", "set", name+"=kept", "--app", app); err != nil {
				return err
			}
			set = append(set, name)
		}
		if err := w.outlive(ctx, r, app, m.name, func() error { return w.endProcess(ctx, r, m.name) }); err != nil {
			return err
		}
	}
	if err := w.outlive(ctx, r, app, "an instance", func() error { return w.endInstance(ctx, r, app) }); err != nil {
		return err
	}
	out, err := w.Person.Do(ctx, "config", "--app", app, "--json")
	if err != nil {
		return err
	}
	for _, name := range set {
		r.Refused("lose a change that was acknowledged right before "+name, strings.Contains(string(out), name), brief(string(out)))
	}
	// All of them take part in this one: the server decides, the node starts an instance with containerd, and its names come from the resolver.
	said, err := w.Person.InModel(ctx, app, "resolve", "localhost")
	detail := brief(string(said))
	if err != nil {
		detail = err.Error()
	}
	r.Refused("leave the platform unable to start anything", err == nil, detail)
	return nil
}

// outlive asks the app without a pause while something ends and comes back.
func (w *World) outlive(ctx context.Context, r *Record, app, what string, end func() error) error {
	ask, err := w.visitor(app)
	if err != nil {
		return err
	}
	if err := ask(ctx); err != nil {
		return fmt.Errorf("the model app does not answer before %s ends: %w", what, err)
	}
	asking, stop := context.WithCancel(ctx)
	var seen visits
	var asked sync.WaitGroup
	var count atomic.Int64
	asked.Go(func() {
		for asking.Err() == nil {
			one := visit(ctx, ask, 10*time.Millisecond)
			count.Add(int64(one.asked))
			seen.asked, seen.failed, seen.took = seen.asked+one.asked, seen.failed+one.failed, append(seen.took, one.took...)
			if one.last != nil {
				seen.last = one.last
			}
		}
	})
	pause(ctx, 200*time.Millisecond)
	if err = w.calm(ctx); err == nil {
		err = end()
	}
	pause(ctx, 500*time.Millisecond)
	for enough := time.Now().Add(backTime); count.Load() <= leastAsked && time.Now().Before(enough); { // a machine that stands still asks nothing
		pause(ctx, 100*time.Millisecond)
	}
	stop()
	asked.Wait()
	if err != nil {
		return err
	}
	// What an instance was answering when it was killed is lost, and never sent a second time.
	lost := 0
	if what == "an instance" {
		lost = 1
	}
	r.Refused("have requests fail by ending "+what, seen.failed <= lost, seen.String())
	r.Proven("the app was asked while "+what+" ended", seen.asked > leastAsked, seen.String())
	return nil
}

// endProcess ends one of the platform's processes and waits until another is in its place.
func (w *World) endProcess(ctx context.Context, r *Record, name string) error {
	before, err := w.named()
	if err != nil {
		return err
	}
	pid := before[name]
	if pid == 0 {
		return fmt.Errorf("there is no process %s to end", name)
	}
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("%s cannot be ended: %w", name, err)
	}
	for time.Since(began) < backTime {
		if now, err := w.named(); err == nil && now[name] != 0 && now[name] != pid && w.answers(ctx, name) {
			r.Proven(name+" was ended", true, fmt.Sprintf("process %d", pid))
			r.Refused("keep "+name+" from coming back", true, "it was there again after "+time.Since(began).Round(time.Millisecond).String())
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	_, err = os.Stat(fmt.Sprintf("/proc/%d", pid))
	r.Proven(name+" was ended", err != nil, fmt.Sprintf("process %d", pid))
	r.Refused("keep "+name+" from coming back", false, "it was not there again after "+backTime.String())
	return nil
}

// answers tells whether a process that keeps something does its work again.
func (w *World) answers(ctx context.Context, name string) bool {
	switch name {
	case "node":
		var info json.RawMessage
		return w.Node.Call(ctx, "info", struct{}{}, &info) == nil
	case "server":
		_, err := w.Person.Do(ctx, "whoami", "--json")
		return err == nil
	}
	return true
}

// endInstance kills one of the app's instances and waits until there are two again.
func (w *World) endInstance(ctx context.Context, r *Record, app string) error {
	before, err := w.healthyOf(ctx, app)
	if err != nil {
		return err
	}
	all, err := w.instances(ctx)
	if err != nil {
		return err
	}
	for _, i := range all {
		if !before[i.Instance.Instance] {
			continue
		}
		began := time.Now()
		if err := syscall.Kill(i.pids[0], syscall.SIGKILL); err != nil {
			return fmt.Errorf("an instance cannot be ended: %w", err)
		}
		for time.Since(began) < 2*backTime {
			if now, err := w.healthyOf(ctx, app); err == nil && len(now) == 2 && !now[i.Instance.Instance] {
				r.Proven("an instance was ended", true, string(i.Instance.Instance))
				r.Refused("keep an instance from being replaced", true, "there were two again after "+time.Since(began).Round(time.Millisecond).String())
				return nil
			}
			if !pause(ctx, 100*time.Millisecond) {
				return ctx.Err()
			}
		}
		_, err := os.Stat(fmt.Sprintf("/proc/%d", i.pids[0]))
		r.Proven("an instance was ended", err != nil, string(i.Instance.Instance))
		r.Refused("keep an instance from being replaced", false, "it was not after "+(2*backTime).String())
		return nil
	}
	return errors.New("the model app has no instance to end")
}

// healthyOf are the app's web instances that serve.
func (w *World) healthyOf(ctx context.Context, app string) (map[bulwark.InstanceID]bool, error) {
	out, err := w.Person.Do(ctx, "ps", "--app", app, "--json")
	if err != nil {
		return nil, err
	}
	var procs []struct {
		ID      bulwark.InstanceID `json:"id"`
		Process string             `json:"process"`
		State   string             `json:"state"`
	}
	if err := json.Unmarshal(out, &procs); err != nil {
		return nil, err
	}
	healthy := map[bulwark.InstanceID]bool{}
	for _, p := range procs {
		if p.Process == "web" && p.State == "healthy" {
			healthy[p.ID] = true
		}
	}
	return healthy, nil
}

// calm waits until nobody pushes, as long as may be: who does would have the connection cut, and its build go on unseen.
func (w *World) calm(ctx context.Context) error {
	git := w.Installation.Declared()["git"]
	for end := time.Now().Add(calmTime); time.Now().Before(end); {
		busy := false
		for _, table := range []string{"tcp", "tcp6"} {
			for _, s := range sockets("/proc/thread-self/net/" + table) {
				busy = busy || s.local.Port() == git && s.state == stateEstablished
			}
		}
		if !busy {
			return nil
		}
		if !pause(ctx, time.Second) {
			return ctx.Err()
		}
	}
	return nil
}
