package access

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The platform's own policies and what they are held to.
var (
	//go:embed policy.cedar
	builtin []byte
	//go:embed must-deny.txt
	mustDeny []byte
)

// Policy is what decides. It does not change once it is loaded.
type Policy struct {
	set   *cedar.PolicySet
	names map[cedar.PolicyID]string // for people
}

// Document returns the platform's own policies as people read them.
func Document() string { return string(builtin) }

// Load reads the platform's policies and an operator's own, which may be empty; name is what their file is called in errors. A
// file that does not parse, or that allows what must be denied, is refused with its line.
func Load(name string, extra []byte) (*Policy, error) {
	p := &Policy{set: cedar.NewPolicySet(), names: map[cedar.PolicyID]string{}}
	if err := p.add("policy.cedar", builtin); err != nil {
		return nil, err
	}
	if err := p.add(name, extra); err != nil {
		return nil, err
	}
	return p, p.check(mustDeny)
}

func (p *Policy) add(file string, text []byte) error {
	list, err := cedar.NewPolicyListFromBytes(file, text)
	if err != nil {
		return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The policies in %s cannot be read: %v.", file, err), "Correct the file; nothing was started.", err)
	}
	for i, policy := range list {
		id := cedar.PolicyID(fmt.Sprintf("%s#%d", file, i))
		at := policy.Position()
		p.names[id] = fmt.Sprintf("%s:%d", file, at.Line)
		if title, ok := policy.Annotations()["id"]; ok {
			p.names[id] = fmt.Sprintf("%q (%s:%d)", string(title), file, at.Line)
		}
		p.set.Add(id, policy)
	}
	return nil
}

// Decision is an answer with its reasons.
type Decision struct {
	Allowed bool     `json:"allowed"`
	Reasons []string `json:"reasons"` // the policies that decided; none: no policy permits it
}

// Ask decides, and says why. An error in a policy counts as a denial.
func (p *Policy) Ask(actor Actor, action Action, on Resource) Decision {
	principal, resource := principalOf(actor), resourceOf(on)
	verdict, why := cedar.Authorize(p.set, cedar.EntityMap{principal.UID: principal, resource.UID: resource},
		cedar.Request{Principal: principal.UID, Action: uid("Action", string(action)), Resource: resource.UID})
	d := Decision{Allowed: verdict == cedar.Allow, Reasons: []string{}}
	for _, r := range why.Reasons {
		d.Reasons = append(d.Reasons, p.names[r.PolicyID])
	}
	if len(why.Errors) > 0 {
		d = Decision{Reasons: []string{}}
		for _, e := range why.Errors {
			d.Reasons = append(d.Reasons, fmt.Sprintf("%s: %s", p.names[e.PolicyID], e.Message))
		}
	}
	slices.Sort(d.Reasons)
	return d
}

// Decide returns nil if actor may do action to a resource. Where somebody may not even look, nothing is there.
func (p *Policy) Decide(actor Actor, action Action, on Resource) error {
	switch {
	case action == "" || on.Kind == "":
		return bulwark.Failf(bulwark.KindForbidden, "This is not allowed.")
	case p.Ask(actor, action, on).Allowed:
		return nil
	case actor.Person == "":
		return bulwark.Fail(bulwark.KindUnauthorized, "You are not signed in.", "Sign in with bulwark login.", nil)
	case on.Kind == KindApp && !p.Ask(actor, ReadApp, on).Allowed:
		return bulwark.NoSuchApp()
	case (on.Kind == KindOrg || on.Kind == KindProject) && !p.Ask(actor, ReadMembers, on).Allowed:
		return bulwark.Fail(bulwark.KindNotFound, "There is no such organisation or project.", "See bulwark orgs.", nil)
	case actor.Token != "":
		return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The access token is not made for this (%s).", action), "Make one with the scope that it needs: bulwark tokens create.", nil)
	}
	return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("Your role does not allow this (%s).", action), "Ask an owner; bulwark whoami shows your roles.", nil)
}

func uid(kind, id string) cedar.EntityUID {
	return cedar.NewEntityUID(cedar.EntityType(kind), cedar.String(id))
}

// principalOf is an actor as an entity: the roles as sets of places, a token's scopes as sets of apps.
func principalOf(a Actor) cedar.Entity {
	if a.Person == "" {
		return cedar.Entity{UID: uid("Nobody", "nobody")}
	}
	places := map[bulwark.Role][]cedar.Value{}
	for _, g := range a.Grants {
		at := uid("Org", string(g.Org))
		if g.Project != "" {
			at = uid("Project", string(g.Project))
		}
		places[g.Role] = append(places[g.Role], at)
	}
	record := cedar.RecordMap{"person": cedar.String(a.Person)}
	for _, r := range []bulwark.Role{bulwark.Owner, bulwark.Developer, bulwark.Viewer, bulwark.Auditor} {
		record[cedar.String(r)] = cedar.NewSet(places[r]...)
	}
	if a.Token == "" {
		return cedar.Entity{UID: uid("Person", string(a.Person)), Attributes: cedar.NewRecord(record)}
	}
	apps := map[bulwark.Deed][]cedar.Value{}
	var any []cedar.Value
	for _, s := range a.Scopes {
		apps[s.Do] = append(apps[s.Do], uid("App", string(s.App)))
		any = append(any, uid("App", string(s.App)))
	}
	for _, d := range []bulwark.Deed{bulwark.DeedDeploy, bulwark.DeedConfig, bulwark.DeedRun, bulwark.DeedRead} {
		record[cedar.String(d)] = cedar.NewSet(apps[d]...)
	}
	record["any"] = cedar.NewSet(any...)
	return cedar.Entity{UID: uid("Token", string(a.Token)), Attributes: cedar.NewRecord(record)}
}

func resourceOf(r Resource) cedar.Entity {
	var places []cedar.Value
	if r.Org != "" {
		places = append(places, uid("Org", string(r.Org)))
	}
	if r.Project != "" {
		places = append(places, uid("Project", string(r.Project)))
	}
	e := cedar.Entity{Attributes: cedar.NewRecord(cedar.RecordMap{"places": cedar.NewSet(places...)})}
	switch r.Kind {
	case KindApp:
		e.UID = uid("App", string(r.ID))
	case KindProject:
		e.UID = uid("Project", string(r.Project))
	case KindOrg:
		e.UID = uid("Org", string(r.Org))
	case KindPlatform:
		e.UID = uid("Platform", "platform")
	}
	return e
}

// check holds the policies to a list of what must be denied.
func (p *Policy) check(list []byte) error {
	lines := bufio.NewScanner(bytes.NewReader(list))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(text)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return bulwark.Failf(bulwark.KindInvalid, "Line %d of must-deny.txt has not three words.", n)
		}
		actor, on, err := example(f[0], f[2])
		if err == nil && !slices.Contains(Actions(), Action(f[1])) {
			err = fmt.Errorf("there is no action %s", f[1])
		}
		if err != nil {
			return bulwark.Failf(bulwark.KindInvalid, "Line %d of must-deny.txt: %v.", n, err)
		}
		if d := p.Ask(actor, Action(f[1]), on); d.Allowed {
			return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("A policy allows what must be denied: %s may do %s to the %s, by %s.", f[0], f[1], f[2], strings.Join(d.Reasons, ", ")),
				fmt.Sprintf("Correct that policy; it breaks line %d of must-deny.txt. Nothing was started.", n), nil)
		}
	}
	return lines.Err()
}

// The places of the examples.
const (
	thatOrg     = bulwark.OrgID("org_that")
	otherOrg    = bulwark.OrgID("org_other")
	thatProject = bulwark.ProjectID("prj_that")
	sibling     = bulwark.ProjectID("prj_sibling")
	thatApp     = bulwark.AppID("app_that")
	otherApp    = bulwark.AppID("app_other")
)

// example makes the actor and the resource that a line of must-deny.txt speaks of.
func example(who, what string) (Actor, Resource, error) {
	on, ok := map[string]Resource{
		"platform": Platform(), "org": Org(thatOrg), "project": {Kind: KindProject, Org: thatOrg, Project: thatProject},
		"app": {Kind: KindApp, Org: thatOrg, Project: thatProject, App: "that", ID: thatApp},
	}[what]
	if !ok {
		return Actor{}, on, fmt.Errorf("there is no resource %s", what)
	}
	if who == "nobody" {
		return Actor{}, on, nil
	}
	name, where, _ := strings.Cut(who, "/")
	a := Actor{Person: "p_example"}
	if deed, ok := strings.CutPrefix(name, "token:"); ok {
		app := thatApp
		if where == "elsewhere" {
			app = otherApp
		}
		d, err := bulwark.ParseDeed(deed)
		a.Token, a.Scopes, a.Grants = "tok_example", []statement.Scope{{Do: d, App: app}}, []right.Grant{{Org: thatOrg, Role: bulwark.Owner}}
		return a, on, err
	}
	role, err := bulwark.ParseRole(name)
	at, ok := map[string]right.Grant{"": {Org: thatOrg}, "project": {Org: thatOrg, Project: thatProject}, "sibling": {Org: thatOrg, Project: sibling},
		"elsewhere": {Org: otherOrg}, "first": {Org: bulwark.FirstOrg}}[where]
	if !ok {
		err = fmt.Errorf("there is no place %s", where)
	}
	at.Role = role
	a.Grants = []right.Grant{at}
	return a, on, err
}
