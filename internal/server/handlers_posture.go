package server

import (
	"context"
	"strings"

	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/posture/postureapi"
)

type probesIn struct {
	Body struct {
		Only []string `json:"only,omitempty" maxItems:"50" doc:"beginnings of the controls' ids; all if empty"`
	}
}

func (probesIn) Resource() access.Resource { return access.Platform() }

// getPosture passes on what the prober signed: the server can keep it back, and then it is not known.
func (s *Server) getPosture(ctx context.Context, _ access.Actor, _ *platformIn) (client.Posture, error) {
	p, err := s.posture.Posture(ctx)
	if err != nil {
		return client.Posture{}, err
	}
	out := client.Posture{Waiting: p.Waiting, Controls: []client.Standing{}}
	for _, c := range p.Controls {
		out.Controls = append(out.Controls, client.Standing{Control: c.Control, Promise: c.Promise, Every: c.Every, Running: c.Running, Record: c.Record})
	}
	return out, nil
}

func (s *Server) runProbes(ctx context.Context, actor access.Actor, in *probesIn) (struct{}, error) {
	if err := s.note(ctx, audit.Entry{Actor: actor.Person, Key: actor.Key, Action: string(access.RunPosture), Resource: access.Platform().String(),
		Outcome: audit.Asked, Detail: strings.Join(in.Body.Only, " ")}); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.posture.Run(ctx, postureapi.Run{Only: in.Body.Only})
}
