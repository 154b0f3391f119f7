package builder

import (
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// ownPrefix begins the names of steps that run the app's own commands, as opposed to the platform's work around them.
const ownPrefix = "$ "

// progress turns BuildKit's stream into log lines and measures the app's own steps.
type progress struct {
	ev     *events
	isOwn  func(step string) bool
	steps  map[digest.Digest]*vertex
	staged bool

	own     time.Duration
	running int       // own steps that run now
	since   time.Time // when the first of them began
	failed  string    // name of the step that failed
}

// vertex is one node of the build graph.
type vertex struct {
	name            string
	announced, done bool
	started         bool
	out             *lines
}

func newProgress(ev *events, isOwn func(string) bool) *progress {
	return &progress{ev: ev, isOwn: isOwn, steps: map[digest.Digest]*vertex{}}
}

// follow reads the stream to its end. It always drains, so that a slow reader of ours cannot block a build for ever.
func (p *progress) follow(stream <-chan *client.SolveStatus) {
	for status := range stream {
		for _, v := range status.Vertexes {
			p.update(v)
		}
		for _, l := range status.Logs {
			if s := p.steps[l.Vertex]; s != nil {
				p.announce(s)
				s.out.write(l.Data)
			}
		}
		for _, w := range status.Warnings {
			p.ev.note("Warning: " + string(w.Short))
		}
	}
	for _, s := range p.steps {
		s.out.flush()
	}
}

func (p *progress) update(v *client.Vertex) {
	s := p.steps[v.Digest]
	if s == nil {
		s = &vertex{name: v.Name}
		s.out = newLines(p.ev.redact, p.ev.note)
		p.steps[v.Digest] = s
	}
	own := p.isOwn(s.name)
	if v.Started != nil && !s.started && !s.done {
		s.started = true
		if !v.Cached && visible(s.name) {
			p.announce(s)
		}
		if own {
			if !p.staged {
				p.staged = true
				p.ev.stage("compile")
			}
			if p.running++; p.running == 1 {
				p.since = *v.Started
			}
		}
	}
	if v.Completed == nil || s.done {
		return
	}
	s.done = true
	s.out.flush()
	if own && s.started {
		if p.running--; p.running == 0 {
			p.own += v.Completed.Sub(p.since)
		}
	}
	switch {
	case v.Error != "":
		if p.failed == "" && !strings.Contains(v.Error, "context canceled") {
			p.failed = s.name
		}
	case v.Cached && own:
		p.ev.heading(strings.TrimPrefix(s.name, ownPrefix) + " (unchanged)")
	}
}

func (p *progress) announce(s *vertex) {
	if s.announced {
		return
	}
	s.announced = true
	if strings.HasPrefix(s.name, "exporting to") {
		p.ev.stage("export")
		return
	}
	p.ev.heading(strings.TrimPrefix(s.name, ownPrefix))
}

// visible reports whether a step's name tells the user something before it prints.
func visible(name string) bool {
	return !strings.HasPrefix(name, "[internal]") && !strings.HasPrefix(name, "[context ") && !strings.HasPrefix(name, "base ") && !strings.HasPrefix(name, "source") &&
		!strings.HasPrefix(name, "local://") && !strings.HasPrefix(name, "oci-layout://")
}
