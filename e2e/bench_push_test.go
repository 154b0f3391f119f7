//go:build bench

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// benchPush measures what the platform adds to a push: from the start of `git push` to the first answer of the new version,
// minus what the app's own build command took.
func benchPush(b *bench) error {
	p, err := b.person()
	if err != nil {
		return err
	}
	const app = "bench-push"
	dir := filepath.Join(b.work, app)
	source, err := fs.ReadFile(apps, "testdata/apps/go.txtar")
	if err != nil {
		return err
	}
	edit := func(dir string, version int) error {
		var errs []error
		for _, f := range txtar.Parse(bytes.ReplaceAll(source, []byte("@VERSION@"), fmt.Append(nil, version))).Files {
			errs = append(errs, os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o644))
		}
		return errors.Join(errs...)
	}
	commit := func(version int) error {
		_, err := p.run(dir, "git", "commit", "-q", "-a", "-m", fmt.Sprint("Version ", version))
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := edit(dir, 0); err != nil {
		return err
	}
	for _, args := range [][]string{{"git", "init", "-q", "-b", "main"}, {"git", "add", "-A"}, {"git", "commit", "-q", "-m", "First"}, {"bulwark", "apps", "create", app}} {
		if _, err := p.run(dir, args[0], args[1:]...); err != nil {
			return err
		}
	}
	first := &pushed{p: p, dir: dir, app: app}
	if err := first.push(0); err != nil {
		return err
	}
	b.add(result{Name: "first push of a Go app, to the first answer", Unit: "ms", Ours: digested(first.answer), How: "`git push` of a new app whose build cache is empty"}, nil)
	b.add(result{Name: "of it, its own build command", Unit: "ms", Ours: digested(first.own), How: "as the builder measured it: `go build` compiles the standard library"}, nil)

	var overhead, answer, exit, own, hand []float64
	stages := map[string][]float64{}
	var order []string
	raw := filepath.Join(b.work, "push-by-hand")
	if err := os.MkdirAll(raw, 0o755); err != nil {
		return err
	}
	for n := range *benchRuns + 2 { // the first two warm up
		if err := edit(dir, n+1); err != nil {
			return err
		}
		if err := commit(n + 1); err != nil {
			return err
		}
		x := &pushed{p: p, dir: dir, app: app}
		if err := x.push(n + 1); err != nil {
			return err
		}
		if err := edit(raw, n+1); err != nil {
			return err
		}
		took, err := buildByHand(raw)
		if err != nil {
			return err
		}
		if n < 2 {
			continue
		}
		overhead, answer, exit = append(overhead, x.answer-x.own), append(answer, x.answer), append(exit, x.exit)
		own, hand = append(own, x.own), append(hand, took)
		for _, s := range x.stages {
			if stages[s.name] == nil {
				order = append(order, s.name)
			}
			stages[s.name] = append(stages[s.name], s.took)
		}
	}
	b.add(result{Name: "overhead: push to the first 200, minus the app's own build command", Unit: "ms", Ours: digested(overhead...), Peer: digested(hand...),
		Whom: "`go build` by hand", How: "`git push` of one edited line, cache warm; time from its start to the first answer of the new version, minus own"}, &goal{most: 1000})
	b.add(result{Name: "push to the first 200, whole", Unit: "ms", Ours: digested(answer...), How: "the same runs"}, nil)
	b.add(result{Name: "push to the end of `git push`", Unit: "ms", Ours: digested(exit...), How: "the same runs"}, nil)
	b.add(result{Name: "the app's own build command", Unit: "ms", Ours: digested(own...), Peer: digested(hand...), Whom: "by hand", How: "`go build` in the builder, and on the host with the same flags"}, nil)
	for _, name := range order {
		b.add(result{Name: "stage: " + name, Unit: "ms", Ours: digested(stages[name]...), How: "times of the operation's events"}, nil)
	}
	return nil
}

// pushed is one push.
type pushed struct {
	p            *person
	dir, app     string
	answer, exit float64 // ms from the start of git
	own          float64
	stages       []stage
}

type stage struct {
	name string
	took float64
}

// what says in words what happens from a stage's event to the next one.
var what = map[string]string{
	"source":  "source: the node takes the pack, checks it out, measures the tree",
	"builder": "builder: mount, container, init, until its first word",
	"detect":  "detect: planner, beside BuildKit's start",
	"build":   "build: the tree goes in, bases are looked up, the step's container starts",
	"compile": "compile, minus own: BuildKit around the command",
	"export":  "export: layer's difference, blobs",
	"end":     "end: what is still to wait for of buildkitd and the container, the proxy's report",
	"admit":   "admit: hash blobs, EROFS, provenance, ledger",
	"built":   "built: the server writes it down",
	"release": "release: the node composes and signs",
	"start":   "start: rows, instance, until it is healthy",
	"switch":  "switch: promote, table, until the first 200",
}

// push pushes and waits for the answer of the version.
func (x *pushed) push(version int) error {
	c, err := x.p.on.client(false)
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	want := fmt.Sprintf("version=%d ", version)
	began := time.Now()
	answered := make(chan error, 1)
	var at time.Time
	go func() {
		err := x.p.on.get(c, x.p.on.url(x.app), 5*time.Millisecond, 10*time.Minute, func(text string) bool { return strings.HasPrefix(text, want) })
		at = time.Now()
		answered <- err
	}()
	if _, err := x.p.run(x.dir, "git", "push", "-q", "bulwark", "main"); err != nil {
		return err
	}
	x.exit = ms(time.Since(began))
	if err := <-answered; err != nil {
		return err
	}
	x.answer = ms(at.Sub(began))
	events, err := x.p.on.events()
	if err != nil {
		return err
	}
	before, name := began, "git, signature, hook, accept, enqueue"
	for _, e := range events {
		if e.Stage == "" {
			continue
		}
		x.stages = append(x.stages, stage{name, ms(e.At.Sub(before))})
		before, name = e.At, what[e.Stage]
		if name == "" {
			name = e.Stage
		}
		if e.Own > 0 {
			x.own = ms(time.Duration(e.Own))
		}
	}
	x.stages = append(x.stages, stage{name, ms(at.Sub(before))})
	for i := range x.stages {
		if x.stages[i].name == what["compile"] {
			x.stages[i].took -= x.own
		}
	}
	return nil
}

// buildByHand runs the planner's build command on the host.
func buildByHand(dir string) (float64, error) {
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "out")+"/", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false -ldflags=-s -mod=readonly")
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return ms(time.Since(began)), nil
}
