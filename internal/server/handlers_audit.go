package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

type (
	appAuditIn struct {
		AppPath
		Since time.Time `query:"since"`
		Most  int       `query:"most" minimum:"1" maximum:"10000" default:"1000"`
	}
	allAuditIn struct {
		Since time.Time `query:"since"`
		Most  int       `query:"most" minimum:"1" maximum:"10000" default:"1000"`
	}
	tileIn struct {
		Level uint64 `path:"level" maximum:"7"`
		Index uint64 `path:"index" maximum:"1152921504606846976"`
		Width uint8  `query:"width" doc:"how many hashes; 0 for a full tile"`
	}
	bundleIn struct {
		Index uint64 `path:"index" maximum:"1152921504606846976"`
		Width uint8  `query:"width" doc:"how many entries; 0 for a full bundle"`
	}
	checkpointIn struct {
		Wait bool `query:"wait" doc:"until what was done before is in it"`
	}
	consistencyIn struct {
		From uint64 `query:"from" required:"true"`
		To   uint64 `query:"to" required:"true"`
	}
	chainIn struct {
		After uint64 `query:"after"`
	}
)

func (allAuditIn) Resource() access.Resource    { return access.Platform() }
func (tileIn) Resource() access.Resource        { return access.Platform() }
func (bundleIn) Resource() access.Resource      { return access.Platform() }
func (checkpointIn) Resource() access.Resource  { return access.Platform() }
func (consistencyIn) Resource() access.Resource { return access.Platform() }
func (chainIn) Resource() access.Resource       { return access.Platform() }

// auditEndpoints are those of the audit log. The hashes and where the log stands are for all who are signed in, so that each
// machine can remember what it saw; what is in the log is for those who may read it.
func (s *Server) auditEndpoints(a *api.API) {
	get := http.MethodGet
	api.Register(a, api.Op{ID: "list-audit", Method: get, Path: "/audit", Summary: "Entries of the audit log", Action: access.ReadAudit}, s.listAudit)
	api.Register(a, api.Op{ID: "list-app-audit", Method: get, Path: "/apps/{app}/audit", Summary: "Entries of the audit log about an app", Action: access.ReadAudit}, s.listAppAudit)
	api.Register(a, api.Op{ID: "audit-checkpoint", Method: get, Path: "/audit/checkpoint", Summary: "Where the audit log stands, signed by the node", Action: access.ReadCheckpoint}, s.auditCheckpoint)
	api.Register(a, api.Op{ID: "audit-consistency", Method: get, Path: "/audit/consistency", Summary: "Proof that the log only grew", Action: access.ReadCheckpoint}, s.auditConsistency)
	api.Register(a, api.Op{ID: "audit-chain", Method: get, Path: "/audit/chain", Summary: "What the node accepted", Action: access.ReadAudit}, s.auditChain)
	api.Register(a, api.Op{ID: "audit-witnessed", Method: get, Path: "/audit/witnessed", Summary: "Where witnesses saw the audit log stand", Action: access.ReadCheckpoint}, s.auditWitnessed)
	api.Register(a, api.Op{ID: "witness-audit", Method: http.MethodPost, Path: "/audit/witnessed", Summary: "Vouch for where the audit log stands", Action: access.WitnessAudit}, s.witnessAudit)
	api.Upgrade(a, api.Op{ID: "audit-tile", Method: get, Path: "/audit/tiles/{level}/{index}", Summary: "Hashes of the audit log", Action: access.ReadCheckpoint},
		func(ctx context.Context, _ access.Actor, in *tileIn) (http.HandlerFunc, error) {
			return octets(s.audit.Tile(ctx, in.Level, in.Index, in.Width))
		})
	api.Upgrade(a, api.Op{ID: "audit-entries", Method: get, Path: "/audit/entries/{index}", Summary: "Entries of the audit log as they are in it", Action: access.ReadAudit},
		func(ctx context.Context, _ access.Actor, in *bundleIn) (http.HandlerFunc, error) {
			return octets(s.audit.Entries(ctx, in.Index, in.Width))
		})
}

func octets(b []byte, err error) (http.HandlerFunc, error) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(b) // who asked may be gone
	}, err
}

func (s *Server) listAudit(ctx context.Context, _ access.Actor, in *allAuditIn) ([]client.AuditEntry, error) {
	return s.auditOf(ctx, audit.Query{Since: in.Since, Most: in.Most})
}

// listAppAudit lists what was done to an app since it was made: before that the name may have been another tenant's.
func (s *Server) listAppAudit(ctx context.Context, actor access.Actor, in *appAuditIn) ([]client.AuditEntry, error) {
	a, err := app.KeptByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	if in.Since.Before(a.Created) {
		in.Since = a.Created
	}
	return s.auditOf(ctx, audit.Query{Resource: access.App(in.App).String(), Since: in.Since, Most: in.Most})
}

func (s *Server) auditOf(ctx context.Context, q audit.Query) ([]client.AuditEntry, error) {
	all, err := audit.List(ctx, s.db.Reader(), q)
	if err != nil {
		return nil, err
	}
	out := make([]client.AuditEntry, 0, len(all))
	for _, r := range all {
		out = append(out, client.AuditEntry{Number: r.Seq, Time: r.Time, Project: r.Project, Actor: r.Actor, Key: r.Key, From: r.From, Action: r.Action,
			Resource: r.Resource, Outcome: string(r.Outcome), Detail: r.Detail, Document: r.Document, Index: r.Index})
	}
	return out, nil
}

// settleTime is how long who asks for the log waits for the newest entries to be in it.
const settleTime = 5 * time.Second

func (s *Server) auditCheckpoint(ctx context.Context, _ access.Actor, in *checkpointIn) (client.AuditCheckpoint, error) {
	var out client.AuditCheckpoint
	if in.Wait {
		wait, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		if err := s.audit.Settle(wait); err != nil {
			out.Behind = "The newest entries are not in the signed log."
		}
	}
	if e, ok := errors.AsType[*bulwark.Error](s.audit.Trouble()); ok && e.Kind == bulwark.KindForbidden {
		out.Refused = e.Message
	}
	b, err := s.audit.Checkpoint()
	out.Note = b
	return out, err
}

func (s *Server) auditConsistency(ctx context.Context, _ access.Actor, in *consistencyIn) (client.AuditProof, error) {
	p, err := s.audit.Consistency(ctx, in.From, in.To)
	return client.AuditProof{Hashes: p}, err
}

func (s *Server) auditChain(ctx context.Context, _ access.Actor, in *chainIn) (client.AuditChain, error) {
	var out nodeapi.Links
	err := s.node.Call(ctx, "chain", nodeapi.Chain{After: in.After}, &out)
	return client.AuditChain(out), err
}
