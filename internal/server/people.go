package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
	"github.com/bulwark-paas/bulwark/internal/tenant"
)

// decide is the one decision function of the API and of git. It finds out whose a thing is, and asks the policies; of what is
// not there and what nobody may know of, the answer is the same.
func (s *Server) decide(ctx context.Context, actor access.Actor, action access.Action, on access.Resource) error {
	var err error
	switch on.Kind {
	case access.KindApp:
		if actor.Person == "" {
			break // whether it is there is not looked up for a stranger
		}
		if on.ID, on.Project, on.Org, err = app.PlaceOf(ctx, s.db.Reader(), on.App); err != nil {
			return err
		}
	case access.KindProject:
		if on.Project == "" {
			on.Project = bulwark.FirstProject
		}
		if actor.Person == "" {
			break
		}
		if on.Org, err = tenant.OrgOf(ctx, s.db.Reader(), on.Project); err != nil {
			return err
		}
	}
	return s.policy.Decide(actor, action, on)
}

// actorOf is who a key belongs to and what they may, as the node says at this moment.
func actorOf(k nodeapi.KeyOwner) access.Actor {
	return access.Actor{Person: k.Person, Key: k.Fingerprint, Token: k.Token, Scopes: k.Scopes, Grants: k.Grants}
}

// The inputs about people and places.
type (
	orgIn struct {
		Org bulwark.OrgID `path:"org" doc:"id of the organisation"`
	}
	newOrgIn     = signedIn
	newProjectIn struct {
		Org  bulwark.OrgID `path:"org"`
		Body client.Signed
	}
	memberIn struct {
		Org  bulwark.OrgID `path:"org"`
		Body client.Signed
	}
	rotateIn struct {
		Org     bulwark.OrgID     `path:"org"`
		Project bulwark.ProjectID `path:"project"`
		Body    client.Signed
	}
	projectMemberIn struct {
		Project bulwark.ProjectID `path:"project"`
		Body    client.Signed
	}
	explainIn struct {
		Action   string           `query:"action"`
		App      bulwark.AppName  `query:"app"`
		Person   bulwark.PersonID `query:"as"`
		Document bool             `query:"document"`
	}
)

// newAppIn says which project the app will belong to, as its statement says.
type newAppIn struct{ Body client.Signed }

// Resource implements [api.Resourced].
func (in newAppIn) Resource() access.Resource {
	var b statement.AppCreate
	if json.Unmarshal(unverified(in.Body.Envelope).Body, &b) != nil {
		return access.Resource{} // which nobody may
	}
	return access.Project(b.Project)
}

func (in orgIn) Resource() access.Resource           { return access.Org(in.Org) }
func (in newProjectIn) Resource() access.Resource    { return access.Org(in.Org) }
func (in rotateIn) Resource() access.Resource        { return access.Org(in.Org) }
func (in memberIn) Resource() access.Resource        { return access.Org(in.Org) }
func (in projectMemberIn) Resource() access.Resource { return access.Project(in.Project) }
func (explainIn) Resource() access.Resource          { return access.Platform() }

func (s *Server) whoami(_ context.Context, actor access.Actor, _ *platformIn) (client.Me, error) {
	return client.Me{Person: actor.Person, Token: actor.Token, Scopes: actor.Scopes, Roles: actor.Grants}, nil
}

func (s *Server) listOrgs(ctx context.Context, actor access.Actor, _ *platformIn) ([]client.Org, error) {
	all, err := tenant.Orgs(ctx, s.db.Reader())
	if err != nil {
		return nil, err
	}
	out := []client.Org{}
	for _, o := range all {
		v := client.Org{ID: o.ID, Name: o.Name, Projects: []client.Project{}}
		projects, err := tenant.Projects(ctx, s.db.Reader(), o.ID)
		if err != nil {
			return nil, err
		}
		mine := false
		for _, g := range actor.Grants {
			if g.Org != o.ID {
				continue
			}
			mine = true
			if g.Project == "" {
				v.Role = g.Role
			}
			for _, p := range projects {
				known := slices.ContainsFunc(v.Projects, func(have client.Project) bool { return have.ID == p.ID })
				if (g.Project == "" || g.Project == p.ID) && !known {
					v.Projects = append(v.Projects, client.Project{ID: p.ID, Name: p.Name})
				}
			}
		}
		if mine {
			out = append(out, v)
		}
	}
	return out, nil
}

func (s *Server) createOrg(ctx context.Context, _ access.Actor, in *newOrgIn) (struct{}, error) {
	_, err := s.submit(ctx, in.Body.Envelope, "", placed, statement.KindOrgCreate)
	return struct{}{}, err
}

func (s *Server) createProject(ctx context.Context, _ access.Actor, in *newProjectIn) (struct{}, error) {
	var b statement.ProjectCreate
	if json.Unmarshal(unverified(in.Body.Envelope).Body, &b) != nil || b.Org != in.Org {
		return struct{}{}, bulwark.Failf(bulwark.KindForbidden, "The statement is about another organisation.")
	}
	_, err := s.submit(ctx, in.Body.Envelope, "", placed, statement.KindProjectCreate)
	return struct{}{}, err
}

// rotateProject takes a statement that makes a new key for a project. Who may is decided for the organisation in the path; that
// the project is one of it is looked at here, and by the node.
func (s *Server) rotateProject(ctx context.Context, _ access.Actor, in *rotateIn) (struct{}, error) {
	var b statement.ProjectRotate
	if json.Unmarshal(unverified(in.Body.Envelope).Body, &b) != nil || b.Project != in.Project {
		return struct{}{}, bulwark.Failf(bulwark.KindForbidden, "The statement is about another project.")
	}
	if org, err := tenant.OrgOf(ctx, s.db.Reader(), in.Project); err != nil || org != in.Org {
		return struct{}{}, bulwark.Fail(bulwark.KindNotFound, "There is no such project in the organisation.", "See bulwark projects.", err)
	}
	_, err := s.submit(ctx, in.Body.Envelope, "", noted, statement.KindProjectRotate)
	return struct{}{}, err
}

// placed is the effect of a statement that makes an organisation or a project.
func placed(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	if r.Kind == statement.KindOrgCreate {
		var b statement.OrgCreate
		if err := json.Unmarshal(r.Body, &b); err != nil {
			return err
		}
		if err := tenant.InsertOrg(tx, tenant.Org{ID: b.Org, Name: b.Name}); err != nil {
			return err
		}
		return told(ctx, tx, r, "", access.Org(b.Org), audit.Done, string(b.Name))
	}
	var b statement.ProjectCreate
	if err := json.Unmarshal(r.Body, &b); err != nil {
		return err
	}
	if err := tenant.InsertProject(tx, tenant.Project{ID: b.Project, Org: b.Org, Name: b.Name}); err != nil {
		return err
	}
	return told(ctx, tx, r, b.Project, access.Project(b.Project), audit.Done, string(b.Name))
}

func (s *Server) listMembers(ctx context.Context, _ access.Actor, in *orgIn) ([]client.Member, error) {
	var all []nodeapi.Member
	if err := s.node.Call(ctx, "members", nodeapi.Members{Org: in.Org}, &all); err != nil {
		return nil, err
	}
	out := []client.Member{}
	for _, m := range all {
		out = append(out, client.Member(m))
	}
	return out, nil
}

// changeMembers takes a statement about who belongs to an organisation as a whole, or to one of its projects. The decision was
// made about the place in the path; the node decides by the one in the statement.
func (s *Server) changeMembers(ctx context.Context, _ access.Actor, in *memberIn) (struct{}, error) {
	_, err := s.submit(ctx, in.Body.Envelope, "", noted, statement.KindMemberInvite, statement.KindMemberUninvite, statement.KindMemberSet, statement.KindMemberRemove)
	return struct{}{}, err
}

func (s *Server) changeProjectMembers(ctx context.Context, _ access.Actor, in *projectMemberIn) (struct{}, error) {
	_, err := s.submit(ctx, in.Body.Envelope, "", noted, statement.KindMemberInvite, statement.KindMemberUninvite, statement.KindMemberSet, statement.KindMemberRemove)
	return struct{}{}, err
}

func (s *Server) leave(ctx context.Context, actor access.Actor, in *memberIn) (struct{}, error) {
	var b statement.MemberRemove
	if json.Unmarshal(unverified(in.Body.Envelope).Body, &b) != nil || b.Person != actor.Person {
		return struct{}{}, bulwark.Failf(bulwark.KindForbidden, "The statement is about somebody else.")
	}
	_, err := s.submit(ctx, in.Body.Envelope, "", noted, statement.KindMemberRemove)
	return struct{}{}, err
}

func (s *Server) listTokens(ctx context.Context, actor access.Actor, _ *platformIn) ([]client.Token, error) {
	var all []nodeapi.Token
	if err := s.node.Call(ctx, "tokens", nodeapi.Tokens{Person: actor.Person}, &all); err != nil {
		return nil, err
	}
	out := []client.Token{}
	for _, t := range all {
		v := client.Token{ID: t.ID, Name: t.Name, Person: t.Person, Until: t.Until, Ended: t.Ended}
		for _, sc := range t.Scopes {
			a, err := app.KeptByID(ctx, s.db.Reader(), sc.App)
			if err != nil {
				continue // the app was destroyed
			}
			v.Scopes = append(v.Scopes, string(sc.Do)+":"+string(a.Name))
		}
		if at := s.used.last(t.ID); !at.IsZero() {
			v.Used = &at
		}
		out = append(out, v)
	}
	return out, nil
}

func (s *Server) changeTokens(ctx context.Context, _ access.Actor, in *signedIn) (struct{}, error) {
	_, err := s.submit(ctx, in.Body.Envelope, "", noted, statement.KindTokenCreate, statement.KindTokenRevoke)
	return struct{}{}, err
}

// explain says why something is allowed or refused. About others one may ask who governs the first organisation, and about an app
// who may look at it.
func (s *Server) explain(ctx context.Context, actor access.Actor, in *explainIn) (client.Explanation, error) {
	if in.Document {
		return client.Explanation{Document: access.Document()}, nil
	}
	if !slices.Contains(access.Actions(), access.Action(in.Action)) {
		return client.Explanation{}, bulwark.Invalid("There is no such action.", "bulwark policy show names them.")
	}
	on := access.Platform()
	if in.App != "" {
		if err := s.decide(ctx, actor, access.ReadApp, access.App(in.App)); err != nil {
			return client.Explanation{}, err
		}
		on = access.App(in.App)
		var err error
		if on.ID, on.Project, on.Org, err = app.PlaceOf(ctx, s.db.Reader(), in.App); err != nil {
			return client.Explanation{}, err
		}
	}
	who := actor
	if in.Person != "" && in.Person != actor.Person {
		// About another person: who governs the place in question may know.
		if in.App == "" || s.policy.Decide(actor, access.ManageMembers, access.Resource{Kind: access.KindOrg, Org: on.Org}) != nil {
			return client.Explanation{}, bulwark.Fail(bulwark.KindForbidden, "Only an owner may ask about somebody else.", "Name an app of yours.", nil)
		}
		k := nodeapi.KeyOwner{Kind: "person", Fingerprint: string(in.Person)}
		if err := s.node.Call(ctx, "keyowner", k, &k); err != nil {
			return client.Explanation{}, err
		}
		who = actorOf(k)
		// Of somebody else no more is said than what they are here.
		who.Grants = slices.DeleteFunc(who.Grants, func(g right.Grant) bool { return g.Org != on.Org })
	}
	d := s.policy.Ask(who, access.Action(in.Action), on)
	return client.Explanation{Allowed: d.Allowed, Reasons: d.Reasons, Roles: who.Grants}, nil
}

// lastUse remembers when tokens were used last, since the server started; the audit log has the rest.
type lastUse struct {
	mu sync.Mutex // guards at
	at map[bulwark.TokenID]time.Time
}

func (u *lastUse) now(id bulwark.TokenID) {
	if id == "" {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at[id] = time.Now()
}

func (u *lastUse) last(id bulwark.TokenID) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.at[id]
}
