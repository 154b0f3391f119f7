package edge

import (
	"maps"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Bounds of what is remembered of an app.
const (
	tallyMinutes  = 60
	tallyExamples = 8 // for each reason
)

// tally counts what was refused or noted of an app's requests in the last hour, and keeps a few of them as examples.
type tally struct {
	mu       sync.Mutex // guards what follows
	minutes  [tallyMinutes]tallyMinute
	examples map[bulwark.Refusal][]bulwark.ShieldExample // the newest last
	total    map[bulwark.Refusal]uint64                  // since the edge began
}

type tallyMinute struct {
	at     int64 // minutes since 1970
	counts map[bulwark.Refusal]int
}

// note counts a request; the example is one of it.
func (t *tally) note(x bulwark.ShieldExample) {
	minute := x.Time.Unix() / 60
	t.mu.Lock()
	defer t.mu.Unlock()
	m := &t.minutes[int(minute%tallyMinutes+tallyMinutes)%tallyMinutes]
	if m.at != minute || m.counts == nil {
		*m = tallyMinute{at: minute, counts: map[bulwark.Refusal]int{}}
	}
	m.counts[x.Reason]++
	if t.examples == nil {
		t.examples, t.total = map[bulwark.Refusal][]bulwark.ShieldExample{}, map[bulwark.Refusal]uint64{}
	}
	t.total[x.Reason]++
	list := t.examples[x.Reason]
	if len(list) == tallyExamples {
		copy(list, list[1:])
		list = list[:tallyExamples-1]
	}
	t.examples[x.Reason] = append(list, x)
}

// all are the counts since the edge began.
func (t *tally) all() map[bulwark.Refusal]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.total)
}

// stats is the last hour.
func (t *tally) stats(now time.Time) bulwark.ShieldStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := bulwark.ShieldStats{Counts: map[bulwark.Refusal]int{}, Examples: []bulwark.ShieldExample{}}
	minute := now.Unix() / 60
	for _, m := range t.minutes {
		if minute-m.at >= tallyMinutes || m.at > minute { // of an hour before, or of a clock that was set back
			continue
		}
		for r, n := range m.counts {
			out.Counts[r] += n
		}
	}
	for _, list := range t.examples {
		for _, x := range list {
			if now.Sub(x.Time) < tallyMinutes*time.Minute {
				out.Examples = append(out.Examples, x)
			}
		}
	}
	newestFirst(out.Examples)
	return out
}
