// Package access decides who may do what, in one place. It promises that what is not allowed is refused, and that every
// endpoint asks: package api cannot register one without an action and a resource.
//
// For now an installation has one circle of people, each an owner; the decision takes all that finer rights will need.
package access

import (
	"github.com/bulwark-paas/bulwark"
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
	RevealConfig  Action = "config.reveal"
	RunApp        Action = "app.run"
	RunCron       Action = "cron.run"
	CancelBuild   Action = "build.cancel"
	ReadOperation Action = "operation.read"

	ReadRegistries   Action = "registry.read"
	ManageRegistries Action = "registry.manage"
)

// Resource is what it is done to.
type Resource struct {
	Kind    string // "platform", "app"
	Project bulwark.ProjectID
	App     bulwark.AppName
}

// Platform is the resource of what belongs to no app.
func Platform() Resource { return Resource{Kind: "platform"} }

// App is an app as a resource.
func App(name bulwark.AppName) Resource { return Resource{Kind: "app", App: name} }

// String writes the resource for the audit record.
func (r Resource) String() string {
	if r.App != "" {
		return r.Kind + ":" + string(r.App)
	}
	return r.Kind
}

// Actor is who asks.
type Actor struct {
	Person bulwark.PersonID // empty if nobody is signed in
	Key    string           // fingerprint of the key that signed in
}

// Decide returns nil if actor may do action to resource.
func Decide(actor Actor, action Action, resource Resource) error {
	switch {
	case action == "" || resource.Kind == "":
		return bulwark.Failf(bulwark.KindForbidden, "This is not allowed.")
	case action == Open && resource.Kind == "platform":
		return nil
	case actor.Person == "":
		return bulwark.Fail(bulwark.KindUnauthorized, "You are not signed in.", "Sign in with bulwark login.", nil)
	}
	return nil
}
