package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// approveOperation is the kind of the operation that goes on with a release which waited.
const approveOperation = "approve"

type (
	releaseIn struct {
		AppPath
		Number uint64 `path:"number"`
	}
	releaseSignedIn struct {
		AppPath
		Number uint64 `path:"number"`
		Body   client.Signed
	}
)

// waits asks the node whether a release lacks approvals. If it does, it is written down as one that waits, and what is
// returned is the end of its operation; nothing of it has run then, or will. Else the release goes on.
func (s *Server) waits(ctx context.Context, a *app.App, full *nodeapi.Released) (*client.Done, error) {
	number := full.Release.Generation
	var found nodeapi.Approvals
	if err := s.node.Call(ctx, "approvals", nodeapi.Promote{App: a.ID, Generation: number}, &found); err != nil {
		return nil, err
	}
	if found.Missing == 0 {
		return nil, release.Resume(ctx, s.db, a.ID, number)
	}
	done := &client.Done{Release: number, Image: full.Release.Image, Waiting: true, Message: statement.Waits(a.Name, number, found.Missing)}
	return done, release.Wait(ctx, s.db, a.ID, number)
}

// stopped ends the operation of a release that did not come up. If the app was protected meanwhile, or an approval counts no
// more, it has not failed but waits.
func (s *Server) stopped(ctx context.Context, a *app.App, full *nodeapi.Released, err error) (*client.Done, error) {
	number := full.Release.Generation
	if waiting, werr := s.waits(ctx, a, full); werr == nil && waiting != nil {
		return waiting, s.instances.Withdraw(ctx, a, number)
	}
	return nil, s.failed(ctx, a, number, err)
}

func (s *Server) getRelease(ctx context.Context, actor access.Actor, in *releaseIn) (statement.Bundle, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return statement.Bundle{}, err
	}
	full, err := release.Get(ctx, s.db.Reader(), a.ID, in.Number)
	if err != nil {
		return statement.Bundle{}, err
	}
	return full.Bundle, nil
}

// approve takes a person's approval of a release, and goes on with the release if there are enough.
func (s *Server) approve(ctx context.Context, actor access.Actor, in *releaseSignedIn) (client.Operation, error) {
	fail := func(err error) (client.Operation, error) { return client.Operation{}, err }
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return fail(err)
	}
	switch state, err := release.State(ctx, s.db.Reader(), a.ID, in.Number); {
	case err != nil:
		return fail(err)
	case state == release.Failed: // it is not tried again
		return fail(bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("Release v%d has failed, so there is nothing to approve.", in.Number), "Deploy again.", nil))
	}
	st := unverified(in.Body.Envelope)
	var b statement.Approve
	if err := st.Decode(&b); err != nil {
		return fail(err)
	}
	if b.Generation != in.Number {
		return fail(bulwark.Failf(bulwark.KindForbidden, "The statement is about another release."))
	}
	var op job.Operation
	_, err = s.submit(ctx, in.Body.Envelope, a.ID, func(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (err error) {
		op, err = approved(ctx, tx, r)
		return err
	}, statement.KindApprove)
	if err != nil {
		return fail(err)
	}
	s.jobs.Wake()
	return client.Operation{ID: op.ID, Kind: op.Kind, State: job.Waiting}, nil
}

// approved is the effect of an approval: an operation that goes on with the release, or finds that more are needed.
func approved(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (job.Operation, error) {
	a, err := app.KeptByID(ctx, tx, r.App)
	if err != nil {
		return job.Operation{}, err
	}
	var b statement.Approve
	if err := json.Unmarshal(r.Body, &b); err != nil {
		return job.Operation{}, err
	}
	if err := release.Approve(tx, a, b.Generation, r.Person); err != nil {
		return job.Operation{}, err
	}
	if err := told(ctx, tx, r, a.Project, access.App(a.Name), audit.Accepted, fmt.Sprintf("v%d", b.Generation)); err != nil {
		return job.Operation{}, err
	}
	return goOn(ctx, tx, a, b.Generation, r.Person)
}

// goOn enqueues the operation that goes on with a release.
func goOn(ctx context.Context, tx *sql.Tx, a *app.App, number uint64, person bulwark.PersonID) (job.Operation, error) {
	full, err := release.Get(ctx, tx, a.ID, number)
	if err != nil {
		return job.Operation{}, err
	}
	op := job.Operation{ID: bulwark.NewOperationID(), Project: a.Project, App: a.ID, Kind: approveOperation, Cause: full.Release.Cause.Digest, Person: person,
		Note: fmt.Sprintf("approve v%d", number)}
	return op, job.Enqueue(tx, op)
}

// protect takes an owner's word on how many others have to approve a release.
func (s *Server) protect(ctx context.Context, actor access.Actor, in *appSignedIn) (statement.Protection, error) {
	return s.protection(ctx, actor, in, statement.KindProtect)
}

// approveProtection takes somebody's agreement with what an owner asked for.
func (s *Server) approveProtection(ctx context.Context, actor access.Actor, in *appSignedIn) (statement.Protection, error) {
	return s.protection(ctx, actor, in, statement.KindProtectApprove)
}

func (s *Server) protection(ctx context.Context, actor access.Actor, in *appSignedIn, kind statement.Kind) (statement.Protection, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return statement.Protection{}, err
	}
	var now statement.Protection
	_, err = s.submit(ctx, in.Body.Envelope, a.ID, func(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (err error) {
		now, err = protected(ctx, tx, r)
		return err
	}, kind)
	s.jobs.Wake()
	return now, err
}

// protected is the effect of a statement about an app's protection. A release that waited under another protection is looked
// at again.
func protected(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (statement.Protection, error) {
	a, err := app.KeptByID(ctx, tx, r.App)
	if err != nil {
		return statement.Protection{}, err
	}
	if r.Protection == nil {
		return statement.Protection{}, bulwark.Failf(bulwark.KindInternal, "the node does not say what holds for %s now", a.Name)
	}
	if err := app.SetProtection(tx, a, *r.Protection); err != nil {
		return statement.Protection{}, err
	}
	detail := fmt.Sprintf("approvals: %d", r.Protection.Approvals)
	if q := r.Protection.Asked; q != nil {
		detail += fmt.Sprintf(", asked for: %d", q.Approvals)
	}
	if err := told(ctx, tx, r, a.Project, access.App(a.Name), audit.Done, detail); err != nil {
		return statement.Protection{}, err
	}
	number, err := release.Waits(ctx, tx, a.ID)
	if err == nil && number > 0 && r.Protection.Asked == nil {
		_, err = goOn(ctx, tx, a, number, r.Person)
	}
	return *r.Protection, err
}
