package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

type uploadIn struct {
	AppPath
	Digest string `query:"digest" required:"true" maxLength:"80" doc:"TreeDigest of a folder sent as a tar stream, or sha256: digest of an OCI archive's bytes"`
}

// upload keeps a folder or an image archive until a statement names it.
func (s *Server) upload(ctx context.Context, actor access.Actor, in *uploadIn, body io.Reader) (struct{}, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return struct{}{}, err
	}
	if err := s.note(ctx, audit.Entry{Project: a.Project, Actor: actor.Person, Action: "app.upload", Resource: access.App(a.Name).String(), Outcome: audit.Asked, Detail: in.Digest}); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.uploads.Receive(ctx, a, in.Digest, body)
}

// unverified reads a statement without its signature, to see where it belongs; the node verifies it. A statement that
// cannot be read has no kind.
func unverified(envelope []byte) (st statement.Statement) {
	var peek struct {
		Payload []byte `json:"payload"`
	}
	if json.Unmarshal(envelope, &peek) != nil || json.Unmarshal(peek.Payload, &st) != nil {
		return statement.Statement{}
	}
	return st
}

// deploy takes a statement that names an upload, and enqueues the operation.
func (s *Server) deploy(ctx context.Context, actor access.Actor, in *appSignedIn) (client.Operation, error) {
	fail := func(err error) (client.Operation, error) { return client.Operation{}, err }
	if err := s.decide(ctx, actor, access.Deploy, in.Resource()); err != nil {
		return fail(err)
	}
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return fail(err)
	}
	// A statement is good for one time, so it is not used up for what cannot be built.
	st := unverified(in.Body.Envelope)
	var d statement.Deploy
	if err := st.Decode(&d); err != nil {
		return fail(err)
	}
	if err := d.Check(); err != nil {
		return fail(err)
	}
	if st.App != a.ID {
		return fail(otherApp())
	}
	if !s.uploads.Has(a, d.Source()) {
		return fail(bulwark.Fail(bulwark.KindConflict, "What is to be deployed is not here (any more).", "Run bulwark deploy again.", nil))
	}
	var id bulwark.OperationID
	_, err = s.submit(ctx, in.Body.Envelope, a.ID, func(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (err error) {
		id, err = s.uploads.Enqueue(ctx, tx, a, r)
		return err
	}, statement.KindDeploy)
	if err != nil {
		return fail(err)
	}
	s.jobs.Wake()
	return client.Operation{ID: id, Kind: "deploy", State: job.Waiting}, nil
}

// sourceOf opens what a deploy is made of: the pack of a push, or an upload.
func (s *Server) sourceOf(ctx context.Context, cause bulwark.Digest) (io.ReadCloser, error) {
	pack, err := os.Open(s.gate.Path(cause))
	if !errors.Is(err, os.ErrNotExist) {
		return pack, err
	}
	return s.uploads.Source(ctx, cause)
}

// forget lets go of what a deploy was made of.
func (s *Server) forget(ctx context.Context, cause bulwark.Digest) {
	ctx = context.WithoutCancel(ctx) // what was canceled needs it least
	err := os.Remove(s.gate.Path(cause))
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = s.uploads.Done(ctx, cause)
	}
	if err != nil {
		s.log.Warn("a source is left over", "error", err)
	}
}
