package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// ending tells which certificates should have been renewed and were not, long before they end: "ok" if there are none.
func (s *Server) ending(ctx context.Context, mine map[bulwark.AppID]bool, everywhere bool) (string, error) {
	domains, err := app.Domains(ctx, s.db.Reader())
	if err != nil {
		return "", err
	}
	asks := map[bulwark.HostName]bool{}
	for id, hosts := range domains {
		for _, h := range hosts {
			asks[h] = everywhere || mine[id]
		}
	}
	var states []certsapi.Status
	if err := s.node.Call(ctx, "certificates", struct{}{}, &states); err != nil {
		return "not known", nil //nolint:nilerr // that the node is away is said beside it
	}
	return alarm(states, asks, time.Now()), nil
}

// alarm is a sentence about those of the states that somebody asks for, and "ok" if all is well.
func alarm(states []certsapi.Status, asks map[bulwark.HostName]bool, now time.Time) string {
	var late []certsapi.Status
	for _, st := range states {
		if asks[st.Host] && !st.NotAfter.IsZero() && now.After(st.RenewAt.Add(renewSlack(st))) {
			late = append(late, st)
		}
	}
	if len(late) == 0 {
		return "ok"
	}
	slices.SortFunc(late, func(a, b certsapi.Status) int { return a.NotAfter.Compare(b.NotAfter) })
	words := fmt.Sprintf("%s ends on %s and was not renewed", late[0].Host, late[0].NotAfter.UTC().Format(time.DateOnly))
	if len(late) > 1 {
		words += fmt.Sprintf(", and %d more", len(late)-1)
	}
	return words + "; see bulwark certs"
}

// renewSlack is what a renewal may be late: a tenth of what is left when it is due.
func renewSlack(st certsapi.Status) time.Duration { return st.NotAfter.Sub(st.RenewAt) / 10 }

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
				RenewAt: st.RenewAt, CAA: st.CAA, Error: st.Error, Tried: st.Tried, Next: st.Next, Failures: st.Failures})
		}
	}
	return out, nil
}

// retryIn names a host of an app.
type retryIn struct {
	AppPath
	Body struct {
		Host bulwark.HostName `json:"host"`
	}
}

// retryCertificate has an authority asked at once, where somebody has put right what was wrong.
func (s *Server) retryCertificate(ctx context.Context, actor access.Actor, in *retryIn) (struct{}, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return struct{}{}, err
	}
	domains, err := app.Domains(ctx, s.db.Reader())
	if err != nil {
		return struct{}{}, err
	}
	if !slices.Contains(domains[a.ID], in.Body.Host) {
		return struct{}{}, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("App %s has not claimed %s.", a.Name, in.Body.Host), "See bulwark domains.", nil)
	}
	if err := s.note(ctx, audit.Entry{Project: a.Project, Actor: actor.Person, Action: "certificate.retry", Resource: access.App(a.Name).String(), Outcome: "accepted", Detail: string(in.Body.Host)}); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.node.Call(ctx, "certificate.retry", nodeapi.HostName{Host: in.Body.Host}, nil)
}
