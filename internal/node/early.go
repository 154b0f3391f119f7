package node

import (
	"context"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// earlyLife is how long a builder waits for its build: a push that brings its objects for longer gets another one.
const earlyLife = 20 * time.Second

// earlyBuilder starts one builder before its build is asked for, when somebody begins to push: BuildKit is up by the time the
// source is here. There is at most one on the machine, so whoever only begins to push, again and again, takes no more than
// that; it holds nothing that was not there before, and it ends when no build comes.
type earlyBuilder struct {
	mu      sync.Mutex            // guards what follows
	busy    map[bulwark.AppID]int // builders that do a build: two on the same cache would meet
	one     *early
	next    bulwark.AppID // that somebody began to push to while one was being ended
	halting bool          // nothing starts any more
	fewer   broadcast
}

// early is a builder that waits, or is being started or ended.
type early struct {
	app     bulwark.AppID
	started chan struct{}
	builder *builder // when started is closed; nil if it could not be started
	ending  bool     // under earlyBuilder.mu
	ended   chan struct{}
}

// early has a builder ready for an app, if there is nothing that speaks against it.
func (b *builds) early(app *ledger.App) {
	w := &b.waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.one != nil && w.one.ending {
		w.next = app.ID
	}
	if w.halting || w.one != nil || w.busy[app.ID] > 0 || len(b.slots) == cap(b.slots) {
		return
	}
	e := &early{app: app.ID, started: make(chan struct{}), ended: make(chan struct{})}
	w.one = e
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		k, err := b.newBuilder(ctx, app)
		if err == nil {
			e.builder = k
		} else {
			b.log.Info("no builder is ready before its build", "app", app.ID, "error", err)
		}
		close(e.started)
		time.AfterFunc(earlyLife, func() { b.dismiss(e) })
	}()
}

// earlyOf is early, for who knows the app's id alone.
func (b *builds) earlyOf(ctx context.Context, id bulwark.AppID) {
	if app, err := b.ledger.App(ctx, id); err == nil {
		b.early(app)
	}
}

// dismiss ends a builder that still waits. It is safe twice.
func (b *builds) dismiss(e *early) {
	if b.claim(e) {
		b.remove(e)
	}
}

// claim tells that a waiting builder is now the caller's to remove: from here on no build gets it.
func (b *builds) claim(e *early) bool {
	w := &b.waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	mine := e != nil && w.one == e && !e.ending
	if mine {
		e.ending = true
	}
	return mine
}

// remove ends a builder that was claimed.
func (b *builds) remove(e *early) {
	w := &b.waiting
	<-e.started
	if e.builder != nil {
		e.builder.close()
	}
	w.mu.Lock()
	next := w.next
	w.one, w.next = nil, ""
	w.mu.Unlock()
	w.fewer.send()
	close(e.ended)
	if next != "" {
		b.earlyOf(context.Background(), next) // unless it was destroyed
	}
}

// dismissOf ends the builder that waits for an app's build.
func (b *builds) dismissOf(app bulwark.AppID) {
	b.waiting.mu.Lock()
	e := b.waiting.one
	b.waiting.mu.Unlock()
	if e != nil && e.app == app {
		b.dismiss(e)
	}
}

// dismissAny ends the builder that waits, whosever it is.
func (b *builds) dismissAny() {
	b.waiting.mu.Lock()
	e := b.waiting.one
	b.waiting.mu.Unlock()
	if b.claim(e) {
		go b.remove(e)
	}
}

// builder returns a builder for an app: the one that waits, or a new one. done is to be called when it is closed.
func (b *builds) builder(ctx context.Context, app *ledger.App) (k *builder, done func(), err error) {
	w := &b.waiting
	w.mu.Lock()
	if w.halting {
		w.mu.Unlock()
		return nil, nil, bulwark.Failf(bulwark.KindUnavailable, "The platform is being stopped.")
	}
	w.busy[app.ID]++
	e := w.one
	if e != nil && e.app != app.ID {
		e = nil
	}
	ending := e != nil && e.ending
	if e != nil && !ending {
		w.one = nil // ours
	}
	w.mu.Unlock()
	done = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.busy[app.ID]--; w.busy[app.ID] == 0 {
			delete(w.busy, app.ID)
		}
		w.fewer.send()
	}
	if e != nil {
		wait := e.started
		if ending {
			wait = e.ended
		}
		select {
		case <-wait:
		case <-ctx.Done():
			go func() {
				if <-wait; !ending && e.builder != nil {
					e.builder.close()
				}
				done()
			}()
			return nil, nil, ctx.Err()
		}
		if !ending && e.builder != nil {
			select {
			case <-e.builder.gone: // it did not last
				e.builder.close()
			default:
				return e.builder, done, nil
			}
		}
	}
	if k, err = b.newBuilder(ctx, app); err != nil {
		done()
		return nil, nil, err
	}
	return k, done, nil
}

// halt ends all builders and waits until they are gone. Nobody is told that a build has failed: who asked for it sees the node
// go, and asks again when it is back.
func (b *builds) halt(ctx context.Context) error {
	w := &b.waiting
	w.mu.Lock()
	w.halting = true
	w.mu.Unlock()
	b.mu.Lock()
	for _, r := range b.runs {
		r.silence()
		r.cancel()
	}
	b.mu.Unlock()
	for {
		changed := w.fewer.wait()
		w.mu.Lock()
		one, left := w.one, len(w.busy)
		w.mu.Unlock()
		if one == nil && left == 0 {
			return nil
		}
		if one != nil {
			b.dismiss(one)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// resume takes builds again, after a halt that something else has failed.
func (b *builds) resume() {
	b.waiting.mu.Lock()
	defer b.waiting.mu.Unlock()
	b.waiting.halting = false
}
