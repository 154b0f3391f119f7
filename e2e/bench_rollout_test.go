//go:build bench

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// rate is how many requests a second an app has while it is rolled out.
const rate = 500

// benchRollout rolls releases of built images out under load, first on a quiet machine, then with a build beside.
func benchRollout(b *bench) error {
	p, err := b.person()
	if err != nil {
		return err
	}
	const app = "bench-rollout"
	if err := p.image(app, "1", "2"); err != nil {
		return err
	}
	if err := b.rollouts(p, app, "", max(3, *benchRuns/2), nil); err != nil {
		return err
	}
	// A build that keeps both processors, the disk and the kernel busy for as long as is measured.
	const busy = "bench-busy"
	dir := filepath.Join(b.work, busy)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	steps := fmt.Sprintf("FROM bulwark/run\nRUN for work in ':' ':' 'head -c 10000000 /dev/zero > /tmp/x'; do timeout %d sh -c \"while :; do $work; done\" & done; wait\n",
		int((window*time.Duration(*benchRuns)).Seconds())+10)
	for name, text := range map[string]string{"Dockerfile": steps, "Procfile": "worker: sleep 1000\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := p.run(dir, "bulwark", "apps", "create", busy); err != nil {
		return err
	}
	built := make(chan error, 1)
	go func() {
		_, err := p.run(dir, "bulwark", "deploy", ".", "--app", busy)
		built <- err
	}()
	err = poll(time.Minute, func() error {
		events, err := b.on.events()
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Stage == "compile" || e.Stage == "build" {
				return nil
			}
		}
		return fmt.Errorf("the build beside does not begin")
	})
	if err != nil {
		return err
	}
	if err := b.rollouts(p, app, ", with a build beside", *benchRuns, built); err != nil {
		return err
	}
	return <-built
}

// window is how long latencies are looked at together.
const window = 5 * time.Second

// rollouts measures so many; beside, if not nil, tells when what runs beside has ended.
func (b *bench) rollouts(p *person, app, suffix string, n int, beside chan error) error {
	l, err := newSteady(b.on, app, rate)
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	var quiet, busy, took []float64
	rounds := 0
	for ; rounds < n; rounds++ {
		if len(beside) > 0 {
			break // its end is no part of what is measured
		}
		from := time.Now()
		if beside == nil {
			time.Sleep(window)
			quiet = append(quiet, quantile(l.between(from, time.Now()), 0.99))
			from = time.Now()
		}
		if _, err := p.run("", "bulwark", "rollback", fmt.Sprintf("v%d", 1+rounds%2), "--app", app); err != nil {
			return fmt.Errorf("%w\n%s", err, l)
		}
		took = append(took, ms(time.Since(from)))
		time.Sleep(time.Until(from.Add(window))) // the old instance finishes and ends meanwhile
		busy = append(busy, quantile(l.between(from, time.Now()), 0.99))
	}
	l.end()
	requests, failed := l.counts()
	how := fmt.Sprintf("`bulwark rollback` %d times under %d requests a second: GET and POST, HTTP/1.1 and HTTP/2, none sent twice; %d requests", rounds, rate, requests)
	b.add(result{Name: "failed requests" + suffix, Unit: "requests", Ours: digested(float64(failed)), How: how}, &goal{most: 0})
	if failed > 0 {
		fmt.Fprintln(os.Stderr, l, "\n"+b.on.refusals(app))
		b.t.Errorf("%d requests failed during rollouts%s", failed, suffix)
	}
	r := result{Name: "p99 in a rollout" + suffix, Unit: "ms", Ours: digested(busy...), How: fmt.Sprintf("the same; %d s from the command's start, and as long before", int(window.Seconds()))}
	if beside == nil {
		r.Peer, r.Whom = digested(quiet...), "quiet, before each"
		b.add(r, &goal{most: 1.5, ratio: true})
	} else {
		b.add(r, nil)
	}
	b.add(result{Name: "rollout, command to its end" + suffix, Unit: "ms", Ours: digested(took...), How: "the same"}, nil)
	return nil
}

// steady is a load whose every answer is timed.
type steady struct {
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex // guards what follows
	took  []answer
	wrong []string
	bad   int
}

type answer struct {
	at   time.Time
	took float64
}

func newSteady(on *installation, app string, rate int) (*steady, error) {
	s := &steady{stop: make(chan struct{}), done: make(chan struct{})}
	var clients []*http.Client
	for _, h2 := range []bool{false, true} {
		c, err := on.client(h2)
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	go func() {
		defer close(s.done)
		var wg sync.WaitGroup
		defer wg.Wait()
		began := time.Now()
		for n := 0; ; n++ {
			due := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
			select {
			case <-s.stop:
				return
			case <-time.After(time.Until(due)):
			}
			wg.Go(func() { s.one(clients[n/2%2], on.url(app)+"/", n) })
		}
	}()
	return s, nil
}

func (s *steady) one(c *http.Client, url string, n int) {
	method, body := http.MethodGet, io.Reader(nil)
	want := "version="
	if n%2 == 1 {
		want = fmt.Sprintf("body %d", n)
		method, body = http.MethodPost, io.NopCloser(strings.NewReader(want)) // nothing that could be sent a second time
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		panic(err)
	}
	began := time.Now()
	res, err := c.Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	took := ms(time.Since(began))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took = append(s.took, answer{began, took})
	if err == nil && res.StatusCode == http.StatusOK && strings.HasPrefix(string(text), want) {
		return
	}
	s.bad++
	if len(s.wrong) < 12 {
		what := fmt.Sprint(err)
		if err == nil {
			what = fmt.Sprintf("%s %.100q", res.Status, text)
		}
		s.wrong = append(s.wrong, fmt.Sprintf("%s %s #%d: %s", began.UTC().Format("15:04:05.000"), method, n, what))
	}
}

// between returns how long the requests took that began then, in milliseconds.
func (s *steady) between(from, to time.Time) []float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []float64
	for _, a := range s.took {
		if a.at.After(from) && a.at.Before(to) {
			out = append(out, a.took)
		}
	}
	return out
}

func (s *steady) end() {
	close(s.stop)
	<-s.done
}

func (s *steady) counts() (all, bad int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.took), s.bad
}

// refusals are the edge's own words on an app's requests that it answered itself.
func (i *installation) refusals(app string) string {
	files, _ := filepath.Glob(filepath.Join(i.root, "logs", "edge.log*"))
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, `"fault"`) && strings.Contains(line, `"`+app+`"`) && len(out) < 12 {
				out = append(out, line)
			}
		}
	}
	return strings.Join(out, "")
}

// String is the first failures.
func (s *steady) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.wrong, "\n")
}
