package supervise

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"golang.org/x/sys/unix"
)

// unit keeps one process of the table running. One goroutine, loop, decides; others ask it.
type unit struct {
	s    *supervisor
	spec Spec

	listeners []listener // does not change after open

	mu       sync.Mutex // taken after supervisor.stateMu
	children []*child   // oldest first; more than one only while one takes over from another
	store    store
	restarts int
	short    int // short lives in a row
	lastExit string
	refused  int // messages from somebody else, or above the limit

	notify     *net.UnixConn
	heard      chan struct{} // closed when hear has ended
	requests   chan request
	quit       chan struct{} // closed to end waits: the supervisor stops
	done       chan struct{} // closed when loop has ended
	begun      bool
	found      bool          // there was a process of an earlier supervisor
	after      *unit         // the one before it in the order of start; nil for the first
	resumed    chan struct{} // closed when nothing of an earlier supervisor is left to be replaced
	firstReady chan struct{}
	firstOnce  sync.Once
	retired    sync.WaitGroup
}

// request asks a unit's loop for a restart.
type request struct{ reply chan error }

func newUnit(s *supervisor, spec Spec) *unit {
	return &unit{
		s: s, spec: spec, store: store{limit: spec.Store},
		heard: make(chan struct{}), requests: make(chan request), quit: make(chan struct{}), done: make(chan struct{}),
		firstReady: make(chan struct{}), resumed: make(chan struct{}),
	}
}

// open makes the sockets that were not taken over.
func (u *unit) open() error {
	for _, l := range u.spec.Listeners {
		if slices.ContainsFunc(u.listeners, func(have listener) bool { return have.name == l.Name }) {
			continue
		}
		bound, err := bind(l)
		if u.holdsPort(l, err) {
			// A process that we found, and we could not take the socket out of it: without it, then.
			u.endAdopted()
			bound, err = bind(l)
		}
		if err != nil {
			return err
		}
		if l.unix() && u.spec.Keep {
			u.endAdopted() // it listens where nobody comes any more
		}
		u.listeners = append(u.listeners, bound)
	}
	// In the order of the table: it is the order of the descriptors.
	slices.SortFunc(u.listeners, func(a, b listener) int { return u.index(a.name) - u.index(b.name) })
	return u.listenNotify()
}

// holdsPort tells whether err, of binding l, is the fault of a process that was found running.
func (u *unit) holdsPort(l Listener, err error) bool {
	ap, perr := netip.ParseAddrPort(l.Address)
	if perr != nil || !errors.Is(err, unix.EADDRINUSE) {
		return false
	}
	holder := portHolder(l.Network, ap.Port())
	return slices.ContainsFunc(u.children, func(c *child) bool { return c.pid == holder })
}

func (u *unit) index(name string) int {
	return slices.IndexFunc(u.spec.Listeners, func(l Listener) bool { return l.Name == name })
}

// endAdopted ends what an earlier supervisor left of this unit.
func (u *unit) endAdopted() {
	for _, c := range u.children {
		c.stop(u.spec.grace())
	}
	u.children = nil
}

// begin starts the process, or goes on with one that was found, and returns without waiting for it to be ready.
func (u *unit) begin() {
	u.begun = true
	u.found = u.current() != nil
	if !u.found {
		u.start()
	}
	go u.loop()
}

// loop starts, follows and restarts the process until the supervisor stops.
func (u *unit) loop() {
	defer close(u.done)
	if u.found {
		u.awaitTurn()
		u.resume()
	}
	close(u.resumed)
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		var ended, leaving <-chan struct{}
		var due <-chan time.Time
		cur := u.current()
		if cur != nil {
			ended = cur.done
			if u.spec.Overlap {
				leaving = cur.leaving
			}
		} else {
			again.Reset(u.s.cfg.Backoff.wait(u.short))
			due = again.C
		}
		select {
		case <-ended:
			u.ended(cur)
		case <-leaving:
			u.departs(cur)
		case <-due:
			u.start()
		case r := <-u.requests:
			r.reply <- u.replace()
		case <-u.quit:
			return
		}
	}
}

// awaitTurn waits until those before it were replaced: a process that drains while another, which it needs for what it
// still answers, is replaced, would fail these. One that ended waits for nobody.
func (u *unit) awaitTurn() {
	if u.after == nil {
		return
	}
	select {
	case <-u.after.resumed:
	case <-u.after.done:
	case <-u.current().done:
	case <-u.quit:
	}
}

// resume goes on with a process that an earlier supervisor left: it stays if it may, else it is replaced, because the
// program may be a newer one now.
func (u *unit) resume() {
	cur := u.current()
	if !u.spec.Keep {
		if err := u.replace(); err != nil {
			u.s.log.Error("cannot replace a process that was left running", "process", u.spec.Name, "error", err)
		}
		if cur != u.current() {
			return
		}
	}
	u.retireAllBut(cur)
	u.firstOnce.Do(func() { close(u.firstReady) })
}

// current returns the process that serves, or nil.
func (u *unit) current() *child {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.currentLocked()
}

func (u *unit) currentLocked() *child {
	for _, c := range slices.Backward(u.children) {
		if !c.retiring {
			return c
		}
	}
	return nil
}

// start starts a process; a failure counts as a short life.
func (u *unit) start() *child {
	u.mu.Lock()
	c, err := u.spawn()
	if err != nil {
		u.short++
		u.lastExit = err.Error()
		u.mu.Unlock()
		u.s.log.Error("cannot start", "process", u.spec.Name, "error", err)
		return nil
	}
	u.children = append(u.children, c)
	u.mu.Unlock()
	u.s.log.Info("started", "process", u.spec.Name, "pid", c.pid)
	u.saved()
	return c
}

// ended notes the end of the process that served.
func (u *unit) ended(c *child) {
	u.noteEnd(c, c.reason)
	u.mu.Lock()
	u.forgetLocked(c)
	u.mu.Unlock()
	u.saved()
}

// departs notes that the process that served accepts no connection any more, although nobody here told it to stop: what has come in since
// waits for the next one, which need not wait for its end.
func (u *unit) departs(c *child) {
	u.noteEnd(c, "left on a signal of somebody else's")
	u.retire(c)
}

// noteEnd books one life.
func (u *unit) noteEnd(c *child, reason string) {
	life := time.Since(c.since)
	u.s.log.Warn("ended", "process", u.spec.Name, "pid", c.pid, "reason", reason, "life", life.Round(time.Millisecond))
	u.mu.Lock()
	defer u.mu.Unlock()
	if life >= u.s.cfg.Backoff.Reset {
		u.short = 0
	}
	u.short++
	u.restarts++
	u.lastExit = reason
}

func (u *unit) forgetLocked(c *child) {
	u.children = slices.DeleteFunc(u.children, func(o *child) bool { return o == c })
}

// replace puts a new process in the place of the one that runs: beside it if the table says so, else after it.
func (u *unit) replace() error {
	old := u.current()
	if old != nil && !u.spec.Overlap {
		u.retireAllBut(nil)
		u.retired.Wait()
	}
	c := u.start()
	if c == nil {
		return u.failed("could not be started", nil)
	}
	if err := u.awaitReady(c); err != nil {
		if old != nil && u.spec.Overlap && !closed(old.done) {
			u.retire(c) // the old one goes on as if nothing had happened
		}
		return err
	}
	u.mu.Lock()
	u.short = 0
	if old != nil {
		u.restarts++
		u.lastExit = "restart"
	}
	u.mu.Unlock()
	u.retireAllBut(c)
	return nil
}

func (u *unit) awaitReady(c *child) error {
	t := time.NewTimer(u.spec.boot())
	defer t.Stop()
	select {
	case <-c.ready:
		return nil
	case <-c.done:
		return u.failed("ended before it was ready: "+c.reason, nil)
	case <-t.C:
		return u.failed(fmt.Sprintf("was not ready after %s", u.spec.boot()), nil)
	case <-u.quit:
		return u.failed("was not waited for, because everything stops", nil)
	}
}

func (u *unit) failed(what string, cause error) error {
	return bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The new process %s %s.", u.spec.Name, what), "Its log is "+u.logPath()+".", cause)
}

// retireAllBut tells all processes but one to stop, without waiting for them.
func (u *unit) retireAllBut(keep *child) {
	u.mu.Lock()
	old := slices.Clone(u.children)
	u.mu.Unlock()
	for _, c := range old {
		if c != keep {
			u.retire(c)
		}
	}
}

// retire tells one process to stop; a goroutine sees to it that it does.
func (u *unit) retire(c *child) {
	u.mu.Lock()
	was := c.retiring
	c.retiring = true
	u.mu.Unlock()
	if was {
		return
	}
	u.retired.Go(func() {
		c.stop(u.spec.grace())
		u.mu.Lock()
		u.forgetLocked(c)
		u.mu.Unlock()
		u.saved()
	})
}

// finish ends the unit: with leave, the process runs on for the next supervisor.
func (u *unit) finish(leave bool) {
	if !u.begun {
		return
	}
	close(u.quit)
	<-u.done
	if leave {
		return
	}
	u.retireAllBut(nil)
	u.retired.Wait()
}

// close lets go of the unit's descriptors.
func (u *unit) close(tidy bool) {
	inst := u.s.cfg.Installation
	if u.notify != nil {
		u.notify.Close()
		<-u.heard
		if tidy {
			os.Remove(inst.NotifySocket(u.spec.Name))
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range u.listeners {
		unix.Close(l.fd)
		if tidy && l.spec.unix() {
			os.Remove(l.spec.Address)
		}
	}
	u.listeners = nil
	u.store.close()
}

func (u *unit) saved() {
	if err := u.s.save(); err != nil {
		u.s.log.Error("cannot write the state", "error", err)
	}
}

func (u *unit) logPath() string {
	return filepath.Join(u.s.cfg.Installation.LogDir(), u.spec.Name+".log")
}
