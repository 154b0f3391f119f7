package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// How long the steps of an end may take.
const (
	settleTime = 10 * time.Second // until an ended process's output is in its file
	maxGrace   = 5 * time.Minute
	haltGrace  = 30 * time.Second
	removeTime = 2 * time.Minute // for all beside the grace
)

// ended notes the end of an instance's process, as soon as all that it wrote is in its log file: whoever is told of the end
// finds the last words.
func (n *instances) ended(e driver.Exit) {
	n.mu.Lock()
	i, ok := n.all[e.Instance]
	if !ok && len(n.starting) > 0 {
		n.early[life{e.Instance, e.PID}] = e // a short command may end before its start is through
	}
	ok = ok && (i.pid == e.PID || i.pid == 0) // else it is the end of an attempt at its start that was given up
	if ok = ok && !i.settling; ok {
		i.settling = true
	}
	n.mu.Unlock()
	if !ok {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), settleTime)
		defer cancel()
		if i.Kind != nodeapi.KindRun { // its output goes to who is attached
			if err := n.driver.Settle(ctx, e.Instance); err != nil && bulwark.KindOf(err) != bulwark.KindNotFound {
				n.log.Warn("an instance's last words may be missing", "instance", e.Instance, "error", err)
			}
		}
		n.isOver(i, e.Code)
	}()
}

// isOver notes that nothing of an instance runs any more. An instance that was over for another reason keeps it.
func (n *instances) isOver(i *instance, code int) {
	n.mu.Lock()
	if !i.Phase.Over() {
		i.ExitCode = code
		if i.Phase == nodeapi.PhaseStopping {
			i.Reason = "it was stopped"
		}
		i.Phase = nodeapi.PhaseExited
		if i.Reason == "" && (i.Kind == "" || code != 0) {
			i.Reason = exitReason(code)
		}
	}
	select {
	case <-i.gone:
	default:
		close(i.gone)
	}
	n.mu.Unlock()
	n.changed.send()
}

func exitReason(code int) string {
	switch {
	case code == 0:
		return "it ended by itself with exit code 0; a process of an app is meant to go on"
	case code == 137:
		return "it was killed (SIGKILL), most often because it used more memory than its size allows"
	case code > 128:
		return fmt.Sprintf("it was ended by signal %d (%s)", code-128, syscall.Signal(code-128))
	}
	return fmt.Sprintf("it ended with exit code %d", code)
}

// ending is the one end of an instance; whoever asks for it meanwhile shares it.
type ending struct {
	kill chan struct{} // closed when the first caller's patience is over
	once sync.Once     // closes kill
	done chan struct{}
	err  error // once done is closed
}

// after has the grace end at the latest after d.
func (e *ending) after(d time.Duration) {
	time.AfterFunc(min(d, maxGrace), func() { e.once.Do(func() { close(e.kill) }) })
}

// end stops an instance: no new request reaches it, SIGTERM, grace, SIGKILL; then it is forgotten. It goes on when the
// caller goes away, and may be asked for again.
func (n *instances) end(ctx context.Context, in nodeapi.Stop) error {
	n.mu.Lock()
	i, ok := n.all[in.Instance]
	if !ok {
		n.mu.Unlock()
		return n.driver.Remove(ctx, in.Instance)
	}
	e := i.ending
	if e == nil {
		e = &ending{kill: make(chan struct{}), done: make(chan struct{})}
		i.ending = e
		if !i.Phase.Over() {
			i.Phase = nodeapi.PhaseStopping
		}
		go func() {
			defer close(e.done)
			if e.err = n.take(i, e); e.err != nil {
				n.mu.Lock()
				i.ending = nil // the next who asks tries again
				n.mu.Unlock()
			}
		}()
	}
	n.mu.Unlock()
	e.after(time.Duration(in.Grace))
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take takes an instance out of everything, step by step; each step may be repeated.
func (n *instances) take(i *instance, e *ending) error {
	ctx, cancel := context.WithTimeout(context.Background(), maxGrace+removeTime)
	defer cancel()
	id := i.Instance.Instance
	i.stop()
	<-i.watched // the watch may be telling dial about it just now
	if err := n.dial.unregister(ctx, id); err != nil {
		n.log.Warn("dial did not forget an instance", "instance", id, "error", err)
	}
	select {
	case <-i.gone:
	default:
		if err := n.driver.Signal(ctx, id, syscall.SIGTERM); err != nil && bulwark.KindOf(err) != bulwark.KindNotFound {
			return err
		}
		select {
		case <-i.gone:
		case <-e.kill:
		}
	}
	if err := n.driver.Remove(ctx, id); err != nil {
		return err
	}
	n.isOver(i, 128+int(syscall.SIGKILL)) // the engine's own word may come after we forgot it
	n.mu.Lock()
	delete(n.all, id)
	n.mu.Unlock()
	if i.netns != nil {
		i.netns.Close()
	}
	n.router.Release(i.address)
	n.changed.send()
	return n.tidy(i)
}

// tidy takes away what an instance leaves behind: its output, once it is in the app's log, and its release's root file
// system, when it was the last to use it.
func (n *instances) tidy(i *instance) error {
	<-i.collected
	raw := n.logFile(i.Instance.Instance)
	for _, path := range []string{raw, raw + ".at"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	n.mounts.Lock() // nobody may be about to use it
	defer n.mounts.Unlock()
	n.mu.Lock()
	used := n.starting[rootfsName(i.App, i.Generation)] > 0
	for _, other := range n.all {
		used = used || other.App == i.App && other.Generation == i.Generation
	}
	n.mu.Unlock()
	if used {
		return nil
	}
	return n.images.Unmount(filepath.Join(n.dirs.rootfs, rootfsName(i.App, i.Generation)))
}

// begun returns when no start is under way.
func (n *instances) begun(ctx context.Context) error {
	for {
		settled := n.settled.wait()
		n.mu.Lock()
		under := len(n.starting)
		n.mu.Unlock()
		if under == 0 {
			return nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// halt stops every instance, for the end of the platform on this machine; they start again with it. Nothing starts
// meanwhile, and nobody is told of an end: it is the platform that stops, no instance crashed. When an instance cannot be
// stopped, all goes on as before.
func (n *instances) halt(ctx context.Context) error {
	n.halting.Store(true)
	if err := n.begun(ctx); err != nil {
		n.halting.Store(false)
		return fmt.Errorf("an instance is being started: %w", err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards failed
	var failed error
	for _, i := range n.list() {
		wg.Go(func() {
			if err := n.end(ctx, nodeapi.Stop{Instance: i.Instance, Grace: bulwark.Duration(haltGrace)}); err != nil {
				mu.Lock()
				failed = errors.Join(failed, fmt.Errorf("%s: %w", i.Instance, err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed != nil {
		n.halting.Store(false)
		n.changed.send()
	}
	return failed
}
