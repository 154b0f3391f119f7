package edge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

// Lines take turns: an app of which many requests wait, and a client of which many do, wait for themselves.
func TestTurnsAreFair(t *testing.T) {
	ts := newTurns(1)
	flooded, other := &guard{}, &guard{}
	if !ts.take(t.Context(), flooded, "x") {
		t.Fatal("the first has to wait")
	}
	order := make(chan string, 100)
	wait := func(g *guard, client, name string) {
		ts.mu.Lock()
		n := 0
		for _, l := range ts.lines {
			n += l.waiting
		}
		ts.mu.Unlock()
		go func() {
			if ts.take(context.Background(), g, client) {
				order <- name
			}
		}()
		for {
			ts.mu.Lock()
			now := 0
			for _, l := range ts.lines {
				now += l.waiting
			}
			ts.mu.Unlock()
			if now > n {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	for _, name := range []string{"f1", "f2", "f3"} {
		wait(flooded, "x", name)
	}
	wait(flooded, "y", "fy")
	wait(other, "z", "o1")
	wait(other, "z", "o2")
	var got []string
	for range 6 {
		ts.give()
		got = append(got, <-order)
	}
	if want := []string{"f1", "o1", "fy", "o2", "f2", "f3"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	ts.give()
	if ts.free != 1 || len(ts.apps)+len(ts.lines) != 0 {
		t.Errorf("%d turns are free, %d lines are left", ts.free, len(ts.lines))
	}
}

// Who leaves the line takes no turn along, and a line has an end.
func TestTurnsAreNotLost(t *testing.T) {
	ts := newTurns(1)
	g := &guard{}
	ts.take(t.Context(), g, "x")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if ts.take(gone, g, "x") {
			t.Fatal("a turn that nobody gave")
		}
	}
	if len(ts.apps) != 0 {
		t.Error("who left still stands in the line")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan bool, lineMost)
	for range lineMost {
		go func() { done <- ts.take(ctx, g, "x") }()
	}
	for {
		ts.mu.Lock()
		full := ts.apps[g] != nil && ts.apps[g].waiting == lineMost
		ts.mu.Unlock()
		if full {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if ts.take(t.Context(), g, "x") {
		t.Error("a line without an end")
	}
	if other := (&guard{}); ts.take(gone, other, "x") {
		t.Error("a turn that nobody gave")
	}
	given := make(chan struct{})
	go func() {
		defer close(given)
		for range 50 {
			ts.give()
		}
	}()
	cancel()
	for range lineMost {
		if <-done {
			ts.give()
		}
	}
	<-given
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.free != 50 { // those that were given, whoever had them meanwhile
		t.Errorf("%d turns are free", ts.free)
	}
}

// Where processors are short, the app that has most of them is paced, and no other; one that is alone is not.
func TestPace(t *testing.T) {
	ts := newTurns(2)
	flooded, other := &guard{}, &guard{}
	second := func(short bool, floods, others int) {
		for range 10 {
			ts.mu.Lock()
			ts.loadOf(flooded).begun += floods / 10
			if others > 0 {
				ts.loadOf(other).begun += others / 10
			}
			ts.mu.Unlock()
			ts.judge(short, paceTick)
		}
	}
	pace := func(g *guard) float64 { return ts.loadOf(g).pace }
	second(true, 10_000, 0)
	second(true, 10_000, 0)
	for range 40 {
		second(true, 10_000, 0)
	}
	if pace(flooded) != 0 {
		t.Errorf("an app that is alone is paced: %.0f", pace(flooded))
	}
	second(true, 10_000, 100)
	if p := pace(flooded); p == 0 || p > 1000 || pace(other) != 0 || !ts.isShort() {
		t.Errorf("paced: %.0f and %.0f", p, pace(other))
	}
	for range 5 {
		second(true, 10_000, 100)
	}
	if p := pace(flooded); p != paceLeast {
		t.Errorf("paced to %.0f", p)
	}
	// Nobody is paced who has no more than others.
	same, equal := newTurns(2), []*guard{{}, {}}
	for range 20 {
		for _, g := range equal {
			same.loadOf(g).begun += 500
		}
		same.judge(true, paceTick)
	}
	for _, g := range equal {
		if p := same.loadOf(g).pace; p != 0 {
			t.Errorf("an app with an equal share is paced to %.0f", p)
		}
	}
	// Two that flood are paced both, beside one that does not.
	three, all := newTurns(2), []*guard{{}, {}, {}}
	for range 20 {
		for i, g := range all {
			three.loadOf(g).begun += []int{500, 450, 10}[i]
		}
		three.judge(true, paceTick)
	}
	if a, b, c := three.loadOf(all[0]).pace, three.loadOf(all[1]).pace, three.loadOf(all[2]).pace; a == 0 || b == 0 || c != 0 {
		t.Errorf("paced to %.0f, %.0f and %.0f", a, b, c)
	}
	// It comes back.
	for range 60 {
		second(false, 200, 100)
	}
	if p := pace(flooded); p != 0 || ts.isShort() {
		t.Errorf("still paced to %.0f", p)
	}
}

// A paced app begins as many requests as its pace says, though turns are free; others do not wait for it.
func TestPacedWaits(t *testing.T) {
	ts := newTurns(2)
	g, other := &guard{}, &guard{}
	ts.loadOf(g).pace = 100
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	passed := 0
	for range 100 { // a second, ten milliseconds at a time
		ts.refill(10 * time.Millisecond)
		for range 5 {
			if ts.take(gone, g, "x") {
				passed++
				ts.give()
			}
			if !ts.take(gone, other, "y") {
				t.Fatal("another app waits")
			}
			ts.give()
		}
	}
	if passed < 95 || passed > 105 {
		t.Errorf("%d began", passed)
	}
	got := make(chan bool)
	go func() { got <- ts.take(t.Context(), g, "x") }()
	for ts.waitsOf(g) == 0 {
		time.Sleep(time.Millisecond)
	}
	ts.refill(time.Second)
	if !<-got {
		t.Error("who waits is not let go on")
	}
}

func (t *turns) waitsOf(g *guard) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.apps[g]; l != nil {
		return l.waiting
	}
	return 0
}

// tripping is an answer on whose way somebody trips.
type tripping struct{ http.ResponseWriter }

func (tripping) Write([]byte) (int, error) { panic("tripped") }

// Who trips over a request takes no turn along.
func TestTurnsOutliveAPanic(t *testing.T) {
	e := &edge{turns: newTurns(1), guards: newGuards(1, policies{}), headers: newDefaultHeaders(), log: newAccessLog(nil)}
	p := &proxy{edge: e, pools: newExchanges()}
	for range 3 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("nobody tripped")
				}
			}()
			r := httptest.NewRequest("GET", "https://a.example.org/", nil)
			r.TLS = nil // it is refused, by a page
			p.ServeHTTP(tripping{httptest.NewRecorder()}, r)
		}()
		if e.turns.free != 1 {
			t.Fatal("the turn is gone")
		}
	}
}
