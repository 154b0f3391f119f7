package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/bulwark-paas/bulwark/internal/access"
)

// Upgrade adds an endpoint whose answer is written by the function that begin returns, which may take the connection over.
// An error of begin is an ordinary one.
func Upgrade[In Resourced](a *API, op Op, begin func(context.Context, access.Actor, *In) (http.HandlerFunc, error)) {
	huma.Register(a.huma, a.operation(op), func(ctx context.Context, in *In) (*huma.StreamResponse, error) {
		actor, _ := ctx.Value(actorKey{}).(access.Actor)
		if err := a.decide(ctx, actor, op, (*in).Resource()); err != nil {
			return nil, a.status(err)
		}
		answer, err := begin(ctx, actor, in)
		if err := a.recorded(ctx, actor, op, (*in).Resource(), err); err != nil {
			return nil, a.status(err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			answer(w, r)
		}}, nil
	})
}
