//go:build bench

package e2e

import (
	"fmt"
	"os/exec"
	"time"
)

// benchFlood floods one app in several ways, and compares what another app's answers take with what they took before. Whoever floods has
// the lowest priority on this machine, on which they are by need: what is measured is the platform, not who gets the processors.
func benchFlood(b *bench) error {
	p, err := b.person()
	if err != nil {
		return err
	}
	const flooded, other = "bench-flooded", "bench-other"
	for _, app := range []string{flooded, other} {
		if err := p.image(app, "1"); err != nil {
			return err
		}
	}
	const perSecond = 100
	const long = 10 * time.Second
	for _, kind := range []struct {
		name string
		args []string
	}{
		{"2,000 connections, h1", []string{"--h1", "-c", "2000"}},
		{"200 connections of 50 streams, h2", []string{"-c", "200", "-m", "50"}},
	} {
		l, err := newSteady(b.on, other, perSecond)
		if err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
		var quiet, busy, middle []float64
		for range max(2, *benchRuns/3) {
			from := time.Now()
			time.Sleep(long)
			quiet = append(quiet, quantile(l.between(from, time.Now()), 0.99))
			args := append([]string{"-n", "19", "h2load"}, kind.args...)
			port := b.on.ports["HTTPS"]
			cmd := exec.Command("nice", append(args, "-t", "1", "-D", fmt.Sprint(int(long.Seconds())+4), "--connect-to=127.0.0.1:"+port, "https://"+flooded+"."+domain+":"+port+"/kilobyte")...)
			if err := cmd.Start(); err != nil {
				return err
			}
			time.Sleep(3 * time.Second) // until all of it is there
			from = time.Now()
			time.Sleep(long)
			during := l.between(from, time.Now())
			busy, middle = append(busy, quantile(during, 0.99)), append(middle, quantile(during, 0.5))
			_ = cmd.Wait() // that some requests were refused is what is wanted
			time.Sleep(2 * time.Second)
		}
		l.end()
		requests, failed := l.counts()
		how := fmt.Sprintf("`nice -n 19 h2load`, %s, on one app; %d requests a second to another, %d in all, %d failed", kind.name, perSecond, requests, failed)
		b.add(result{Name: "p99 of another app under a flood: " + kind.name, Unit: "ms", Ours: digested(busy...), Peer: digested(quiet...), Whom: "quiet, before each", How: how},
			&goal{most: 2, ratio: true})
		b.add(result{Name: "p50 of another app under a flood: " + kind.name, Unit: "ms", Ours: digested(middle...), How: how}, nil)
		if failed > 0 {
			b.t.Errorf("%d requests to another app failed under a flood", failed)
		}
	}
	for _, app := range []string{flooded, other} {
		if _, err := p.run("", "bulwark", "apps", "destroy", app, "--now", "--confirm", app); err != nil {
			return err
		}
	}
	return nil
}
