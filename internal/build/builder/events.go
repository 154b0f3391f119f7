package builder

import (
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/bulwark-paas/bulwark"
)

const (
	maxLine = 4 << 10  // bytes of a log line
	maxLog  = 10 << 20 // bytes of a whole log
)

// events writes bulwark.BuildEvent lines. It is safe for use by several goroutines.
type events struct {
	redact *redactor

	mu   sync.Mutex // guards what follows
	out  *json.Encoder
	left int  // bytes that the log may still take
	cut  bool // the note about the cut was written
	err  error
}

func newEvents(w io.Writer, r *redactor) *events {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &events{redact: r, out: enc, left: maxLog}
}

// log writes one line for the user. Control characters, secrets and what is too long are taken out here, so that no
// caller can forget it.
func (e *events) log(line string) {
	line = clean(e.redact.apply(line))
	e.mu.Lock()
	defer e.mu.Unlock()
	if line == "" || e.cut {
		return
	}
	if e.left -= len(line) + 1; e.left < 0 {
		e.cut = true
		line = "The log is longer than 10 MB: the rest is not shown. The build goes on."
	}
	e.write(bulwark.BuildEvent{Log: line})
}

// heading writes a line that begins a part of the build.
func (e *events) heading(line string) { e.log("-----> " + line) }

// note writes a line below a heading.
func (e *events) note(line string) { e.log("       " + line) }

func (e *events) stage(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.write(bulwark.BuildEvent{Stage: name})
}

func (e *events) result(r *bulwark.BuildResult) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.write(bulwark.BuildEvent{Result: r})
}

// fail writes err as the last event and returns the exit code. What is not one of our errors is ours to explain, so the
// user sees no detail; the operator reads it on standard error.
func (e *events) fail(err error, stderr io.Writer) int {
	be, ok := errors.AsType[*bulwark.Error](err)
	if !ok {
		be = &bulwark.Error{Kind: bulwark.KindInternal, Message: "The builder failed by a fault of the platform.", Hint: "Try again; if it fails again, tell the operator.", Cause: err}
	}
	io.WriteString(stderr, e.redact.apply(err.Error())+"\n")
	shown := &bulwark.Error{Kind: be.Kind, Message: clean(e.redact.apply(be.Message)), Hint: clean(e.redact.apply(be.Hint))}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.write(bulwark.BuildEvent{Error: shown})
	switch be.Kind {
	case bulwark.KindInvalid, bulwark.KindFailed, bulwark.KindTooLarge, bulwark.KindCanceled, bulwark.KindNotFound, bulwark.KindForbidden:
		return 1
	}
	return 2
}

// write keeps the first error: a node that went away ends the build by SIGTERM or SIGKILL anyway.
func (e *events) write(ev bulwark.BuildEvent) {
	if e.err == nil {
		e.err = e.out.Encode(ev)
	}
}
