package posture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/posture/postureapi"
)

// Config is all that the prober is told.
type Config struct {
	Results      *net.UnixListener // where the server asks
	Installation *install.Installation
	Bulwark      string // the program itself, by which the prober does what people do
	Kit          string // the attack kit
	Version      string
	// Manual has probes run only when somebody asks for them.
	Manual bool
	// SSLCertFile, if set, is the file with the host's authorities, for the programs that the prober starts.
	SSLCertFile string
	Log         *slog.Logger
}

// probeTime bounds one run of a probe.
const probeTime = 5 * time.Minute

// prober runs the probes one at a time: what one attacks must not be what another measures.
type prober struct {
	config   Config
	store    *store
	world    *World
	controls []Control

	mu      sync.Mutex      // guards what follows
	asked   map[string]bool // controls that somebody wants run now
	running string
	waiting string
	wake    chan struct{}
	rests   time.Time // until then nothing runs that nobody asked for
}

// Run runs the prober until ctx ends; ready is called when it answers.
func Run(ctx context.Context, c Config, ready func()) error {
	dir := c.Installation.PostureDir()
	s, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	defer s.db.Close()
	w, err := newWorld(c)
	if err != nil {
		return err
	}
	p := &prober{config: c, store: s, world: w, controls: Controls(), asked: map[string]bool{}, wake: make(chan struct{}, 1)}
	srv := &http.Server{Handler: p.routes(), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(c.Results) }()
	ready()
	p.loop(ctx)
	srv.Close()
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// settle is what the platform has after a start before the first attack: a probe measures what runs, not what starts.
const settle = 3 * time.Second

func (p *prober) loop(ctx context.Context) {
	if !pause(ctx, settle) || !p.peopled(ctx) {
		return
	}
	for ctx.Err() == nil {
		next, wait := p.next(ctx)
		if next == nil {
			select {
			case <-ctx.Done():
			case <-p.wake:
			case <-time.After(wait):
			}
			continue
		}
		if err := p.run(ctx, *next); err != nil && ctx.Err() == nil {
			p.config.Log.Error("a probe's record was not kept", "control", next.ID, "error", err)
			pause(ctx, time.Minute)
		}
	}
}

// peopled waits until somebody has signed in: before that the one-time token is the only way in, and the prober's own
// signing in would be another.
func (p *prober) peopled(ctx context.Context) bool {
	for {
		var info nodeapi.Info
		err := p.world.Node.Call(ctx, "info", struct{}{}, &info)
		if err == nil && !info.Fresh {
			p.wait("")
			return true
		}
		if err == nil {
			p.wait("Nobody has signed in yet; the probes begin after that.")
		}
		if !pause(ctx, time.Second) {
			return false
		}
	}
}

func (p *prober) wait(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = why
}

// Runs by the schedule take a 120th of the time, however many are due: what a probe takes of the processors, an app's requests wait for.
// A record that would get too old does not wait for that.
const (
	restFor  = 120 // times what the last run took
	restMost = time.Hour
)

// next returns the control to run now, or how long there is none. What somebody asked for is first, then what never ran, then what is due
// longest.
func (p *prober) next(ctx context.Context) (*Control, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.controls {
		if p.asked[p.controls[i].ID] {
			return &p.controls[i], 0
		}
	}
	if p.config.Manual {
		return nil, time.Hour
	}
	soonest := time.Hour
	var next *Control
	for i, c := range p.controls {
		_, began, outcome, err := p.store.latest(ctx, c.ID)
		if err != nil {
			continue
		}
		if began.IsZero() {
			return &p.controls[i], 0
		}
		every := c.Every
		if outcome != postureapi.Pass { // somebody waits to see it pass again
			every = min(every, max(hourly, every/4))
		}
		due := time.Until(began.Add(every))
		if due > every { // a clock that was set back must not keep a probe from running
			due = 0
		}
		if rests := time.Until(p.rests); rests > 0 {
			due = max(due, min(rests, due+every/2)) // after two periods it is unknown
		}
		if due < soonest {
			next, soonest = &p.controls[i], due
		}
	}
	if next != nil && soonest <= 0 {
		return next, 0
	}
	return nil, soonest
}

// run runs a probe once and keeps its record.
func (p *prober) run(ctx context.Context, c Control) error {
	p.mu.Lock()
	asked := p.asked[c.ID]
	delete(p.asked, c.ID)
	p.running = c.ID
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running = ""
	}()
	began := time.Now()
	var r Record
	err := p.attempt(ctx, c, &r)
	if !asked {
		p.mu.Lock()
		p.rests = time.Now().Add(min(restFor*time.Since(began), restMost))
		p.mu.Unlock()
	}
	if ctx.Err() != nil {
		return ctx.Err() // the platform stops: that says nothing about the control
	}
	out := postureapi.Result{Control: c.ID, Promise: c.Promise, Tries: c.Tries, Version: c.Version, Program: p.config.Version, Began: began.UTC(),
		Took: bulwark.Duration(time.Since(began).Round(time.Millisecond)), Every: bulwark.Duration(c.Every), Asked: asked, Manual: p.config.Manual,
		Proven: r.proven, Attacks: r.attacks}
	out.Outcome, out.Why = judge(&r, err)
	if out.Outcome != postureapi.Pass {
		p.config.Log.Warn("a control does not hold, or it is not known whether it does", "control", c.ID, "outcome", out.Outcome, "why", out.Why)
	}
	return p.store.put(ctx, &out)
}

// attempt calls a probe with a scratch folder of its own.
func (p *prober) attempt(ctx context.Context, c Control, r *Record) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	w := *p.world
	if w.Scratch, err = os.MkdirTemp(w.dir, "scratch-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(w.Scratch)) }()
	defer func() {
		if v := recover(); v != nil { // a probe reads what a stranger wrote; one that trips over it must not end the others
			err = fmt.Errorf("the probe panicked: %v", v)
		}
	}()
	return c.Probe(ctx, &w, r)
}

func (p *prober) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/posture", func(w http.ResponseWriter, r *http.Request) {
		out, err := p.posture(r.Context())
		answer(w, out, err)
	})
	mux.HandleFunc("POST /v1/run", func(w http.ResponseWriter, r *http.Request) {
		var in postureapi.Run
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&in)
		if err == nil {
			err = p.ask(in)
		}
		answer(w, struct{}{}, err)
	})
	return mux
}

func answer(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		e, ok := errors.AsType[*bulwark.Error](err)
		if !ok {
			e = &bulwark.Error{Kind: bulwark.KindInternal, Message: "The prober failed; its log has more."}
		}
		out = e
	}
	_ = json.NewEncoder(w).Encode(out) // who asked may be gone
}

func (p *prober) posture(ctx context.Context) (*postureapi.Posture, error) {
	p.mu.Lock()
	out := &postureapi.Posture{Waiting: p.waiting}
	running := p.running
	p.mu.Unlock()
	for _, c := range p.controls {
		envelope, _, _, err := p.store.latest(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		out.Controls = append(out.Controls, postureapi.Standing{Control: c.ID, Promise: c.Promise, Every: bulwark.Duration(c.Every),
			Running: running == c.ID, Record: envelope})
	}
	return out, nil
}

// ask has controls run as soon as may be.
func (p *prober) ask(in postureapi.Run) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	any := false
	for _, c := range p.controls {
		if matches(c.ID, in.Only) {
			p.asked[c.ID], any = true, true
		}
	}
	if !any {
		return bulwark.Invalid("There is no such control.", "See bulwark posture for all of them.")
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// matches tells whether a control is one of those that were named, in whole or by their beginning; no name means all.
func matches(id string, only []string) bool {
	for _, o := range only {
		if o != "" && strings.HasPrefix(id, strings.ToUpper(o)) {
			return true
		}
	}
	return len(only) == 0
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// World is what a probe may use.
type World struct {
	Installation *install.Installation
	Node         *nodeapi.Client // as root
	Person       *Person         // the prober as a tenant, who does what people do
	Kit          string          // the attack kit's program
	Scratch      string          // a folder for this run
	Log          *slog.Logger
	dir          string
}

func newWorld(c Config) (*World, error) {
	i := c.Installation
	dir := i.PostureDir()
	left, err := filepath.Glob(filepath.Join(dir, "scratch-*"))
	if err != nil {
		return nil, err
	}
	for _, l := range left { // of a prober that was killed
		if err := os.RemoveAll(l); err != nil {
			return nil, err
		}
	}
	node := nodeapi.NewClient(i.Socket(install.NodeVerbs))
	return &World{Installation: i, Node: node, Kit: c.Kit, Log: c.Log, dir: dir,
		Person: &Person{bulwark: c.Bulwark, kit: c.Kit, home: filepath.Join(dir, "home"), api: i.APIAddress(), node: node, cert: c.SSLCertFile}}, nil
}
