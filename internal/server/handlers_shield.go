package server

import (
	"context"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
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
