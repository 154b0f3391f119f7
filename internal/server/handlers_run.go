package server

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/build"
	"github.com/bulwark-paas/bulwark/internal/instance"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (s *Server) listInstances(ctx context.Context, actor access.Actor, in *AppPath) ([]client.Instance, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	rows, err := instance.Rows(ctx, s.db.Reader(), a.ID)
	if err != nil {
		return nil, err
	}
	out := []client.Instance{}
	releases := map[uint64]*nodeapi.Released{}
	for _, r := range rows {
		full, ok := releases[r.Release]
		if !ok {
			if full, err = release.Get(ctx, s.db.Reader(), a.ID, r.Release); err != nil {
				return nil, err
			}
			releases[r.Release] = full
		}
		v := client.Instance{ID: r.ID, Name: r.Name(), Process: r.Process, Release: r.Release, State: "waiting", Reason: r.Reason,
			Size: full.Release.Sizes[r.Process], Command: strings.Join(full.Release.Plan.Processes[r.Process].Argv, " "),
			Since: r.Started.UTC(), Crashes: r.Crashes}
		if v.Size == "" {
			v.Size = bulwark.SizeSmall
		}
		if i, ok := s.instances.State(r.ID); ok {
			v.State, v.Since = string(i.Phase), i.Since.UTC()
			if i.Reason != "" {
				v.Reason = i.Reason
			}
		}
		if !r.Want {
			v.State = "stopping"
		}
		out = append(out, v)
	}
	return append(out, s.once(a.ID)...), nil
}

func (s *Server) scale(ctx context.Context, actor access.Actor, in *scaleIn) (client.App, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.App{}, err
	}
	want := map[bulwark.ProcessType]int{}
	for name, n := range in.Body.Formation {
		p, err := bulwark.ParseProcessType(name)
		if err != nil {
			return client.App{}, err
		}
		want[p] = n
	}
	err = s.instances.Scale(ctx, a.ID, want, func(tx *sql.Tx) error {
		return audit.Write(ctx, tx, audit.Entry{Project: a.Project, Actor: actor.Person, Action: string(access.ScaleApp), Resource: access.App(a.Name).String(),
			Outcome: "done", Detail: fmt.Sprint(want)})
	})
	if err != nil {
		return client.App{}, err
	}
	return s.view(ctx, a, nil)
}

func (s *Server) restartApp(ctx context.Context, actor access.Actor, in *AppPath) (client.Operation, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.Operation{}, err
	}
	if a.Promoted == 0 {
		return client.Operation{}, bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s has no release yet.", a.Name), "Deploy it first: git push bulwark main.", nil)
	}
	op := job.Operation{ID: bulwark.NewOperationID(), Project: a.Project, App: a.ID, Kind: "restart", Person: actor.Person}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := audit.Write(ctx, tx, audit.Entry{Project: a.Project, Actor: actor.Person, Action: "app.restart", Resource: access.App(a.Name).String(), Outcome: "accepted"}); err != nil {
			return err
		}
		return job.Enqueue(tx, op)
	})
	if err != nil {
		return client.Operation{}, err
	}
	s.jobs.Wake()
	return client.Operation{ID: op.ID, Kind: op.Kind, State: job.Waiting}, nil
}

func (s *Server) getConfig(ctx context.Context, actor access.Actor, in *AppPath) (client.AppConfig, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.AppConfig{}, err
	}
	names, err := app.Variables(ctx, s.db.Reader(), a.ID)
	out := client.AppConfig{Revision: a.Config, Variables: []client.Variable{}}
	for _, n := range names {
		out.Variables = append(out.Variables, client.Variable(n))
	}
	return out, err
}

// revealed is a value that the server cannot read.
type revealed struct {
	Sealed []byte `json:"sealed"`
}

func (s *Server) reveal(ctx context.Context, actor access.Actor, in *appSignedIn) (revealed, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return revealed{}, err
	}
	// The node decides by the statement: about another app it would be answered, and recorded under this one.
	if st := unverified(in.Body.Envelope); st.Kind != statement.KindConfigReveal || st.App != a.ID {
		return revealed{}, otherApp()
	}
	// No entry, no value: neither is the node asked before there is one, nor is the value given out before there is one of
	// what the node said.
	e := audit.Entry{Project: a.Project, Actor: actor.Person, Action: string(statement.KindConfigReveal), Resource: access.App(a.Name).String(), Outcome: audit.Asked,
		Document: bulwark.Sum(in.Body.Envelope), Detail: revealsName(in.Body.Envelope)}
	if err := s.note(ctx, e); err != nil {
		return revealed{}, err
	}
	var out nodeapi.Sealed
	if err := s.node.Call(ctx, "reveal", nodeapi.Document{Envelope: in.Body.Envelope}, &out); err != nil {
		return revealed{}, err
	}
	if err := s.tookPlace(ctx, e); err != nil {
		return revealed{}, err
	}
	return revealed(out), nil
}

// revealsName is the name of the variable that a statement asks for, as far as it can be read; the node verifies it.
func revealsName(envelope []byte) string {
	st := unverified(envelope)
	var body statement.ConfigReveal
	if st.Kind != statement.KindConfigReveal || st.Decode(&body) != nil {
		return ""
	}
	return string(body.Name)
}

func (s *Server) proof(ctx context.Context, actor access.Actor, in *proofIn) (client.Proof, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.Proof{}, err
	}
	if a.Promoted == 0 {
		return client.Proof{}, bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s has no release yet.", a.Name), "Deploy it first: git push bulwark main.", nil)
	}
	full, err := release.Get(ctx, s.db.Reader(), a.ID, a.Promoted)
	if err != nil {
		return client.Proof{}, err
	}
	var running nodeapi.Envelope
	if err := s.node.Call(ctx, "running", nodeapi.Running{App: a.ID, Challenge: in.Challenge}, &running); err != nil {
		return client.Proof{}, err
	}
	var found nodeapi.Approvals
	err = s.node.Call(ctx, "approvals", nodeapi.Promote{App: a.ID, Generation: a.Promoted}, &found)
	return client.Proof{Bundle: full.Bundle, Running: running.Envelope, Approvals: found.Documents}, err
}

// status counts what belongs to who asks, and everything for who belongs to the first organisation, which runs the installation.
func (s *Server) status(ctx context.Context, actor access.Actor, _ *platformIn) (client.Status, error) {
	out := client.Status{Version: s.config.Version, Node: "ok", Edge: "ok"}
	tenant := actor.Tenant()
	everywhere := slices.Contains(tenant.Orgs, bulwark.FirstOrg)
	apps, err := app.All(ctx, s.db.Reader(), tenant)
	if everywhere {
		apps, err = app.Everywhere(ctx, s.db.Reader())
	}
	if err != nil {
		return out, err
	}
	mine := map[bulwark.AppID]bool{}
	for _, a := range apps {
		mine[a.ID] = true
	}
	out.Apps = len(apps)
	var all []nodeapi.Instance
	if err := s.node.Call(ctx, "instances", struct{}{}, &all); err != nil {
		out.Node = "away"
	}
	for _, i := range all {
		if !everywhere && !mine[i.App] {
			continue
		}
		if !i.Phase.Over() {
			out.Instances++
		}
		if i.Phase == nodeapi.PhaseHealthy {
			out.Healthy++
		}
	}
	if err := s.routes.Sync(ctx); err != nil {
		out.Edge = "away"
	}
	if out.Certificates, err = s.ending(ctx, mine, everywhere); err != nil {
		return out, err
	}
	building, err := build.Running(ctx, s.db.Reader())
	for _, id := range building {
		if everywhere || mine[id] {
			out.Building++
		}
	}
	return out, err
}

func (s *Server) watch(ctx context.Context, actor access.Actor, in *operationIn) (func(context.Context, func(any) error), error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	if _, err := s.jobs.Get(ctx, a.ID, in.Operation); err != nil {
		return nil, err
	}
	return func(ctx context.Context, send func(any) error) {
		err := s.jobs.Watch(ctx, a.ID, in.Operation, func(e client.Event) error { return send(e) })
		if err != nil && ctx.Err() == nil {
			s.log.Debug("a watcher went away", "error", err)
		}
	}, nil
}

// logs passes an app's log on.
func (s *Server) logs(ctx context.Context, actor access.Actor, in *logsIn) (func(context.Context, func(any) error), error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, send func(any) error) {
		err := nodeapi.Stream(ctx, s.node, "applogs", nodeapi.AppLogs{App: a.ID, Tail: in.Tail, Follow: in.Follow}, func(l nodeapi.AppLogLine) error {
			return send(client.LogLine{At: l.At, Instance: l.Name, Text: l.Text})
		})
		if err != nil && ctx.Err() == nil {
			s.log.Debug("a log was not read to its end", "app", a.Name, "error", err)
		}
	}, nil
}

// requestsEvery is how often the edge is asked for requests that ended meanwhile.
const requestsEvery = 250 * time.Millisecond

// requests passes on what the edge saw of an app's requests.
func (s *Server) requests(ctx context.Context, actor access.Actor, in *logsIn) (func(context.Context, func(any) error), error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	seen, err := s.edge.AccessEvents(ctx, a.ID, 0, in.Tail)
	if err != nil {
		return nil, err
	}
	if in.Tail == 0 {
		seen.Events = nil
	}
	return func(ctx context.Context, send func(any) error) {
		for {
			for _, e := range seen.Events {
				if send(e) != nil {
					return
				}
			}
			if !in.Follow {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(requestsEvery):
			}
			next, err := s.edge.AccessEvents(ctx, a.ID, seen.Next, 0)
			switch {
			case err != nil && ctx.Err() == nil:
				seen.Events = nil // the edge is being replaced
				continue
			case err != nil:
				return
			case next.Next < seen.Next: // another edge, which began anew
				if next, err = s.edge.AccessEvents(ctx, a.ID, 0, 0); err != nil {
					next = bulwark.AccessEvents{}
				}
			}
			seen = next
		}
	}, nil
}
