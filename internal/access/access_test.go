package access_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func load(t testing.TB, extra string) *access.Policy {
	t.Helper()
	p, err := access.Load("own.cedar", []byte(extra))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// theApp is an app in a place.
func theApp() access.Resource {
	return access.Resource{Kind: access.KindApp, Org: "org_a", Project: "prj_a", App: "shop", ID: "app_shop"}
}

func role(r bulwark.Role) access.Actor {
	return access.Actor{Person: "p_x", Grants: []right.Grant{{Org: "org_a", Role: r}}}
}

// What the node takes from a role, the server lets through to it, and what the node refuses, the server refuses before: the two
// tables are two, so that the node need not believe the server, and say the same.
func TestServerAndNodeAgree(t *testing.T) {
	p := load(t, "")
	for kind, action := range map[statement.Kind]access.Action{
		statement.KindPush: access.Deploy, statement.KindDeploy: access.Deploy, statement.KindRollback: access.ChangeApp,
		statement.KindConfigSet: access.ChangeApp, statement.KindBuildSecret: access.ChangeApp, statement.KindConfigReveal: access.RevealConfig,
		statement.KindRun: access.RunApp, statement.KindResize: access.ChangeApp, statement.KindDomainAdd: access.ChangeApp,
		statement.KindDomainRemove: access.ChangeApp, statement.KindEgressAllow: access.OpenEgress, statement.KindEgressDeny: access.ChangeApp,
		statement.KindAppDestroy: access.DestroyApp, statement.KindAppRestore: access.RestoreApp, statement.KindProtect: access.Protect, statement.KindProtectApprove: access.Approve,
		statement.KindApprove: access.Approve, statement.KindCertAdd: access.ChangeApp, statement.KindCertRemove: access.ChangeApp,
	} {
		for _, r := range []bulwark.Role{bulwark.Owner, bulwark.Developer, bulwark.Viewer, bulwark.Auditor} {
			node := right.Has(role(r).Grants, "org_a", "prj_a", right.Rules()[kind].Roles...)
			if server := p.Ask(role(r), action, theApp()).Allowed; server != node {
				t.Errorf("%s as %s: the server says %v, the node %v", kind, r, server, node)
			}
		}
		for _, d := range []bulwark.Deed{bulwark.DeedDeploy, bulwark.DeedConfig, bulwark.DeedRun, bulwark.DeedRead} {
			token := role(bulwark.Owner)
			token.Token, token.Scopes = "tok_x", []statement.Scope{{Do: d, App: "app_shop"}}
			if right.Rules()[kind].Deed == d && !p.Ask(token, action, theApp()).Allowed {
				t.Errorf("%s by a token for %s: the node takes it, and the server refuses", kind, d)
			}
		}
	}
}

// Nobody is told that an app is there of which they may know nothing: the answer is that of one that is not there.
func TestHidden(t *testing.T) {
	p := load(t, "")
	stranger := access.Actor{Person: "p_y", Grants: []right.Grant{{Org: "org_b", Role: bulwark.Owner}}}
	for _, a := range access.Actions() {
		err := p.Decide(stranger, a, theApp())
		if err == nil || err.Error() != bulwark.NoSuchApp().Error() {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := p.Decide(role(bulwark.Viewer), access.Deploy, theApp()); bulwark.KindOf(err) != bulwark.KindForbidden {
		t.Errorf("a viewer deploys: %v", err)
	}
	if err := p.Decide(access.Actor{}, access.ReadApp, theApp()); bulwark.KindOf(err) != bulwark.KindUnauthorized {
		t.Errorf("nobody reads: %v", err)
	}
	for _, on := range []access.Resource{{}, theApp()} {
		if p.Decide(role(bulwark.Owner), "", on) == nil {
			t.Errorf("no action on %v is allowed", on)
		}
	}
}

// An operator's file that cannot be read, or that opens what must stay closed, is refused with its line.
func TestOwnPolicies(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no Cedar":        {"permit everything;", "own.cedar"},
		"all to all":      {"\n\npermit (principal, action, resource);", "own.cedar:3"},
		"viewers deploy":  {`permit (principal, action == Action::"app.deploy", resource is App) when { principal has person && principal.viewer.containsAny(resource.places) };`, "viewer may do app.deploy"},
		"the first org":   {`permit (principal, action, resource is App) when { principal has person && principal.owner.contains(Org::"org_00000000000000000000000000") };`, "owner/first may do app.read"},
		"before sign-in":  {`permit (principal, action == Action::"app.list", resource is Platform);`, "nobody may do app.list"},
		"tokens are free": {`@id("free") permit (principal is Person, action == Action::"config.reveal", resource is App) when { true };`, `"free" (own.cedar:1)`},
	} {
		_, err := access.Load("own.cedar", []byte(c.text))
		if bulwark.KindOf(err) != bulwark.KindInvalid || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// What only closes is taken, and counts.
	p := load(t, `@id("frozen") forbid (principal, action == Action::"app.deploy", resource == App::"app_shop");`)
	d := p.Ask(role(bulwark.Owner), access.Deploy, theApp())
	if d.Allowed || len(d.Reasons) != 1 || d.Reasons[0] != `"frozen" (own.cedar:1)` {
		t.Errorf("%+v", d)
	}
	if d := load(t, "").Ask(role(bulwark.Developer), access.Deploy, theApp()); !d.Allowed || !strings.HasPrefix(d.Reasons[0], `"work" (policy.cedar:`) {
		t.Errorf("%+v", d)
	}
}

// A policy that fails when it is asked is one that denies.
func TestBrokenPolicyDenies(t *testing.T) {
	p := load(t, `forbid (principal, action == Action::"app.deploy", resource) when { principal.nothing == 1 };`)
	if d := p.Ask(role(bulwark.Owner), access.Deploy, theApp()); d.Allowed || len(d.Reasons) != 1 {
		t.Errorf("%+v", d)
	}
}

func BenchmarkDecide(b *testing.B) {
	p := load(b, "")
	for b.Loop() {
		if err := p.Decide(role(bulwark.Developer), access.Deploy, theApp()); err != nil {
			b.Fatal(err)
		}
	}
}
