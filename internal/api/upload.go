package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/access"
)

// stall is how long a sender may send nothing.
const stall = time.Minute

// incomingKey keeps an upload's body in the request's context, between the middleware and the wrapper below; nothing else
// looks at it.
type incomingKey struct{}

// Upload adds an endpoint that takes a body of at most so many bytes as it comes, without keeping it in memory. The
// decision is made before f, and before the first byte of the body is read. A sender that stalls is cut off.
func Upload[In Resourced, T any](a *API, op Op, most int64, f func(context.Context, access.Actor, *In, io.Reader) (T, error)) {
	o := a.operation(op)
	o.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}
	o.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		in := &incoming{r: http.MaxBytesReader(w, r.Body, most), most: most, control: http.NewResponseController(w)}
		next(huma.WithValue(ctx, incomingKey{}, in))
	}}
	huma.Register(a.huma, o, func(ctx context.Context, in *In) (*Out[T], error) {
		actor, _ := ctx.Value(actorKey{}).(access.Actor)
		if err := a.decide(ctx, actor, op, (*in).Resource()); err != nil {
			return nil, a.status(err)
		}
		body := ctx.Value(incomingKey{}).(*incoming)
		out, err := f(ctx, actor, in, body)
		body.end()
		if err := a.recorded(ctx, actor, op, (*in).Resource(), err); err != nil {
			return nil, a.status(err)
		}
		return &Out[T]{Body: out}, nil
	})
}

// incoming is the body of an upload.
type incoming struct {
	r       io.Reader
	most    int64
	control *http.ResponseController
	patient time.Time // until when the sender may say nothing, as it was last told to the connection
}

// Read implements [io.Reader]. Its errors are fit for the sender.
func (b *incoming) Read(p []byte) (int, error) {
	if now := time.Now(); b.patient.Sub(now) < stall*9/10 { // not at each read, it takes a lock
		b.patient = now.Add(stall)
		_ = b.control.SetReadDeadline(b.patient) // a connection that has none (in tests) waits
	}
	n, err := b.r.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return n, bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The upload is larger than %d MiB.", b.most>>20), "Leave out what the build does not need.", nil)
	}
	return n, bulwark.Fail(bulwark.KindUnavailable, "The upload was cut off.", "Run the command again.", err)
}

// end takes the deadline back: the connection serves on.
func (b *incoming) end() {
	if !b.patient.IsZero() {
		_ = b.control.SetReadDeadline(time.Time{}) // as above
	}
}
