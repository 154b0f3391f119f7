package edge

import (
	"context"
	"math"
	"runtime"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

// load is how many of an app's requests were begun lately, and how many may be.
type load struct {
	begun int     // in this tick
	rate  float64 // begun in a second, of late
	quiet int     // ticks without a request
	pace  float64 // requests that may begin in a second; 0: as many as come
	room  float64 // of them may begin now
}

// may counts a request that begins, unless it has to wait.
func (l *load) may() bool {
	if l.pace > 0 {
		if l.room < 1 {
			return false
		}
		l.room--
	}
	l.begun++
	return true
}

// How apps are paced: by additive increase and multiplicative decrease, as connections that share a link are. Whether processors are short is seen by how
// long what could run has to wait until it does, while the edge itself takes a good part of them: a build beside it is no reason.
const (
	paceTick   = 100 * time.Millisecond
	roomTick   = 10 * time.Millisecond
	shortAt    = 300 * time.Microsecond // nine in ten have waited less where processors are not short
	busyAt     = 0.35                   // of the processors: where the edge takes less, it is not its requests that make them short
	paceLeast  = 100                    // requests a second that every app may begin
	activeFor  = 2 * time.Second        // after its last request an app counts as one that is in use
	paceShrink = 0.7
	paceGrow   = 1.02
)

func (t *turns) loadOf(g *guard) *load {
	l := t.loads[g]
	if l == nil {
		l = &load{}
		t.loads[g] = l
	}
	return l
}

// isShort tells whether an app is paced now.
func (t *turns) isShort() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.short
}

// watch paces apps until ctx ends.
func (t *turns) watch(ctx context.Context) {
	var seen waits
	seen.since()
	used := processorTime()
	tick := time.NewTicker(roomTick)
	defer tick.Stop()
	last, judged := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		t.refill(now.Sub(last))
		last = now
		if now.Sub(judged) >= paceTick {
			passed, took := now.Sub(judged), processorTime()-used
			busy := took.Seconds() > busyAt*passed.Seconds()*float64(runtime.GOMAXPROCS(0))
			t.judge(seen.since() > shortAt && busy, passed)
			judged, used = now, used+took
		}
	}
}

// refill gives paced apps room for what may begin in a time, and turns to those who wait for that.
func (t *turns) refill(passed time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.loads {
		if l.pace > 0 {
			l.room = min(l.room+l.pace*passed.Seconds(), max(1, l.pace*2*roomTick.Seconds()))
		}
	}
	for t.free > 0 {
		t.free--
		if before := t.free; func() bool { t.pass(); return t.free > before }() {
			return // nobody waits who may
		}
	}
}

// judge sets the pace of apps for the next tick.
func (t *turns) judge(short bool, passed time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	active, paced := 0, false
	total := 0.0
	for g, l := range t.loads {
		l.rate = (l.rate + float64(l.begun)/passed.Seconds()) / 2
		if l.begun > 0 || t.apps[g] != nil {
			l.quiet = 0
		} else if l.quiet++; time.Duration(l.quiet)*paceTick > activeFor {
			delete(t.loads, g)
			continue
		}
		l.begun = 0
		active++
		total += l.rate
		if l.pace > 0 && !short {
			if l.pace *= paceGrow; l.pace > 4*l.rate+4*paceLeast && t.apps[g] == nil {
				l.pace = 0 // it asks for much less
			}
		}
		paced = paced || l.pace > 0
	}
	// Who has more than an equal share has to wait for the others. One that is alone waits for nobody.
	if fair := total / max(1, float64(active)); short && active > 1 {
		for _, l := range t.loads {
			if l.rate <= 1.2*fair || l.rate <= paceLeast {
				continue
			}
			if l.pace == 0 || l.pace > l.rate {
				l.pace = l.rate
			}
			l.pace = max(paceLeast, l.pace*paceShrink)
			paced = true
		}
	}
	t.short = paced
}

// processorTime is how long this process has had a processor.
func processorTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0 // then nothing is ever paced
	}
	return time.Duration(ts.Nano())
}

// waits tells how long what can run waits until it does.
type waits struct{ counts []uint64 }

// since returns the time that nine in ten have waited less than, of those since it was called last.
func (w *waits) since() time.Duration {
	sample := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(sample)
	h := sample[0].Value.Float64Histogram()
	if w.counts == nil {
		w.counts = make([]uint64, len(h.Counts))
	}
	var all uint64
	for i, n := range h.Counts {
		all += n - w.counts[i]
	}
	var sum uint64
	out := time.Duration(0)
	for i, n := range h.Counts {
		if sum += n - w.counts[i]; all > 0 && float64(sum) >= 0.9*float64(all) {
			if at := h.Buckets[i+1]; !math.IsInf(at, 0) {
				out = time.Duration(at * float64(time.Second))
			}
			break
		}
	}
	copy(w.counts, h.Counts)
	return out
}
