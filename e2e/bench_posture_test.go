//go:build bench

package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// benchPosture has all probes run while an app serves under load, and compares its answers with those before.
func benchPosture(b *bench) error {
	p, err := b.person()
	if err != nil {
		return err
	}
	const app = "bench-posture"
	if err := p.image(app, "1"); err != nil {
		return err
	}
	// Once before: the prober signs in, and its app's base is unpacked.
	if _, err := p.run("", "bulwark", "posture", "--run"); err != nil {
		return err
	}
	l, err := newSteady(b.on, app, rate)
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	var quiet, busy, took, most, day []float64
	for range max(2, *benchRuns/3) {
		from := time.Now()
		time.Sleep(4 * window)
		still := l.between(from, time.Now())
		quiet = append(quiet, quantile(still, 0.99))
		from = time.Now()
		out, err := p.run("", "bulwark", "posture", "--run", "--json")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		took = append(took, time.Since(from).Seconds())
		loud := l.between(from, time.Now())
		busy = append(busy, quantile(loud, 0.99))
		most = append(most, mixed(still, 0.99, share{loud, 1.0 / 120}))
		scheduled, err := b.probes(out, l, quiet[len(quiet)-1])
		if err != nil {
			return err
		}
		day = append(day, mixed(still, 0.99, scheduled...))
	}
	l.end()
	requests, failed := l.counts()
	how := fmt.Sprintf("`bulwark posture --run` under %d requests a second; %d requests", rate, requests)
	b.add(result{Name: "all probes, one after the other", Unit: "s", Ours: digested(took...), How: how}, nil)
	b.add(result{Name: "failed requests", Unit: "requests", Ours: digested(float64(failed)), How: how}, &goal{most: 0})
	if failed > 0 {
		fmt.Fprintln(os.Stderr, l)
		b.t.Errorf("%d requests failed while probes ran", failed)
	}
	b.add(result{Name: "p99 over a day with the probes that it has by the schedule", Unit: "ms", Ours: digested(day...), Peer: digested(quiet...),
		Whom: "quiet, before each", How: "the same requests: those while a probe ran weighed by the part of a day in which it runs, quiet ones by the rest"},
		&goal{most: 1.1, ratio: true})
	b.add(result{Name: "p99 when as many probes are due as can be", Unit: "ms", Ours: digested(most...), Peer: digested(quiet...),
		Whom: "quiet, before each", How: "the same, with a 120th of the time to probes: no more is theirs unless somebody asks, but for the first after a start"},
		&goal{most: 1.1, ratio: true})
	b.add(result{Name: "p99 while probes run that somebody asked for, one after the other", Unit: "ms", Ours: digested(busy...), Peer: digested(quiet...), Whom: "quiet, before each", How: how},
		&goal{most: 1.1, ratio: true})
	return nil
}

// share is a kind of values, and which part of the whole it is.
type share struct {
	values []float64
	part   float64
}

// mixed is a quantile of what is made of some kinds of values, and for the rest of quiet ones.
func mixed(quiet []float64, q float64, shares ...share) float64 {
	type weighed struct{ value, weight float64 }
	rest := share{quiet, 1}
	for _, s := range shares {
		rest.part -= s.part
	}
	var all []weighed
	for _, s := range append(shares, rest) {
		for _, v := range s.values {
			all = append(all, weighed{v, s.part / float64(len(s.values))})
		}
	}
	slices.SortFunc(all, func(x, y weighed) int { return cmp.Compare(x.value, y.value) })
	sum := 0.0
	for _, w := range all {
		if sum += w.weight; sum >= q {
			return w.value
		}
	}
	return math.NaN()
}

// probes prints how long each probe took, what requests took meanwhile, how many were slower than one in
// a hundred is in quiet, and returns them by their part of the time.
func (b *bench) probes(out string, l *steady, usual float64) (scheduled []share, err error) {
	var got struct {
		Controls []struct {
			Control string           `json:"control"`
			Began   time.Time        `json:"began"`
			Took    bulwark.Duration `json:"took"`
			Every   bulwark.Duration `json:"every"`
		} `json:"controls"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		return nil, err
	}
	for _, c := range got.Controls {
		took := time.Duration(c.Took)
		slow := l.between(c.Began, c.Began.Add(took))
		scheduled = append(scheduled, share{slow, took.Seconds() / time.Duration(c.Every).Seconds()})
		over := 0
		for _, v := range slow {
			if v > usual {
				over++
			}
		}
		b.t.Logf("%s took %s; p50, p99 and p99.9 of requests meanwhile, ms: %.2f %.2f %.2f; slower than the quiet p99: %d, %.1f %%", c.Control, took,
			quantile(slow, 0.5), quantile(slow, 0.99), quantile(slow, 0.999), over, 100*float64(over)/float64(len(slow)))
	}
	return scheduled, nil
}
