package server

import (
	"context"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
)

// listCertificates tells how the certificates of host names stand, of the apps that who asks may read.
func (s *Server) listCertificates(ctx context.Context, actor access.Actor, _ *platformIn) ([]client.Certificate, error) {
	all, err := app.All(ctx, s.db.Reader(), actor.Tenant())
	if err != nil {
		return nil, err
	}
	domains, err := app.Domains(ctx, s.db.Reader())
	if err != nil {
		return nil, err
	}
	var states []certsapi.Status
	if err := s.node.Call(ctx, "certificates", struct{}{}, &states); err != nil {
		return nil, err
	}
	known := make(map[bulwark.HostName]certsapi.Status, len(states))
	for _, st := range states {
		known[st.Host] = st
	}
	out := []client.Certificate{}
	for _, a := range all {
		if len(domains[a.ID]) == 0 || s.decide(ctx, actor, access.ReadApp, access.App(a.Name)) != nil {
			continue // a token sees those of its scopes
		}
		for _, h := range domains[a.ID] {
			st := known[h]
			if st.Stage == "" {
				st.Stage = certsapi.Waiting // the certs process has not said anything yet
			}
			out = append(out, client.Certificate{App: a.Name, Host: h, Stage: string(st.Stage), Issuer: st.Issuer, NotBefore: st.NotBefore, NotAfter: st.NotAfter,
				RenewAt: st.RenewAt, Error: st.Error, Tried: st.Tried, Next: st.Next, Failures: st.Failures})
		}
	}
	return out, nil
}
