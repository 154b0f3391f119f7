package main

import (
	"context"
	"errors"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

// errLost: the stream of an operation's events ended before its outcome.
var errLost = errors.New("the connection was lost")

// maxLost is how often a lost connection is made anew, some seconds apart, before it is given up.
const maxLost = 10

// watch shows an operation from its beginning to its end and returns the outcome. A lost connection is made again; what
// was shown already is not shown twice. Ctrl-C ends the watching, not the work, and says so.
func (c *cli) watch(ctx context.Context, s *session, app bulwark.AppName, op client.Operation) (*client.Done, error) {
	if op.ID == "" { // there was nothing to wait for
		done := &client.Done{Message: op.Message}
		if c.json {
			return done, c.event(client.Event{Done: done})
		}
		return done, nil
	}
	w := &watcher{c: c, progress: c.progress("Working")}
	defer w.progress.end()
	for lost := 0; ; lost++ {
		before := w.seen
		w.skip = w.seen
		err := s.Watch(ctx, app, op.ID, w.event)
		switch {
		case w.done != nil:
			return w.done, nil
		case w.failed != nil:
			return nil, w.failed
		case ctx.Err() != nil:
			w.progress.set("")
			c.goesOn(app)
			return nil, ctx.Err()
		case err != nil && bulwark.KindOf(err) != bulwark.KindUnavailable && bulwark.KindOf(err) != bulwark.KindInternal:
			return nil, err
		}
		if w.seen > before {
			lost = 0
		}
		if lost == maxLost {
			return nil, bulwark.Fail(bulwark.KindUnavailable, "The connection was lost; the work goes on at the server.",
				"See what became of it with bulwark releases --app "+string(app)+".", errors.Join(errLost, err))
		}
		w.progress.set("The connection was lost; trying again")
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(min(lost+1, 5)) * 500 * time.Millisecond):
		}
	}
}

// watcher takes the events of one operation.
type watcher struct {
	c        *cli
	progress *progress
	seen     int // events shown
	skip     int // events of a stream that begins anew which were shown before
	done     *client.Done
	failed   error
}

func (w *watcher) event(e client.Event) error {
	if w.skip > 0 {
		w.skip--
		return nil
	}
	w.seen++
	if e.Stage != "" {
		w.progress.set(upper(e.Stage))
	}
	w.done = e.Done
	if e.Error != nil {
		w.failed = e.Error
	}
	if w.c.json {
		return w.c.event(e)
	}
	if e.Log != "" || e == (client.Event{At: e.At}) { // an empty line is one too
		w.progress.print(w.c.stdout, clean(e.Log))
	}
	return nil
}

// goesOn says what Ctrl-C did not do.
func (c *cli) goesOn(app bulwark.AppName) {
	c.note("You no longer watch, but the work goes on at the server.\n"+
		"See what became of it:  bulwark releases --app %[1]s\n"+
		"Stop a build:           bulwark builds cancel --app %[1]s\n"+
		"Return to a release:    bulwark rollback vN --app %[1]s", app)
}

// released shows an operation and says what came of it.
func (c *cli) released(ctx context.Context, s *session, app bulwark.AppName, op client.Operation) error {
	done, err := c.watch(ctx, s, app, op)
	if err != nil || c.json {
		return err
	}
	if done.Message != "" {
		c.say("%s", done.Message)
	}
	if done.Release > 0 && !done.Waiting {
		c.say("%s", c.releaseLine(app, done))
	}
	return nil
}

func (c *cli) releaseLine(app bulwark.AppName, done *client.Done) string {
	if done.Waiting {
		return done.Message
	}
	line := "Released v" + number(done.Release) + " of " + string(app) + "."
	if done.URL != "" {
		line += " " + done.URL
	}
	return line
}
