package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/instance/containerd"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// buildTime is how long a build may take.
const buildTime = 30 * time.Minute

// builds runs builders: one throw-away container per build, of the app's own id range, without a route.
type builds struct {
	ledger  *ledger.Ledger
	images  *images.Store
	engine  *containerd.Driver
	log     *slog.Logger
	config  buildConfig
	disks   *disks
	built   chan struct{} // a build has ended; room for one
	slots   chan struct{} // as many builds at a time
	mu      sync.Mutex    // guards running
	runs    map[bulwark.BuildID]*buildRun
	waiting earlyBuilder
	baseMu  sync.Mutex // held while the builder's own image is admitted

	contentsMu sync.Mutex // guards known
	known      map[bulwark.Digest]*imageContents
}

// buildShares is what all builds together have of the processors when others want them too; a program outside has 1024.
const buildShares = 128

// buildConfig says what builders are made of; all paths are the installation's.
type buildConfig struct {
	Dir        string // builds' directories
	Bases      string // OCI layouts of the bases
	Programs   string // bulwark-builder and what it needs
	CA         string // authorities for the way out, "" for none
	Egress     string // socket of the egress proxy
	Rootfs     string // where root file systems are mounted
	Cgroup     string
	Git        string
	Unpack     string // bulwark-unpack
	Cells      *cell.Cells
	Toolchains Toolchains
	UID        func(block uint32) (uint32, error) // first host id of a builder's range
}

// Toolchains is how this host reaches the registries of the languages, as its own tools are configured.
type Toolchains struct {
	Go  bulwark.GoProxy `json:"go"`
	NPM string          `json:"npm,omitempty"`
	// Allow are the hosts that builders may reach, "host" or "host:port"; people open more by statements.
	Allow []string `json:"allow,omitempty"`
}

// buildRun is a build under way or over.
type buildRun struct {
	mu     sync.Mutex // guards events
	events []nodeapi.BuildEvent
	more   broadcast
	cancel context.CancelFunc
	over   bool
	silent bool
}

// ended tells that nothing comes of the run any more.
func (r *buildRun) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over
}

// silence has the run say nothing any more.
func (r *buildRun) silence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = true
}

func (r *buildRun) add(e nodeapi.BuildEvent) {
	r.mu.Lock()
	if r.silent {
		r.mu.Unlock()
		return
	}
	r.events = append(r.events, e)
	r.over = e.Done != nil || e.Error != nil
	r.mu.Unlock()
	r.more.send()
}

func (b *builds) dir(id bulwark.BuildID) string { return filepath.Join(b.config.Dir, string(id)) }

// build starts a build, or joins it, and passes its events on until its end.
func (b *builds) build(ctx context.Context, in nodeapi.Build, event func(nodeapi.BuildEvent) error) error {
	if _, err := bulwark.ParseBuildID(string(in.Build)); err != nil {
		return err // an empty one would name the folder of all builds
	}
	if have, err := b.ledger.Built(ctx, in.Cause); err != nil {
		return err
	} else if have != nil && b.find(in.Build) == nil {
		done, err := builtOf(have, nil)
		if err != nil {
			return err
		}
		return event(nodeapi.BuildEvent{Done: done})
	}
	r := b.run(in)
	for at := 0; ; {
		wake := r.more.wait()
		r.mu.Lock()
		news, over := r.events[at:], r.over
		r.mu.Unlock()
		for _, e := range news {
			if err := event(e); err != nil {
				return err
			}
		}
		if at += len(news); over {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err() // whoever listened is gone; the build goes on
		}
	}
}

func (b *builds) find(id bulwark.BuildID) *buildRun {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.runs[id]
}

// run returns the run of a build, starting it if there is none.
func (b *builds) run(in nodeapi.Build) *buildRun {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, ok := b.runs[in.Build]; ok {
		return r
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &buildRun{cancel: cancel}
	b.runs[in.Build] = r
	go func() {
		defer cancel()
		done, err := b.perform(ctx, in, r)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			r.add(nodeapi.BuildEvent{Error: asError(err)})
			b.log.Info("build failed", "build", in.Build, "error", err)
		} else {
			r.add(nodeapi.BuildEvent{Done: done})
		}
		// Kept a while for who joins late, then forgotten; the ledger has the result.
		time.AfterFunc(time.Minute, func() {
			b.mu.Lock()
			delete(b.runs, in.Build)
			b.mu.Unlock()
		})
	}()
	return r
}

// cancel ends a build, or, if it was not begun, lets go of its source.
func (b *builds) cancel(id bulwark.BuildID) {
	if r := b.find(id); r != nil {
		r.cancel()
		return
	}
	b.letGo(id)
}

// perform does the work of one build.
func (b *builds) perform(ctx context.Context, in nodeapi.Build, r *buildRun) (*nodeapi.Built, error) {
	defer os.RemoveAll(b.dir(in.Build)) // its source, if it ends before its turn comes
	_, receipt, err := b.ledger.Document(ctx, in.Cause)
	if err != nil {
		return nil, err
	}
	app, err := b.ledger.App(ctx, receipt.App)
	if err != nil {
		return nil, err
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	default:
		r.add(nodeapi.BuildEvent{Log: "-----> Waiting for another build to end"})
		select {
		case b.slots <- struct{}{}:
			defer func() { <-b.slots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, buildTime,
		bulwark.Fail(bulwark.KindFailed, "The build took longer than 30 minutes and was stopped.", "Look at its last step: bulwark builds show.", nil))
	defer cancel()
	started := time.Now()
	// From here on the source is this run's: nobody can bring another one in its place.
	dir := b.dir(in.Build) + ".run"
	if err := os.Rename(b.dir(in.Build), dir); err != nil {
		return nil, bulwark.Fail(bulwark.KindUnavailable, "The source of the build is not here.", "Push again.", err)
	}
	defer os.RemoveAll(dir)
	what, err := readSourced(dir, in.Cause)
	if err != nil {
		return nil, err
	}
	if err := b.disks.room(); err != nil {
		return nil, err
	}
	r.add(nodeapi.BuildEvent{Stage: "builder"})
	if err := b.ledger.Still(ctx, receipt); err != nil { // it may have waited long
		return nil, err
	}
	k, closed, err := b.builder(ctx, app)
	if err != nil {
		return nil, err
	}
	defer closed()
	defer k.close()
	bounded, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	guard := b.disks.watch(bounded, k.disk, stop)
	result, err := k.work(bounded, b, in.Build, dir, what, r)
	// Its blobs are all written. While it ends, they are hashed: what it changes of them now is not what gets admitted.
	end := k.end(bounded, err)
	finish := func() ([]nodeapi.Reached, error) {
		<-end
		stop(nil)
		<-guard.done
		if len(k.reached) > 0 { // told also of a build that failed
			r.add(nodeapi.BuildEvent{Reached: k.reached})
		}
		return k.reached, guard.explain(k.err)
	}
	if err != nil {
		_, err = finish()
		return nil, err
	}
	defer b.tidyUp()
	defer b.images.Hold()() // until the ledger knows what it is for
	p := b.provenance(in, app, receipt, what, result, started)
	if err := b.admit(bounded, p, k.disk, result, r); err != nil {
		_, ferr := finish()
		if ferr != nil { // a disk that is full is why
			err = ferr
		}
		return nil, err
	}
	r.add(nodeapi.BuildEvent{Stage: "end"}) // of the builder, as far as somebody still waits for it
	reached, err := finish()
	if err != nil {
		return nil, err
	}
	if _, err := b.ledger.Admit(ctx, in.Build, in.Cause, p); err != nil {
		return nil, err
	}
	done, err := builtOf(p, reached)
	if err == nil {
		done.Own = result.Own
	}
	return done, err
}

// admit takes the image into the store, and writes down what it is made of.
func (b *builds) admit(ctx context.Context, p *statement.Provenance, disk *disk, result *bulwark.BuildResult, r *buildRun) error {
	layers, _, err := b.images.Admit(ctx, disk.out(), result.Image)
	if err != nil {
		return err
	}
	if err := b.addUsed(p, result.Used); err != nil {
		return err
	}
	r.add(nodeapi.BuildEvent{Stage: "sbom"})
	return b.sbom(ctx, p, layers, r)
}

func builtOf(p *statement.Provenance, reached []nodeapi.Reached) (*nodeapi.Built, error) {
	image, err := bulwark.ParseDigest("sha256:" + p.Subject[0].Digest["sha256"])
	return &nodeapi.Built{Image: image, Plan: p.Predicate.BuildDefinition.ExternalParameters.Plan, Reached: reached}, err
}

// provenance writes down what the node saw: which tree it handed over, which image it hashed, for whose word.
func (b *builds) provenance(in nodeapi.Build, app *ledger.App, receipt *ledger.Receipt, what *sourced, result *bulwark.BuildResult, started time.Time) *statement.Provenance {
	p := &statement.Provenance{Type: statement.InTotoType, PredicateType: statement.SLSAType,
		Subject: []statement.Subject{{Name: string(app.Name), Digest: map[string]string{"sha256": result.Image.Hex()}}}}
	p.Predicate.BuildDefinition = statement.BuildDefinition{
		BuildType: what.buildType(),
		ExternalParameters: statement.ExternalParameters{Node: b.ledger.Node(), App: app.ID, Name: app.Name, Plan: result.Plan,
			Cause: statement.Cause{Kind: receipt.Kind, Person: receipt.Person, Key: receipt.Key, Digest: receipt.Digest}},
		ResolvedDependencies: []statement.Resource{what.Material},
	}
	p.Predicate.RunDetails = statement.RunDetails{Builder: statement.Builder{ID: "https://bulwark.dev/builder/v1"},
		Metadata: statement.Metadata{InvocationID: string(in.Build), StartedOn: started.UTC(), FinishedOn: time.Now().UTC()}}
	return p
}

// tidyUp has the node look for what nobody needs any more.
func (b *builds) tidyUp() {
	select {
	case b.built <- struct{}{}:
	default:
	}
}

func (b *builds) closeDisk(k *disk) {
	if err := b.disks.close(k); err != nil {
		b.log.Warn("a build's disk is still in use", "app", k.app, "error", err)
	}
}

// readEvents reads a builder's lines; it is hostile, so they are bounded in length and number.
// The first result is the one that counts; it is sent at once.
func readEvents(from io.Reader, r *buildRun, first chan<- *bulwark.BuildResult) (*bulwark.BuildResult, error) {
	const maxLine, maxLog = 1 << 20, 12 << 20
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	total := 0
	var result *bulwark.BuildResult
	var failed error
	for lines.Scan() {
		var e bulwark.BuildEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue
		}
		switch {
		case e.Error != nil:
			// Its words, not its word for what they are.
			failed = bulwark.Fail(bulwark.KindFailed, cut(clean(e.Error.Message)), cut(clean(e.Error.Hint)), nil)
		case e.Result != nil:
			if result == nil {
				result = e.Result
				r.add(nodeapi.BuildEvent{Stage: "admit"})
				first <- result
			}
		case total < maxLog && (e.Log != "" || e.Stage != ""):
			if total += len(lines.Bytes()) + 64; total >= maxLog {
				e.Log = "(the rest of the log is cut)"
			}
			r.add(nodeapi.BuildEvent{Log: clean(e.Log), Stage: clean(e.Stage)})
		}
	}
	if failed == nil {
		failed = lines.Err()
	}
	return result, failed
}

// cut bounds a sentence of somebody else's.
func cut(s string) string {
	const most = 2000
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// clean keeps a line from driving a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

// limited keeps the first n bytes. It can be read while it is written.
type limited struct {
	n    int
	mu   sync.Mutex // guards kept
	kept bytes.Buffer
}

// Write implements [io.Writer].
func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if room := l.n - l.kept.Len(); room > 0 {
		l.kept.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String is what was kept.
func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept.String()
}

func cgroupV1() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err != nil
}

// asError makes an error fit for the wire: one with no kind keeps its text on this side.
func asError(err error) *bulwark.Error {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return &bulwark.Error{Kind: bulwark.KindCanceled, Message: "It was canceled."}
	}
	return &bulwark.Error{Kind: bulwark.KindInternal, Message: "Something went wrong inside the platform.", Hint: "On the machine, see the node's log."}
}
