//go:build bench

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark/internal/supervise"
)

// benchHundred looks at an installation on which a hundred apps run.
func benchHundred(b *bench) (err error) {
	const apps = 100
	// Three blocks of ids an app; an installation has 4096 unless it is told otherwise.
	on, err := newInstallation(with, fmt.Sprintf("hundred-%d", os.Getpid()), "--blocks", "1024")
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, on.logs())
		}
		err = errors.Join(err, on.down())
	}()
	if err != nil {
		return err
	}
	p, err := newPerson(on, filepath.Join(b.work, "hundred"))
	if err != nil {
		return err
	}
	name := func(n int) string { return fmt.Sprintf("bench-%d", n) }
	began := time.Now()
	failed := make([]error, 2)
	var wg sync.WaitGroup
	for w := range failed {
		wg.Go(func() {
			for n := w; n < apps && failed[w] == nil; n += len(failed) {
				failed[w] = p.image(name(n), "1")
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	b.add(result{Name: "an app created and deployed from an image", Unit: "ms", Ours: digested(ms(time.Since(began)) / apps), How: "`bulwark apps create` and `deploy --image` of 100 apps, two at a time: time in all, divided"}, nil)
	status, err := times(*benchRuns, func() error {
		out, err := p.run("", "bulwark", "status", "--json")
		if err == nil && !strings.Contains(strings.ReplaceAll(out, " ", ""), fmt.Sprintf(`"healthy":%d`, apps)) {
			err = fmt.Errorf("not all is well: %s", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	b.add(result{Name: "`bulwark status`", Unit: "ms", Ours: digested(status...), How: "the command, whole, with 100 apps running"}, nil)
	if err := b.hundredRoutes(on, p, name); err != nil {
		return err
	}
	for _, process := range []string{"server", "node"} {
		if err := b.hundredRestart(on, p, process, name); err != nil {
			return err
		}
	}
	m, err := on.memory()
	if err != nil {
		return err
	}
	b.add(result{Name: "memory of the platform with 100 apps", Unit: "MB", Ours: digested(m.total() - m["app"]), How: "PSS without the apps' own processes"}, nil)
	for _, what := range m.names() {
		if what != "app" && m[what] > 5 {
			b.add(result{Name: "of it: " + what, Unit: "MB", Ours: digested(m[what]), How: "the same"}, nil)
		}
	}
	return nil
}

// hundredRoutes claims hosts, and waits for each until it is served.
func (b *bench) hundredRoutes(on *installation, p *person, name func(int) string) error {
	t, err := on.transport(false)
	if err != nil {
		return err
	}
	t.TLSClientConfig.InsecureSkipVerify = true // a claimed host has a certificate that nobody vouches for
	t.DisableKeepAlives = true
	c := &http.Client{Transport: t, Timeout: 10 * time.Second}
	var command, served []float64
	for n := range *benchRuns {
		host := fmt.Sprintf("host-%d.example.org", n)
		began := time.Now()
		if _, err := p.run("", "bulwark", "domains", "add", "--no-wait", host, "--app", name(n)); err != nil {
			return err
		}
		command = append(command, ms(time.Since(began)))
		if err := on.get(c, "https://"+host+":"+on.ports["HTTPS"], 2*time.Millisecond, 30*time.Second, func(string) bool { return true }); err != nil {
			return err
		}
		served = append(served, ms(time.Since(began)))
	}
	b.add(result{Name: "one route change: `bulwark domains add` to the first answer", Unit: "ms", Ours: digested(served...), How: "with 100 apps running, the command included"}, nil)
	b.add(result{Name: "of it: the command", Unit: "ms", Ours: digested(command...), How: "the same"}, nil)
	return nil
}

// hundredRestart has the supervisor replace a process while an app is asked.
func (b *bench) hundredRestart(on *installation, p *person, process string, name func(int) string) error {
	l, err := newSteady(on, name(7), 50)
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	var restarted, well []float64
	for range max(3, *benchRuns/2) {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		began := time.Now()
		err := supervise.NewClient(on.inst).Restart(ctx, process)
		cancel()
		if err != nil {
			return err
		}
		restarted = append(restarted, ms(time.Since(began)))
		err = poll(time.Minute, func() error {
			out, err := p.run("", "bulwark", "status", "--json")
			if text := strings.ReplaceAll(out, " ", ""); err == nil && !(strings.Contains(text, `"healthy":100`) && strings.Contains(text, `"node":"ok"`) && strings.Contains(text, `"edge":"ok"`)) {
				err = fmt.Errorf("not well: %s", out)
			}
			return err
		})
		if err != nil {
			return err
		}
		well = append(well, ms(time.Since(began)))
	}
	l.end()
	all, bad := l.counts()
	if bad > 0 {
		b.t.Errorf("%d of %d requests failed while %s was restarted\n%s\n%s", bad, all, process, l, on.refusals(name(7)))
	}
	b.add(result{Name: "restart of " + process + ", until the new one is ready", Unit: "ms", Ours: digested(restarted...), How: fmt.Sprintf("with 100 apps running; %d of %d requests to an app failed meanwhile", bad, all)}, nil)
	b.add(result{Name: "restart of " + process + ", until `bulwark status` says that all is well", Unit: "ms", Ours: digested(well...), How: "the same; looked at every 100 ms"}, nil)
	return nil
}
