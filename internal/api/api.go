// Package api is the frame of the HTTP API: huma on top of net/http, with OpenAPI 3.1 made from the code. It promises that
// no endpoint exists without an action and a resource, that the one decision function is asked before any handler runs,
// and that an internal error's text stays in the server's log.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/access"
)

// API collects endpoints.
type API struct {
	huma huma.API
	mux  *http.ServeMux
	log  *slog.Logger
	who  func(*http.Request) (access.Actor, error)
	// allow answers with nil if the actor may do that.
	allow Decide
	// record is told what came of calls; see Record.
	record func(context.Context, Call) error
	ops    []Op
}

// Route is an endpoint as it was registered.
type Route struct {
	Method, Path string
	Action       access.Action
}

// Routes returns every endpoint that was registered.
func (a *API) Routes() []Route {
	var all []Route
	for _, op := range a.ops {
		all = append(all, Route{Method: op.Method, Path: "/v1" + op.Path, Action: op.Action})
	}
	return all
}

// Decide is the one decision function.
type Decide func(context.Context, access.Actor, access.Action, access.Resource) error

// actorKey keeps the caller's identity in a request's context between the middleware and the wrapper below; nothing else
// looks at it.
type actorKey struct{}

// New makes an API. who tells who makes a request, decide what they may; an error refuses it.
func New(version string, log *slog.Logger, who func(*http.Request) (access.Actor, error), decide Decide) *API {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Bulwark", version)
	config.DocsPath = "" // the page would load scripts from elsewhere
	config.CreateHooks = nil
	a := &API{mux: mux, log: log, who: who, allow: decide}
	a.huma = humago.New(mux, config)
	a.huma.UseMiddleware(func(ctx huma.Context, next func(huma.Context)) {
		r, _ := humago.Unwrap(ctx)
		actor, err := a.who(r)
		if err != nil {
			a.write(ctx, err)
			return
		}
		// Who is not signed in is told so before anything of the request is read, let alone said to be wrong with it.
		if op := a.op(ctx.Operation().OperationID); actor.Person == "" && op.Action != access.Open {
			if err := a.decide(ctx.Context(), actor, op, access.Platform()); err != nil {
				a.write(ctx, err)
				return
			}
		}
		next(huma.WithValue(ctx, actorKey{}, actor))
	})
	return a
}

// Handler serves the API.
func (a *API) Handler() http.Handler { return a.mux }

// Resourced is an input that says what it is about.
type Resourced interface {
	Resource() access.Resource
}

// Op describes an endpoint.
type Op struct {
	ID, Method, Path, Summary string
	Action                    access.Action
}

// Out is an answer with a JSON body.
type Out[T any] struct {
	Body T
}

// Register adds an endpoint. The decision is made here, before f.
func Register[In Resourced, T any](a *API, op Op, f func(context.Context, access.Actor, *In) (T, error)) {
	huma.Register(a.huma, a.operation(op), func(ctx context.Context, in *In) (*Out[T], error) {
		actor, _ := ctx.Value(actorKey{}).(access.Actor)
		if err := a.decide(ctx, actor, op, (*in).Resource()); err != nil {
			return nil, a.status(err)
		}
		out, err := f(ctx, actor, in)
		if err := a.recorded(ctx, actor, op, (*in).Resource(), err); err != nil {
			return nil, a.status(err)
		}
		return &Out[T]{Body: out}, nil
	})
}

// Text adds an endpoint whose answer is of a form of its own, which f chooses: by what the caller accepts, which it is given.
func Text[In Resourced](a *API, op Op, f func(ctx context.Context, actor access.Actor, in *In, accept string) (kind string, body []byte, err error)) {
	huma.Register(a.huma, a.operation(op), func(ctx context.Context, in *In) (*huma.StreamResponse, error) {
		actor, _ := ctx.Value(actorKey{}).(access.Actor)
		if err := a.decide(ctx, actor, op, (*in).Resource()); err != nil {
			return nil, a.status(err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			kind, body, err := f(ctx, actor, in, hc.Header("Accept"))
			if err := a.recorded(ctx, actor, op, (*in).Resource(), err); err != nil {
				a.write(hc, err)
				return
			}
			hc.SetHeader("Content-Type", kind)
			_, _ = hc.BodyWriter().Write(body) // who is gone needs no answer
		}}, nil
	})
}

// Stream adds an endpoint that answers with JSON lines for as long as f runs. An error of begin is an ordinary one.
func Stream[In Resourced](a *API, op Op, begin func(context.Context, access.Actor, *In) (func(context.Context, func(any) error), error)) {
	huma.Register(a.huma, a.operation(op), func(ctx context.Context, in *In) (*huma.StreamResponse, error) {
		actor, _ := ctx.Value(actorKey{}).(access.Actor)
		if err := a.decide(ctx, actor, op, (*in).Resource()); err != nil {
			return nil, a.status(err)
		}
		run, err := begin(ctx, actor, in)
		if err := a.recorded(ctx, actor, op, (*in).Resource(), err); err != nil {
			return nil, a.status(err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			hc.SetHeader("Content-Type", "application/x-ndjson")
			w := hc.BodyWriter()
			flush, _ := w.(http.Flusher)
			ctx, cancel := context.WithCancel(hc.Context())
			defer cancel()
			r, _ := humago.Unwrap(hc)
			go a.whileAllowed(ctx, cancel, r, op, (*in).Resource())
			run(ctx, func(v any) error { return writeLine(w, flush, v) })
		}}, nil
	})
}

// lookAgain is how often it is decided anew whether somebody may go on with a stream.
const lookAgain = 3 * time.Second

// whileAllowed ends a stream when who reads it may not any more: a role that was taken away counts for what is open, too. That the
// decision cannot be had is no refusal.
func (a *API) whileAllowed(ctx context.Context, end func(), r *http.Request, op Op, on access.Resource) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		actor, err := a.who(r)
		if err == nil {
			err = a.allow(ctx, actor, op.Action, on)
		}
		switch bulwark.KindOf(err) {
		case bulwark.KindForbidden, bulwark.KindUnauthorized, bulwark.KindNotFound:
			if err != nil {
				end()
				return
			}
		}
	}
}

// operation is what huma is told of an endpoint; there is no other way to register one.
func (a *API) operation(op Op) huma.Operation {
	a.ops = append(a.ops, op)
	return huma.Operation{OperationID: op.ID, Method: op.Method, Path: "/v1" + op.Path, Summary: op.Summary,
		MaxBodyBytes: 16 << 20, Metadata: map[string]any{"action": string(op.Action)},
		Extensions: map[string]any{"x-bulwark-action": string(op.Action)}}
}

// op is the endpoint of an id.
func (a *API) op(id string) Op {
	for _, op := range a.ops {
		if op.ID == id {
			return op
		}
	}
	return Op{ID: id}
}

// problem is how an error goes over the wire.
type problem struct {
	body
	status int
}

// body has the error's fields without its methods.
type body bulwark.Error

// GetStatus implements [huma.StatusError].
func (p *problem) GetStatus() int { return p.status }

// Error implements error.
func (p *problem) Error() string { return p.Message }

// status turns an error into one for the wire; an internal one is logged and loses its text.
func (a *API) status(err error) huma.StatusError {
	e, ok := errors.AsType[*bulwark.Error](err)
	if !ok || e.Kind == bulwark.KindInternal {
		a.log.Error("request failed", "error", err)
		e = &bulwark.Error{Kind: bulwark.KindInternal, Message: "Something went wrong inside the server.", Hint: "See the server's log."}
	} else if e.Cause != nil {
		a.log.Info("request refused", "error", e.Error())
	}
	return &problem{body: body(*e), status: code(e.Kind)}
}

func (a *API) write(ctx huma.Context, err error) {
	p := a.status(err).(*problem)
	ctx.SetStatus(p.status)
	ctx.SetHeader("Content-Type", "application/json")
	_ = writeLine(ctx.BodyWriter(), nil, p) // who asked may be gone
}

func code(k bulwark.Kind) int {
	switch k {
	case bulwark.KindInvalid, bulwark.KindFailed:
		return http.StatusUnprocessableEntity
	case bulwark.KindUnauthorized:
		return http.StatusUnauthorized
	case bulwark.KindForbidden:
		return http.StatusForbidden
	case bulwark.KindNotFound:
		return http.StatusNotFound
	case bulwark.KindConflict, bulwark.KindStale, bulwark.KindCanceled:
		return http.StatusConflict
	case bulwark.KindTooLarge:
		return http.StatusRequestEntityTooLarge
	case bulwark.KindBusy:
		return http.StatusTooManyRequests
	case bulwark.KindUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
