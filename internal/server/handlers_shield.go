package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// getShield tells what protects an app at the edge, by the node's word, and what the edge refused in the last hour.
func (s *Server) getShield(ctx context.Context, actor access.Actor, in *AppPath) (client.AppShield, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.AppShield{}, err
	}
	out := client.AppShield{App: a.Name}
	if err := s.node.Call(ctx, "shield", nodeapi.Push{App: a.ID}, &out.Shield); err != nil {
		return client.AppShield{}, err
	}
	stats, err := s.edge.Shield(ctx, a.ID)
	if err != nil {
		return client.AppShield{}, bulwark.Fail(bulwark.KindUnavailable, "The edge does not answer.", "Try again in a moment.", err)
	}
	out.Hour = stats
	return out, nil
}

// appMetrics passes on what the edge counted of an app.
func (s *Server) appMetrics(ctx context.Context, actor access.Actor, in *AppPath, accept string) (string, []byte, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return "", nil, err
	}
	return s.edge.Metrics(ctx, a.ID, accept)
}

// metrics passes on what the edge counted of all apps, and of itself.
func (s *Server) metrics(ctx context.Context, _ access.Actor, _ *platformIn, accept string) (string, []byte, error) {
	return s.edge.Metrics(ctx, "", accept)
}

// listPatches tells of the virtual patches, by the node's word, and what met them, by the edge's.
func (s *Server) listPatches(ctx context.Context, _ access.Actor, _ *platformIn) ([]client.VirtualPatch, error) {
	var all []nodeapi.Patch
	if err := s.node.Call(ctx, "patches", struct{}{}, &all); err != nil {
		return nil, err
	}
	stats, err := s.edge.Patches(ctx)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindUnavailable, "The edge does not answer.", "Try again in a moment.", err)
	}
	out := []client.VirtualPatch{}
	for _, p := range all {
		v := client.VirtualPatch{Patch: p.Patch, Version: p.Version, Person: p.Person, Added: p.Added}
		for _, st := range stats {
			if st.Digest == p.Digest() {
				v.Live, v.Error, v.Hits, v.Last = st.Live, st.Error, st.Hits, st.Last
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// setPatch takes a statement about virtual patches.
func (s *Server) setPatch(ctx context.Context, _ access.Actor, in *signedIn) (struct{}, error) {
	_, err := s.submit(ctx, in.Body.Envelope, "", patched, statement.KindPatchAdd, statement.KindPatchRemove)
	return struct{}{}, err
}

// patched writes the record of a statement that the node took; the node keeps the patch itself.
func patched(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	var body struct {
		Name  bulwark.PatchName `json:"name"`
		Until time.Time         `json:"until"`
	}
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return err
	}
	detail := string(body.Name)
	if !body.Until.IsZero() {
		detail += " until " + body.Until.UTC().Format(time.DateOnly)
	}
	return told(ctx, tx, r, bulwark.FirstProject, access.Platform(), audit.Done, detail)
}
