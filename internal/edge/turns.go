package edge

import (
	"context"
	"sync"
	"time"
)

// turns shares the processors between apps. So many requests as there are processors are worked on at a time; where more come, those of
// each app wait in a line of their own, and in it those of each client, and the lines take turns. So an app that is flooded waits for itself, and so does a
// client that floods.
//
// A request has its turn from when it was read until it is on its way to the instance, and gives it up whenever it waits for something.
//
// An app that has more than an equal share while the processors are short is paced beside that, see pace: its instances and whoever sends the
// flood take processors, too.
type turns struct {
	mu    sync.Mutex // guards what follows
	free  int
	lines []*line // of apps of which requests wait, the next first
	apps  map[*guard]*line
	loads map[*guard]*load // of apps that had requests lately
	short bool             // an app is paced
}

// line is an app's requests that wait, by client.
type line struct {
	of      *guard
	waiting int
	clients []*clientLine // the next first
	known   map[string]*clientLine
}

type clientLine struct {
	client string
	turns  []chan struct{} // closed when it is one's turn, the first come first
}

// Bounds of waiting.
const (
	lineMost     = 1024            // requests of an app
	turnPatience = 5 * time.Second // of a request
)

func newTurns(n int) *turns {
	return &turns{free: n, apps: map[*guard]*line{}, loads: map[*guard]*load{}}
}

// take waits for a turn; false: the line is too long, or it took too long.
func (t *turns) take(ctx context.Context, g *guard, client string) bool {
	t.mu.Lock()
	if t.free > 0 && t.loadOf(g).may() {
		t.free--
		t.mu.Unlock()
		return true
	}
	turn, ok := t.enqueue(g, client)
	t.mu.Unlock()
	if !ok {
		return false
	}
	patience := time.NewTimer(turnPatience)
	defer patience.Stop()
	select {
	case <-turn:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-turn: // it came meanwhile, and is another's
		t.pass()
	default:
		t.leave(g, client, turn)
	}
	return false
}

// give gives a turn back.
func (t *turns) give() {
	t.mu.Lock()
	t.pass()
	t.mu.Unlock()
}

// pass hands a turn to the next who waits and may have one. The caller holds mu.
func (t *turns) pass() {
	for i, l := range t.lines {
		if t.loadOf(l.of).may() {
			t.lines = append(t.lines[:i], t.lines[i+1:]...)
			t.hand(l)
			return
		}
	}
	t.free++
}

// hand gives a turn to the first of a line, which goes to the end of the lines. The caller holds mu.
func (t *turns) hand(l *line) {
	c := l.clients[0]
	close(c.turns[0])
	c.turns = c.turns[1:]
	l.waiting--
	l.clients = l.clients[1:]
	if len(c.turns) > 0 {
		l.clients = append(l.clients, c)
	} else {
		delete(l.known, c.client)
	}
	if l.waiting > 0 {
		t.lines = append(t.lines, l)
	} else {
		delete(t.apps, l.of)
	}
}

// enqueue adds a request to the line of its app. The caller holds mu.
func (t *turns) enqueue(g *guard, client string) (chan struct{}, bool) {
	l := t.apps[g]
	if l == nil {
		l = &line{of: g, known: map[string]*clientLine{}}
		t.apps[g] = l
		t.lines = append(t.lines, l)
	}
	c := l.known[client]
	// Where the line is full, a client of whom nothing waits still gets a place.
	if l.waiting >= lineMost && (c != nil || l.waiting >= 2*lineMost) {
		return nil, false
	}
	if c == nil {
		c = &clientLine{client: client}
		l.known[client] = c
		l.clients = append(l.clients, c)
	}
	turn := make(chan struct{})
	c.turns = append(c.turns, turn)
	l.waiting++
	return turn, true
}

// leave takes a request out of its line. The caller holds mu.
func (t *turns) leave(g *guard, client string, turn chan struct{}) {
	l := t.apps[g]
	c := l.known[client]
	c.turns = without(c.turns, turn)
	l.waiting--
	if len(c.turns) == 0 {
		delete(l.known, client)
		l.clients = without(l.clients, c)
	}
	if l.waiting == 0 {
		delete(t.apps, g)
		t.lines = without(t.lines, l)
	}
}

func without[T comparable](list []T, v T) []T {
	for i, have := range list {
		if have == v {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// yield gives the request's turn up: it is about to wait for something, or over.
func (x *exchange) yield() {
	if x.turn {
		x.turn = false
		x.e.turns.give()
	}
}
