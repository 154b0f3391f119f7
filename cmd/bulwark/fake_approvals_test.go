package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// approvals are the calls about releases that wait for others; who has to and who may is the ledger's to say.
func (f *fake) approvals(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/apps/{app}/releases/{n}", f.mine(func(r *http.Request, a *fakeApp) (any, error) {
		n, err := strconv.ParseUint(r.PathValue("n"), 10, 64)
		if err != nil {
			return nil, err
		}
		if f.forge == "release" { // another one than was asked for
			n--
		}
		b, _, err := f.ledger.Bundle(r.Context(), a.ID, n)
		return b, err
	}))
	mux.HandleFunc("POST /v1/apps/{app}/releases/{n}/approve", f.mine(func(r *http.Request, a *fakeApp) (any, error) {
		rec, err := f.submit(r)
		if err != nil {
			return nil, err
		}
		var b statement.Approve
		if err := json.Unmarshal(rec.Body, &b); err != nil {
			return nil, err
		}
		bundle, full, err := f.ledger.Bundle(r.Context(), a.ID, b.Generation)
		if err != nil {
			return nil, err
		}
		a.releases[0].Approved = append(a.releases[0].Approved, string(rec.Person))
		return f.finish(a, bundle, full, "approve")
	}))
	for _, p := range []string{"POST /v1/apps/{app}/protection", "POST /v1/apps/{app}/protection/approve"} {
		mux.HandleFunc(p, f.mine(func(r *http.Request, a *fakeApp) (any, error) {
			rec, err := f.submit(r)
			if err != nil {
				return nil, err
			}
			a.Protection = *rec.Protection
			return a.Protection, nil
		}))
	}
}

// finish promotes a release, if it needs no more approvals.
func (f *fake) finish(a *fakeApp, b *statement.Bundle, r *statement.Release, kind string) (client.Operation, error) {
	ctx := context.Background()
	op := client.Operation{ID: bulwark.NewOperationID(), Kind: kind, State: "waiting"}
	missing, _, err := f.ledger.Approvals(ctx, a.ID, r.Generation)
	if err != nil {
		return op, err
	}
	if missing > 0 {
		a.releases[0].State = "waiting"
		f.events[op.ID] = []client.Event{{Done: &client.Done{Release: r.Generation, Waiting: true, Message: statement.Waits(a.Name, r.Generation, missing)}}}
		return op, nil
	}
	if err := f.ledger.Promote(ctx, a.ID, r.Generation); err != nil {
		return op, err
	}
	a.bundle, a.Release, a.State, a.releases[0].State = *b, r.Generation, "running", "promoted"
	f.running = statement.Running{Node: r.Node, App: a.ID, Instances: []statement.RunningInstance{{Instance: bulwark.NewInstanceID(), Process: "web",
		Generation: r.Generation, Release: bulwark.Sum(b.Release), Image: r.Image}}}
	f.events[op.ID] = []client.Event{{Stage: "start"}, {Log: "-----> Starting web.1"}, {Log: "       \x1b]0;owned\ait listens"}, {Done: &client.Done{Release: r.Generation, URL: a.URL}}}
	return op, nil
}
