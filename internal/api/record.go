package api

import (
	"context"
	"net/http"

	"github.com/bulwark-paas/bulwark/internal/access"
)

// Call is what came of a call, for the audit log.
type Call struct {
	Actor    access.Actor
	Op       Op
	Resource access.Resource
	Err      error // nil if it was done
}

// Changes tells whether the endpoint is one that changes something, or shows a secret.
func (o Op) Changes() bool { return o.Method != http.MethodGet }

// Record has f told of each call that was refused or failed, and of each that changed something, after it. f writes the
// entry that the call needs and has not left itself; if it cannot, a call that was done says so to its caller.
func (a *API) Record(f func(context.Context, Call) error) { a.record = f }

// decide asks whether the call is allowed.
func (a *API) decide(ctx context.Context, actor access.Actor, op Op, on access.Resource) error {
	err := a.allow(ctx, actor, op.Action, on)
	if err == nil {
		return nil
	}
	return a.recorded(ctx, actor, op, on, err)
}

// recorded passes err on after it was recorded.
func (a *API) recorded(ctx context.Context, actor access.Actor, op Op, on access.Resource, err error) error {
	if a.record == nil || err == nil && !op.Changes() {
		return err
	}
	if rerr := a.record(ctx, Call{Actor: actor, Op: op, Resource: on, Err: err}); rerr != nil {
		a.log.Error("the audit log did not take what came of a call", "operation", op.ID, "error", rerr)
		if err == nil {
			return rerr
		}
	}
	return err
}

// Operations returns all endpoints, as they were registered.
func (a *API) Operations() []Op { return a.ops }
