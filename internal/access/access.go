// Package access decides who may do what on the server, in one place: policies in Cedar, which are a document that people can
// read (policy.cedar), and a list of what must be denied whatever they say (must-deny.txt), to which they are held when they are
// loaded. Nothing is allowed that no policy permits.
//
// It promises that what is not allowed is refused, and that every endpoint asks: package api cannot register one without an
// action and a resource. It does not stand between a person and the node: whatever changes an app is a statement, and the
// node decides about those by itself, from its own ledger (package right), so that whoever owns the server gains nothing by
// answering yes here.
package access

import (
	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Action is what somebody wants to do.
type Action string

// The actions.
const (
	Open          Action = "open" // needs nobody: the few endpoints that come before signing in
	ReadSelf      Action = "self.read"
	ReadStatus    Action = "status.read"
	ReadKeys      Action = "keys.read"
	ManageKeys    Action = "keys.manage"
	ListApps      Action = "app.list"
	CreateApp     Action = "app.create"
	ReadApp       Action = "app.read"
	ReadLogs      Action = "app.logs"
	ChangeApp     Action = "app.change"
	Deploy        Action = "app.deploy"
	ScaleApp      Action = "app.scale"
	DestroyApp    Action = "app.destroy"
	RestoreApp    Action = "app.restore"
	RevealConfig  Action = "config.reveal"
	OpenEgress    Action = "egress.allow"
	RunApp        Action = "app.run"
	RunCron       Action = "cron.run"
	CancelBuild   Action = "build.cancel"
	ReadOperation Action = "operation.read"
	Approve       Action = "release.approve"
	Protect       Action = "app.protect"

	ReadCheckpoint Action = "audit.checkpoint" // how far the audit log is, which tells nothing of what is in it
	ReadAudit      Action = "audit.read"
	WitnessAudit   Action = "audit.witness"
	ReadPosture    Action = "posture.read"
	RunPosture     Action = "posture.run"

	ReadRegistries   Action = "registry.read"
	ManageRegistries Action = "registry.manage"

	ReadMetrics Action = "metrics.read" // of all apps of the installation, and of the edge itself

	ReadPatches   Action = "patch.read"
	ManagePatches Action = "patch.manage"

	ListOrgs      Action = "org.list"
	CreateOrg     Action = "org.create"
	ReadMembers   Action = "member.read"
	ManageMembers Action = "member.manage"
	Leave         Action = "member.leave"
	CreateProject Action = "project.create"
	RotateKey     Action = "project.rotate"
	ManageTokens  Action = "token.manage"
	ExplainPolicy Action = "policy.explain"
)

// Actions returns all of them.
func Actions() []Action {
	return []Action{Open, ReadSelf, ReadStatus, ReadKeys, ManageKeys, ListApps, CreateApp, ReadApp, ReadLogs, ChangeApp, Deploy, ScaleApp, DestroyApp, RestoreApp,
		RevealConfig, OpenEgress, RunApp, RunCron, CancelBuild, ReadOperation, ReadRegistries, ManageRegistries, ListOrgs, CreateOrg, ReadMembers,
		ManageMembers, Leave, CreateProject, RotateKey, ManageTokens, ExplainPolicy,
		ReadMetrics, ReadPatches, ManagePatches, ReadCheckpoint, ReadAudit, WitnessAudit, ReadPosture, RunPosture, Approve, Protect}
}

// Kind is what kind of thing a resource is.
type Kind string

// The kinds.
const (
	KindPlatform Kind = "platform"
	KindOrg      Kind = "org"
	KindProject  Kind = "project"
	KindApp      Kind = "app"
)

// Resource is what an action is done to. An endpoint names it; Org, Project and ID are filled in by who knows them before the
// decision is made.
type Resource struct {
	Kind    Kind
	Org     bulwark.OrgID
	Project bulwark.ProjectID
	App     bulwark.AppName
	ID      bulwark.AppID
}

// Platform is the resource of what belongs to no organisation.
func Platform() Resource { return Resource{Kind: KindPlatform} }

// Org is an organisation as a resource.
func Org(id bulwark.OrgID) Resource { return Resource{Kind: KindOrg, Org: id} }

// Project is a project as a resource.
func Project(id bulwark.ProjectID) Resource { return Resource{Kind: KindProject, Project: id} }

// App is an app as a resource.
func App(name bulwark.AppName) Resource { return Resource{Kind: KindApp, App: name} }

// String writes the resource for the audit record.
func (r Resource) String() string {
	switch r.Kind {
	case KindApp:
		return "app:" + string(r.App)
	case KindProject:
		return "project:" + string(r.Project)
	case KindOrg:
		return "org:" + string(r.Org)
	}
	return string(r.Kind)
}

// Actor is who asks, and what the node's ledger says of them at this moment.
type Actor struct {
	Person bulwark.PersonID // empty if nobody is signed in
	Key    string           // fingerprint of the key that signed in
	From   string           // address and port of the connection
	Token  bulwark.TokenID  // of the person's, if the key is a token's
	Scopes []statement.Scope
	Grants []right.Grant
}

// Tenant is where an actor may see anything at all; the store's queries take one.
func (a Actor) Tenant() bulwark.Tenant {
	var t bulwark.Tenant
	for _, g := range a.Grants {
		if g.Project == "" {
			t.Orgs = append(t.Orgs, g.Org)
		} else {
			t.Projects = append(t.Projects, g.Project)
		}
	}
	return t
}
