package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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

func (s *Server) info(ctx context.Context, _ access.Actor, in *infoIn) (client.Info, error) {
	var out nodeapi.Info
	err := s.node.Call(ctx, "info", nodeapi.AskInfo{Challenge: in.Challenge}, &out)
	return client.Info{Envelope: out.Envelope, Fresh: out.Fresh, Version: s.config.Version}, err
}

func (s *Server) login(ctx context.Context, actor access.Actor, in *signedIn) (client.Me, error) {
	if err := s.failures.full(actor.From); err != nil {
		return client.Me{}, err
	}
	r, err := s.inbox.take(ctx, "enroll", in.Body.Envelope, noted)
	if err != nil {
		return client.Me{}, errors.Join(err, s.failures.take(actor.From))
	}
	return client.Me{Person: r.Person}, nil
}

// note writes an audit entry of its own, before what it tells of: no entry, no action.
func (s *Server) note(ctx context.Context, e audit.Entry) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error { return audit.Write(ctx, tx, e) })
}

// submit has the node take a statement, and writes its effect. The kinds are those that the endpoint is for: the decision that was made for the
// endpoint covers no other.
//
// about is the app that the endpoint is about, "" for none: a statement about another app must not take effect first and be
// refused afterwards. What is looked at here was not verified; the node verifies the same bytes.
func (s *Server) submit(ctx context.Context, envelope []byte, about bulwark.AppID, effect effect, kinds ...statement.Kind) (*nodeapi.Receipt, error) {
	st := unverified(envelope)
	if !slices.Contains(kinds, st.Kind) {
		return nil, bulwark.Invalid("The statement is not of a kind that belongs here.", "Use a bulwark command of the same version as the server.")
	}
	if about != "" && st.App != about {
		return nil, otherApp()
	}
	return s.inbox.take(ctx, "submit", envelope, func(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
		if about != "" && r.App != about {
			return otherApp()
		}
		return effect(ctx, tx, r)
	})
}

// settled is the effect of a statement whose server was killed before it could write it.
func (s *Server) settled(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	switch r.Kind {
	case statement.KindAppCreate:
		_, err := created(ctx, tx, r)
		return err
	case statement.KindAppDestroy:
		return destroyed(ctx, tx, r)
	case statement.KindAppRestore:
		return restored(ctx, tx, r)
	case statement.KindConfigSet, statement.KindRollback, statement.KindResize:
		_, err := s.changed(ctx, tx, r)
		return err
	case statement.KindDomainAdd, statement.KindDomainRemove, statement.KindBuildSecret, statement.KindEgressAllow, statement.KindEgressDeny,
		statement.KindShieldSet, statement.KindCertAdd, statement.KindCertRemove:
		return s.set(ctx, tx, r)
	case statement.KindOrgCreate, statement.KindProjectCreate:
		return placed(ctx, tx, r)
	case statement.KindRegistryAllow, statement.KindRegistryRemove:
		return applyRegistry(ctx, tx, r)
	case statement.KindPatchAdd, statement.KindPatchRemove:
		return patched(ctx, tx, r)
	case statement.KindApprove:
		_, err := approved(ctx, tx, r)
		return err
	case statement.KindProtect, statement.KindProtectApprove:
		_, err := protected(ctx, tx, r)
		return err
	case statement.KindDeploy:
		a, err := app.ByID(ctx, tx, r.App)
		if err == nil {
			_, err = s.uploads.Enqueue(ctx, tx, a, r)
		}
		return err
	}
	return noted(ctx, tx, r)
}

func (s *Server) manageKeys(ctx context.Context, actor access.Actor, in *signedIn) (struct{}, error) {
	_, err := s.submit(ctx, in.Body.Envelope, "", noted, statement.KindKeyAdd, statement.KindKeyRemove)
	return struct{}{}, err
}

func (s *Server) createApp(ctx context.Context, _ access.Actor, in *newAppIn) (client.App, error) {
	var a *app.App
	_, err := s.submit(ctx, in.Body.Envelope, "", func(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (err error) {
		a, err = created(ctx, tx, r)
		return err
	}, statement.KindAppCreate)
	if err != nil {
		return client.App{}, err
	}
	return s.view(ctx, a, nil)
}

// created is the effect of an app's creation.
func created(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (*app.App, error) {
	var body statement.AppCreate
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return nil, err
	}
	if body.Project == "" {
		body.Project = bulwark.FirstProject
	}
	// The node has given the name away, so whoever had it is past its grace, which we have not asked about yet.
	if old, err := app.GracedNamed(ctx, tx, body.Name); err == nil && old.ID != r.App {
		if err := finished(ctx, tx, old); err != nil {
			return nil, err
		}
	} else if err != nil && bulwark.KindOf(err) != bulwark.KindNotFound {
		return nil, err
	}
	a := app.App{ID: r.App, Project: body.Project, Name: body.Name, Created: time.Now()}
	if err := app.Insert(tx, a); err != nil {
		return nil, err
	}
	return &a, told(ctx, tx, r, a.Project, access.App(a.Name), audit.Done, "")
}

func (s *Server) listApps(ctx context.Context, actor access.Actor, _ *platformIn) ([]client.App, error) {
	all, err := app.Kept(ctx, s.db.Reader(), actor.Tenant())
	if err != nil {
		return nil, err
	}
	domains, err := app.Domains(ctx, s.db.Reader())
	if err != nil {
		return nil, err
	}
	out := make([]client.App, 0, len(all))
	for _, a := range all {
		if s.decide(ctx, actor, access.ReadApp, access.App(a.Name)) != nil {
			continue // a token sees those of its scopes
		}
		v, err := s.view(ctx, &a, domains)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, s.tellGraces(ctx, out)
}

func (s *Server) getApp(ctx context.Context, actor access.Actor, in *AppPath) (client.App, error) {
	a, err := app.KeptByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.App{}, err
	}
	domains, err := app.Domains(ctx, s.db.Reader())
	if err != nil {
		return client.App{}, err
	}
	v, err := s.view(ctx, a, domains)
	if err != nil {
		return v, err
	}
	one := []client.App{v}
	err = s.tellGraces(ctx, one)
	return one[0], err
}

// view is an app as its owners see it.
func (s *Server) view(ctx context.Context, a *app.App, domains map[bulwark.AppID][]bulwark.HostName) (client.App, error) {
	v := client.App{ID: a.ID, Name: a.Name, Project: a.Project, URL: s.url(a), Domains: domains[a.ID], Release: a.Promoted, Config: a.Config,
		GitURL: fmt.Sprintf("ssh://git@%s:%d/%s.git", s.gitHost(), s.config.Git, a.Name), State: "new", Created: a.Created, Protection: a.Protection,
		Formation: map[bulwark.ProcessType]int{}}
	if a.Promoted == 0 {
		if a.Destroyed {
			v.State = client.StateDestroyed
		}
		return v, nil
	}
	full, err := release.Get(ctx, s.db.Reader(), a.ID, a.Promoted)
	if err != nil {
		return v, err
	}
	if v.Formation, err = instance.Formation(ctx, s.db.Reader(), a.ID, full.Release.Plan); err != nil {
		return v, err
	}
	rows, err := instance.Rows(ctx, s.db.Reader(), a.ID)
	if err != nil {
		return v, err
	}
	v.State = s.appState(rows)
	if a.Destroyed {
		v.State = client.StateDestroyed
	}
	return v, nil
}

func (s *Server) appState(rows []instance.Row) string {
	want, healthy := 0, 0
	for _, r := range rows {
		if !r.Want || r.Candidate {
			continue
		}
		want++
		if i, ok := s.instances.State(r.ID); ok && i.Phase == nodeapi.PhaseHealthy {
			healthy++
		}
	}
	switch {
	case want == 0:
		return "stopped"
	case healthy == want:
		return "running"
	case healthy > 0:
		return "degraded"
	}
	return "crashed"
}

// gitHost is the host of git addresses: localhost for an installation that is reached from this machine alone.
func (s *Server) gitHost() string {
	if strings.HasSuffix(string(s.config.Domain), "localhost") {
		return "localhost"
	}
	return string(s.config.Domain)
}

func otherApp() error {
	return bulwark.Failf(bulwark.KindForbidden, "The statement is about another app.")
}

// change takes a statement that makes a release, and enqueues the operation in one transaction with its effects.
func (s *Server) change(ctx context.Context, actor access.Actor, in *appSignedIn) (client.Operation, error) {
	if unverified(in.Body.Envelope).Kind == statement.KindDeploy {
		return s.deploy(ctx, actor, in)
	}
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.Operation{}, err
	}
	var op job.Operation
	_, err = s.submit(ctx, in.Body.Envelope, a.ID, func(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (err error) {
		op, err = s.changed(ctx, tx, r)
		return err
	}, statement.KindConfigSet, statement.KindRollback, statement.KindResize)
	if err != nil {
		return client.Operation{}, err
	}
	if op.ID == "" {
		return client.Operation{Kind: changeOperation, State: job.Done, Message: "The app has no release yet; the next deploy takes the change along."}, nil
	}
	s.jobs.Wake()
	return client.Operation{ID: op.ID, Kind: op.Kind, State: job.Waiting}, nil
}

// changeOperation is the kind of the operation that makes a release of a change.
const changeOperation = "change"

// changed is the effect of a statement that makes a release; the operation has no id if there is nothing yet that a release
// could be made of.
func (s *Server) changed(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) (op job.Operation, err error) {
	a, err := app.KeptByID(ctx, tx, r.App)
	if err != nil {
		return op, err
	}
	note, err := changes(tx, a, r)
	if err != nil {
		return op, err
	}
	if err := told(ctx, tx, r, a.Project, access.App(a.Name), audit.Accepted, note); err != nil {
		return op, err
	}
	if a.Promoted == 0 || a.Destroyed {
		return op, nil // the next deploy takes it along
	}
	op = job.Operation{ID: bulwark.NewOperationID(), Project: a.Project, App: a.ID, Kind: changeOperation, Cause: r.Digest, Person: r.Person, Note: note}
	return op, job.Enqueue(tx, op)
}

// changes writes what a statement changes in the store, and returns a line for the list of releases.
func changes(tx *sql.Tx, a *app.App, r *nodeapi.Receipt) (string, error) {
	switch r.Kind {
	case statement.KindConfigSet:
		var b statement.ConfigSet
		if err := json.Unmarshal(r.Body, &b); err != nil {
			return "", err
		}
		set := slices.Sorted(maps.Keys(b.Set))
		var words []string
		for _, n := range set {
			words = append(words, "set "+string(n))
		}
		for _, n := range b.Unset {
			words = append(words, "unset "+string(n))
		}
		return strings.Join(words, ", "), app.SetVariables(tx, a, r.Config.Revision, set, b.Unset)
	case statement.KindRollback:
		var b statement.Rollback
		if err := json.Unmarshal(r.Body, &b); err != nil {
			return "", err
		}
		return fmt.Sprintf("rollback to v%d", b.To), nil
	case statement.KindResize:
		var b statement.Resize
		if err := json.Unmarshal(r.Body, &b); err != nil {
			return "", err
		}
		var words []string
		for _, p := range slices.Sorted(maps.Keys(b.Sizes)) {
			words = append(words, fmt.Sprintf("resize %s to %s", p, b.Sizes[p]))
		}
		return strings.Join(words, ", "), nil
	}
	return "", nil
}

// setting takes a statement that changes how an app is reached or what it may reach; no release follows.
func (s *Server) setting(ctx context.Context, actor access.Actor, in *appSignedIn) (struct{}, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return struct{}{}, err
	}
	if unverified(in.Body.Envelope).Kind == statement.KindEgressAllow {
		// Who may change an app may not open ways out of it: the endpoint's own decision is about less.
		if err := s.decide(ctx, actor, access.OpenEgress, access.App(in.App)); err != nil {
			return struct{}{}, err
		}
	}
	if st := unverified(in.Body.Envelope); st.Kind == statement.KindDomainAdd {
		var d statement.Domain
		if err := json.Unmarshal(st.Body, &d); err != nil {
			return struct{}{}, bulwark.Invalid("The statement names no host.", "Use a bulwark command of the same version as the server.")
		}
		// Before the inbox: what the DNS takes is nobody else's time.
		if err := s.node.Call(ctx, "whose", nodeapi.Whose{App: a.ID, Host: d.Host}, nil); err != nil {
			return struct{}{}, err
		}
	}
	_, err = s.submit(ctx, in.Body.Envelope, a.ID, s.set, statement.KindDomainAdd, statement.KindDomainRemove, statement.KindBuildSecret,
		statement.KindEgressAllow, statement.KindEgressDeny, statement.KindShieldSet, statement.KindCertAdd, statement.KindCertRemove)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.routes.Sync(ctx)
}

// set is the effect of a setting.
func (s *Server) set(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	a, err := app.KeptByID(ctx, tx, r.App)
	if err != nil {
		return err
	}
	detail, err := applySetting(tx, a, r)
	if err != nil {
		return err
	}
	return told(ctx, tx, r, a.Project, access.App(a.Name), audit.Done, detail)
}

func (s *Server) listReleases(ctx context.Context, actor access.Actor, in *AppPath) ([]client.Release, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	return release.List(ctx, s.db.Reader(), a.ID)
}

func (s *Server) listBuilds(ctx context.Context, actor access.Actor, in *AppPath) ([]client.Build, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return nil, err
	}
	return build.List(ctx, s.db.Reader(), a.ID, 0)
}

func (s *Server) getBuild(ctx context.Context, actor access.Actor, in *buildIn) (client.Build, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.Build{}, err
	}
	found, err := build.List(ctx, s.db.Reader(), a.ID, in.Number)
	if err != nil {
		return client.Build{}, err
	}
	if len(found) != 1 {
		return client.Build{}, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("App %s has no build %d.", a.Name, in.Number), "See bulwark builds.", nil)
	}
	return found[0], nil
}

func (s *Server) cancelBuild(ctx context.Context, actor access.Actor, in *AppPath) (struct{}, error) {
	a, err := app.ByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return struct{}{}, err
	}
	if err := s.note(ctx, audit.Entry{Project: a.Project, Actor: actor.Person, Action: string(access.CancelBuild), Resource: access.App(a.Name).String(), Outcome: audit.Asked}); err != nil {
		return struct{}{}, err
	}
	// Whatever is under way, also a release command that hangs after a change of the config.
	any, err := s.jobs.Cancel(ctx, a.ID, "", bulwark.Fail(bulwark.KindCanceled, "It was canceled.", "What served before still does.", nil))
	if err != nil {
		return struct{}{}, err
	}
	if !any {
		return struct{}{}, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("App %s has no build or change under way.", a.Name), "", nil)
	}
	return struct{}{}, nil
}
