//go:build bench

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
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
	var quiet, busy, took []float64
	for range max(2, *benchRuns/3) {
		from := time.Now()
		time.Sleep(4 * window)
		quiet = append(quiet, quantile(l.between(from, time.Now()), 0.99))
		from = time.Now()
		out, err := p.run("", "bulwark", "posture", "--run", "--json")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		took = append(took, time.Since(from).Seconds())
		busy = append(busy, quantile(l.between(from, time.Now()), 0.99))
		if err := b.probes(out, l); err != nil {
			return err
		}
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
	b.add(result{Name: "p99 while probes run", Unit: "ms", Ours: digested(busy...), Peer: digested(quiet...), Whom: "quiet, before each", How: how},
		&goal{most: 1.1, ratio: true})
	return nil
}

// probes prints how long each probe took, and what requests took meanwhile.
func (b *bench) probes(out string, l *steady) error {
	var got struct {
		Controls []struct {
			Control string           `json:"control"`
			Began   time.Time        `json:"began"`
			Took    bulwark.Duration `json:"took"`
		} `json:"controls"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		return err
	}
	for _, c := range got.Controls {
		took := time.Duration(c.Took)
		slow := l.between(c.Began, c.Began.Add(took))
		b.t.Logf("%s took %s; p50, p99 and p99.9 of requests meanwhile, ms: %.2f %.2f %.2f", c.Control, took, quantile(slow, 0.5), quantile(slow, 0.99), quantile(slow, 0.999))
	}
	return nil
}
