package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// invite has an owner invite somebody, who takes the invitation up.
func (b *book) invite(by *person, at statement.Place, role bulwark.Role) *person {
	b.t.Helper()
	p, envelope := b.invitation(by, at, role)
	r, err := b.Enroll(b.ctx(), envelope)
	ok(b.t, err)
	p.id = r.Person
	return p
}

// invitation makes one, and the enrolment by which it would be taken up.
func (b *book) invitation(by *person, at statement.Place, role bulwark.Role) (*person, []byte) {
	b.t.Helper()
	key := newKey(b.t)
	b.must(by, statement.KindMemberInvite, "", statement.MemberInvite{Place: at, Role: role, Name: "Invited", Key: pkix(key), Until: b.clock.Add(time.Hour)})
	p := &person{device: newKey(b.t), ssh: newSSH(b.t)}
	der := pkix(p.device)
	return p, b.sign(p.device, statement.KindEnroll, "", statement.Enroll{Name: "Invited", Device: der, SSH: []statement.SSHKey{b.proven(p.ssh, p.device)},
		Proof: enrol.Accept(key, der), Invitation: fingerprint(key)})
}

func first() statement.Place { return statement.Place{Org: bulwark.FirstOrg} }

// org makes an organisation with a project in it.
func (b *book) org(by *person, name bulwark.OrgName) (statement.Place, bulwark.ProjectID) {
	b.t.Helper()
	at := statement.Place{Org: bulwark.NewOrgID()}
	project := bulwark.NewProjectID()
	b.must(by, statement.KindOrgCreate, "", statement.OrgCreate{Org: at.Org, Name: name})
	b.must(by, statement.KindProjectCreate, "", statement.ProjectCreate{Project: project, Org: at.Org, Name: "web"})
	return at, project
}

// An invitation can be withdrawn by who could have made it, until somebody has taken it up; nobody comes in by it then.
func TestWithdrawnInvitation(t *testing.T) {
	b := open(t)
	ana := b.enrol()
	foreign, project := b.org(ana, "acme")
	stranger := b.invite(ana, foreign, bulwark.Owner)
	b.must(ana, statement.KindMemberRemove, "", statement.MemberRemove{Place: foreign, Person: ana.id})
	here := statement.Place{Org: bulwark.FirstOrg, Project: bulwark.FirstProject}
	leader := b.invite(ana, here, bulwark.Owner)
	developer := b.invite(ana, first(), bulwark.Developer)

	open := func(at statement.Place) (string, []byte) {
		_, envelope := b.invitation(ana, at, bulwark.Viewer)
		all, err := b.Members(b.ctx(), at.Org)
		ok(t, err)
		for _, m := range all {
			if m.Invited != nil && m.Project == at.Project {
				return m.Invitation, envelope
			}
		}
		t.Fatal("the invitation is not listed", all)
		return "", nil
	}
	whole, envelope := open(first())
	of := func(at statement.Place) statement.MemberUninvite {
		return statement.MemberUninvite{Place: at, Invitation: whole}
	}
	b.refused(developer, bulwark.KindForbidden, statement.KindMemberUninvite, "", of(first()))
	b.refused(leader, bulwark.KindForbidden, statement.KindMemberUninvite, "", of(first()))
	b.refused(leader, bulwark.KindNotFound, statement.KindMemberUninvite, "", of(here))
	b.refused(stranger, bulwark.KindNotFound, statement.KindMemberUninvite, "", of(foreign))
	b.refused(stranger, bulwark.KindNotFound, statement.KindMemberUninvite, "", of(statement.Place{Org: foreign.Org, Project: project}))
	b.must(ana, statement.KindMemberUninvite, "", of(first()))
	_, err := b.Enroll(b.ctx(), envelope)
	isKind(t, err, bulwark.KindForbidden)
	b.refused(ana, bulwark.KindNotFound, statement.KindMemberUninvite, "", of(first()))

	inProject, envelope := open(here)
	b.must(ana, statement.KindMemberUninvite, "", statement.MemberUninvite{Place: first(), Invitation: inProject})
	_, err = b.Enroll(b.ctx(), envelope)
	isKind(t, err, bulwark.KindForbidden)

	taken, envelope := open(here)
	_, err = b.Enroll(b.ctx(), envelope)
	ok(t, err)
	b.refused(ana, bulwark.KindNotFound, statement.KindMemberUninvite, "", statement.MemberUninvite{Place: here, Invitation: taken})
}

// TestRolesTimesKinds tries every role, in every place that there is, with every kind of statement that is about an app, and
// holds the ledger to the table: what a role may not, it cannot, and what is another tenant's is not there.
func TestRolesTimesKinds(t *testing.T) {
	b := open(t)
	operator := b.enrol()
	at, project := b.org(operator, "acme")
	owner := b.invite(operator, at, bulwark.Owner)
	b.must(operator, statement.KindMemberRemove, "", statement.MemberRemove{Place: at, Person: operator.id})
	sibling := bulwark.NewProjectID()
	b.must(owner, statement.KindProjectCreate, "", statement.ProjectCreate{Project: sibling, Org: at.Org, Name: "other"})
	app := bulwark.NewAppID()
	b.must(owner, statement.KindAppCreate, app, statement.AppCreate{Name: "shop", Project: project})

	inProject, inSibling := at, at
	inProject.Project, inSibling.Project = project, sibling
	roles := []bulwark.Role{bulwark.Owner, bulwark.Developer, bulwark.Viewer, bulwark.Auditor}
	bodies := map[statement.Kind]func() any{
		statement.KindDeploy:       func() any { return statement.Deploy{Tree: statement.TreeDigest(fmt.Sprintf("tree1:%064d", 1))} },
		statement.KindRollback:     func() any { return statement.Rollback{To: 99} }, // not there, which is known after the decision
		statement.KindConfigSet:    func() any { return statement.ConfigSet{Base: 99} },
		statement.KindBuildSecret:  func() any { return statement.ConfigSet{} },
		statement.KindConfigReveal: func() any { return statement.ConfigReveal{Name: "A"} },
		statement.KindRun:          func() any { return statement.Run{Argv: []string{"ls"}, Detach: true} },
		statement.KindResize:       func() any { return statement.Resize{} },
		statement.KindDomainAdd:    func() any { return statement.Domain{Host: "shop.example.com"} },
		statement.KindDomainRemove: func() any { return statement.Domain{Host: "shop.example.com"} },
		statement.KindCertAdd:      func() any { return statement.CertAdd{} },
		statement.KindCertRemove:   func() any { return statement.CertRemove{Host: "shop.example.com"} },
		statement.KindEgressAllow:  func() any { return statement.Egress{Rule: "db.example.org:5432"} },
		statement.KindEgressDeny:   func() any { return statement.Egress{Rule: "db.example.org:5432"} },
		statement.KindShieldSet:    func() any { return statement.Shield{Change: bulwark.ShieldChange{WAF: bulwark.WAFBlock}} },
		statement.KindProtect:      func() any { return statement.Protect{Approvals: 1} },
		statement.KindApprove:      func() any { return statement.Approve{Generation: 99} },  // as above
		statement.KindAppRestore:   func() any { return statement.AppRestore{Name: "shop"} }, // which was not destroyed
		statement.KindProtectApprove: func() any {
			return statement.ProtectApprove{Request: bulwark.Sum([]byte("what nobody asked for"))}
		},
	}
	for kind, rule := range right.Rules() {
		if rule.On == right.App && bodies[kind] == nil && kind != statement.KindPush && kind != statement.KindAppDestroy {
			t.Errorf("no statement of kind %s is tried", kind)
		}
	}
	tried := 0
	for _, role := range roles {
		for where, place := range map[string]statement.Place{"org": at, "project": inProject, "sibling": inSibling, "first": first()} {
			who := b.invite(map[bool]*person{true: operator, false: owner}[where == "first"], place, role)
			for kind, body := range bodies {
				_, err := b.SubmitNamed(b.ctx(), b.sign(who.device, kind, app, body()), b.named("shop.example.com", at.Org))
				got := bulwark.KindOf(err)
				tried++
				switch inside := where == "org" || where == "project"; {
				case !inside && got != bulwark.KindNotFound:
					t.Errorf("%s in %s: %s: %v, want an app that is not there", role, where, kind, err)
				case inside && !right.Has([]right.Grant{{Org: at.Org, Role: role}}, at.Org, "", right.Rules()[kind].Roles...) && got != bulwark.KindForbidden:
					t.Errorf("%s in %s: %s: %v, want it refused", role, where, kind, err)
				case inside && right.Has([]right.Grant{{Org: at.Org, Role: role}}, at.Org, "", right.Rules()[kind].Roles...) && err != nil && got == bulwark.KindForbidden:
					t.Errorf("%s in %s: %s: %v, want it allowed", role, where, kind, err)
				}
			}
			if where == "first" || where == "sibling" || role != bulwark.Owner {
				_, err := b.Submit(b.ctx(), b.sign(who.device, statement.KindAppDestroy, app, statement.AppDestroy{Name: "shop"}))
				if k := bulwark.KindOf(err); k != bulwark.KindForbidden && k != bulwark.KindNotFound {
					t.Errorf("%s in %s destroys: %v", role, where, err)
				}
			}
		}
	}
	if tried != len(roles)*4*len(bodies) {
		t.Errorf("%d were tried", tried)
	}
}

// What is the installation's is its owners'; what is an organisation's is its owners'; nobody lets themselves in.
func TestPlaces(t *testing.T) {
	b := open(t)
	operator := b.enrol()
	at, _ := b.org(operator, "acme")
	owner := b.invite(operator, at, bulwark.Owner)
	developer := b.invite(owner, at, bulwark.Developer)

	for _, who := range []*person{owner, developer} {
		b.refused(who, bulwark.KindForbidden, statement.KindOrgCreate, "", statement.OrgCreate{Org: bulwark.NewOrgID(), Name: "mine"})
		b.refused(who, bulwark.KindForbidden, statement.KindRegistryAllow, "", statement.Registry{Host: "evil.example.org"})
		b.refused(who, bulwark.KindForbidden, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: who.id, Role: bulwark.Owner})
		b.refused(who, bulwark.KindForbidden, statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "inside"})
	}
	b.refused(developer, bulwark.KindForbidden, statement.KindMemberSet, "", statement.MemberSet{Place: at, Person: developer.id, Role: bulwark.Owner})
	b.refused(developer, bulwark.KindForbidden, statement.KindMemberInvite, "", statement.MemberInvite{Place: at, Role: bulwark.Owner, Key: pkix(newKey(t)), Until: b.clock.Add(time.Hour)})
	b.refused(developer, bulwark.KindForbidden, statement.KindProjectCreate, "", statement.ProjectCreate{Project: bulwark.NewProjectID(), Org: at.Org, Name: "x"})
	b.refused(developer, bulwark.KindForbidden, statement.KindMemberRemove, "", statement.MemberRemove{Place: at, Person: owner.id})
	// A project of one organisation under the name of another.
	_, theirs := b.org(operator, "other")
	b.refused(owner, bulwark.KindNotFound, statement.KindMemberSet, "", statement.MemberSet{Place: statement.Place{Org: at.Org, Project: theirs}, Person: owner.id, Role: bulwark.Owner})
	b.refused(operator, bulwark.KindConflict, statement.KindOrgCreate, "", statement.OrgCreate{Org: bulwark.NewOrgID(), Name: "acme"})
	// A key of somebody else's: the installation's owners alone.
	b.refused(owner, bulwark.KindNotFound, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(developer.device)})
	b.must(operator, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(developer.device)})
	b.refused(developer, bulwark.KindForbidden, statement.KindKeyAdd, "", b.addSSH(developer, newSSH(t)))
}

// Two owners remove each other: the first statement counts, and the second is refused. The last owner stays.
func TestOwners(t *testing.T) {
	b := open(t)
	ana := b.enrol()
	ben := b.invite(ana, first(), bulwark.Owner)
	of := func(p *person) statement.MemberRemove { return statement.MemberRemove{Place: first(), Person: p.id} }
	b.must(ana, statement.KindMemberRemove, "", of(ben))
	b.refused(ben, bulwark.KindForbidden, statement.KindMemberRemove, "", of(ana))
	b.refused(ana, bulwark.KindConflict, statement.KindMemberRemove, "", of(ana))
	b.refused(ana, bulwark.KindConflict, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: ana.id, Role: bulwark.Viewer})
	b.must(ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: ben.id, Role: bulwark.Owner})
	b.must(ana, statement.KindMemberRemove, "", of(ana))
	b.refused(ana, bulwark.KindForbidden, statement.KindOrgCreate, "", statement.OrgCreate{Org: bulwark.NewOrgID(), Name: "x"})
}

// An invitation is good once, in its time, for the device that took it up, and only while its inviter may invite.
func TestInvitations(t *testing.T) {
	b := open(t)
	ana := b.enrol()
	ben := b.invite(ana, first(), bulwark.Owner)

	_, once := b.invitation(ana, first(), bulwark.Viewer)
	_, err := b.Enroll(b.ctx(), once)
	ok(t, err)
	_, err = b.Enroll(b.ctx(), once) // the same document: the same receipt, and no second person
	ok(t, err)

	key := newKey(t)
	b.must(ana, statement.KindMemberInvite, "", statement.MemberInvite{Place: first(), Role: bulwark.Viewer, Name: "x", Key: pkix(key), Until: b.clock.Add(time.Hour)})
	thief := &person{device: newKey(t), ssh: newSSH(t)}
	enrolment := func(proof []byte) []byte {
		return b.sign(thief.device, statement.KindEnroll, "", statement.Enroll{Name: "Thief", Device: pkix(thief.device), Proof: proof, Invitation: fingerprint(key)})
	}
	for name, proof := range map[string][]byte{
		"no proof":               nil,
		"another key's":          enrol.Accept(newKey(t), pkix(thief.device)),
		"for another device":     enrol.Accept(key, pkix(newKey(t))),
		"a one-time token's way": enrol.Proof(pkix(key), pkix(thief.device)),
	} {
		if _, err := b.Enroll(b.ctx(), enrolment(proof)); bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.clock = b.clock.Add(2 * time.Hour)
	_, err = b.Enroll(b.ctx(), enrolment(enrol.Accept(key, pkix(thief.device))))
	isKind(t, err, bulwark.KindForbidden)
	ok(t, b.Expire(b.ctx()))
	b.clock = b.clock.Add(-2 * time.Hour) // a clock that is set back revives nothing
	_, err = b.Enroll(b.ctx(), enrolment(enrol.Accept(key, pkix(thief.device))))
	isKind(t, err, bulwark.KindForbidden)

	_, late := b.invitation(ben, first(), bulwark.Owner)
	b.must(ana, statement.KindMemberRemove, "", statement.MemberRemove{Place: first(), Person: ben.id})
	_, err = b.Enroll(b.ctx(), late)
	isKind(t, err, bulwark.KindForbidden)
	_, lowered := b.invitation(b.invite(ana, first(), bulwark.Owner), first(), bulwark.Owner)
	all, err := b.Members(b.ctx(), bulwark.FirstOrg)
	ok(t, err)
	for _, m := range all {
		if m.Role == bulwark.Owner && m.Person != ana.id && m.Person != "" {
			b.must(ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: m.Person, Role: bulwark.Developer})
		}
	}
	_, err = b.Enroll(b.ctx(), lowered)
	isKind(t, err, bulwark.KindForbidden)
}

// token makes one of p's.
func (b *book) token(p *person, scopes ...statement.Scope) (*person, bulwark.TokenID) {
	b.t.Helper()
	k := &person{device: newKey(b.t), id: p.id}
	id := bulwark.NewTokenID()
	b.must(p, statement.KindTokenCreate, "", statement.TokenCreate{Token: id, Name: "ci", Key: pkix(k.device), Scopes: scopes, Until: b.clock.Add(24 * time.Hour)})
	return k, id
}

// A token does what its scopes say, as long as its maker may, until it ends.
func TestTokens(t *testing.T) {
	b := open(t)
	ana := b.enrol()
	dev := b.invite(ana, first(), bulwark.Developer)
	shop, blog := b.app(ana, "shop"), b.app(ana, "blog")
	tree := statement.Deploy{Tree: statement.TreeDigest(fmt.Sprintf("tree1:%064d", 1))}
	ci, id := b.token(dev, statement.Scope{Do: bulwark.DeedDeploy, App: shop})

	r := b.must(ci, statement.KindDeploy, shop, tree)
	if r.Person != dev.id || r.Token != id {
		t.Errorf("the receipt names %s and %s", r.Person, r.Token)
	}
	b.refused(ci, bulwark.KindForbidden, statement.KindDeploy, blog, tree)
	b.refused(ci, bulwark.KindForbidden, statement.KindDeploy, shop, statement.Deploy{Image: bulwark.Sum([]byte("x"))})
	b.refused(ci, bulwark.KindForbidden, statement.KindConfigSet, shop, statement.ConfigSet{})
	b.refused(ci, bulwark.KindForbidden, statement.KindConfigReveal, shop, statement.ConfigReveal{Name: "A"})
	b.refused(ci, bulwark.KindForbidden, statement.KindRun, shop, statement.Run{Argv: []string{"ls"}, Detach: true})
	b.refused(ci, bulwark.KindForbidden, statement.KindAppDestroy, shop, statement.AppDestroy{Name: "shop"})
	b.refused(ci, bulwark.KindForbidden, statement.KindKeyAdd, "", b.addSSH(ci, newSSH(t)))
	b.refused(ci, bulwark.KindForbidden, statement.KindTokenCreate, "", statement.TokenCreate{Token: bulwark.NewTokenID(), Name: "more", Key: pkix(newKey(t)),
		Scopes: []statement.Scope{{Do: bulwark.DeedRun, App: shop}}, Until: b.clock.Add(time.Hour)})
	b.refused(ci, bulwark.KindForbidden, statement.KindMemberRemove, "", statement.MemberRemove{Place: first(), Person: dev.id})

	// Between what was accepted and its release, the maker's role was lowered, or the token revoked.
	if _, _, err := b.Release(b.ctx(), r.Digest); bulwark.KindOf(err) == bulwark.KindForbidden {
		t.Errorf("while all is well: %v", err)
	}
	b.must(ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: dev.id, Role: bulwark.Viewer})
	b.refused(ci, bulwark.KindForbidden, statement.KindDeploy, shop, tree)
	_, _, err := b.Release(b.ctx(), r.Digest)
	isKind(t, err, bulwark.KindForbidden)
	isKind(t, b.Still(b.ctx(), r), bulwark.KindForbidden) // before a build gets the build secrets of today
	b.must(ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: dev.id, Role: bulwark.Developer})
	b.must(ci, statement.KindDeploy, shop, statement.Deploy{Tree: tree.Tree, Message: "again"})

	b.refused(b.invite(ana, first(), bulwark.Developer), bulwark.KindNotFound, statement.KindTokenRevoke, "", statement.TokenRevoke{Token: id})
	b.must(ana, statement.KindTokenRevoke, "", statement.TokenRevoke{Token: id}) // an owner of where it reaches
	b.refused(ci, bulwark.KindForbidden, statement.KindDeploy, shop, tree)

	late, _ := b.token(dev, statement.Scope{Do: bulwark.DeedDeploy, App: shop})
	b.clock = b.clock.Add(25 * time.Hour)
	b.refused(late, bulwark.KindForbidden, statement.KindDeploy, shop, tree)
	ok(t, b.Expire(b.ctx()))
	b.clock = b.clock.Add(-25 * time.Hour)
	b.refused(late, bulwark.KindForbidden, statement.KindDeploy, shop, tree)

	// A token for an app that its maker may not see.
	at, _ := b.org(ana, "acme")
	stranger := b.invite(ana, at, bulwark.Owner)
	b.refused(stranger, bulwark.KindNotFound, statement.KindTokenCreate, "", statement.TokenCreate{Token: bulwark.NewTokenID(), Name: "x", Key: pkix(newKey(t)),
		Scopes: []statement.Scope{{Do: bulwark.DeedRead, App: shop}}, Until: b.clock.Add(time.Hour)})
}

// Only the installation's owners open what is private: it belongs to the machine, not to a tenant.
func TestPrivateEgress(t *testing.T) {
	b := open(t)
	operator := b.enrol()
	at, project := b.org(operator, "acme")
	owner := b.invite(operator, at, bulwark.Owner)
	app := bulwark.NewAppID()
	b.must(owner, statement.KindAppCreate, app, statement.AppCreate{Name: "shop", Project: project})
	private := func() bool {
		rules, err := b.Egress(b.ctx(), app)
		ok(t, err)
		return len(rules) == 1 && rules[0].Private
	}
	b.must(owner, statement.KindEgressAllow, app, statement.Egress{Rule: "10.0.0.5:5432"})
	if private() {
		t.Error("a tenant opened a private destination")
	}
	b.must(operator, statement.KindEgressAllow, app, statement.Egress{Rule: "10.0.0.5:5432"})
	if !private() {
		t.Error("the operator could not")
	}
	b.must(owner, statement.KindEgressAllow, app, statement.Egress{Rule: "10.0.0.5:5432"})
	if !private() {
		t.Error("the tenant took back what the operator opened")
	}
}

// The operator's one-time token is good for a day, and a clock that is set back does not revive it.
func TestTokenLife(t *testing.T) {
	b := open(t)
	secret := []byte("twenty bytes, or more")
	p := &person{device: newKey(t), ssh: newSSH(t)}
	ok(t, b.AddToken(b.ctx(), secret))
	b.clock = b.clock.Add(25 * time.Hour)
	_, err := b.Enroll(b.ctx(), b.enrolment(p, secret))
	isKind(t, err, bulwark.KindForbidden)
	ok(t, b.Expire(b.ctx()))
	b.clock = b.clock.Add(-25 * time.Hour)
	_, err = b.Enroll(b.ctx(), b.enrolment(p, secret))
	isKind(t, err, bulwark.KindForbidden)
	ok(t, b.AddToken(b.ctx(), secret))
	_, err = b.Enroll(b.ctx(), b.enrolment(p, secret))
	ok(t, err)
}

// One tenant cannot use up what all have: ids of apps, which are never given twice, the list of projects' keys, the ledger's disk.
func TestBounds(t *testing.T) {
	b := open(t)
	operator := b.enrol()
	at, project := b.org(operator, "acme")
	owner := b.invite(operator, at, bulwark.Owner)
	for i := range 49 {
		b.must(owner, statement.KindProjectCreate, "", statement.ProjectCreate{Project: bulwark.NewProjectID(), Org: at.Org, Name: bulwark.ProjectName(fmt.Sprintf("p%d", i))})
	}
	b.refused(owner, bulwark.KindTooLarge, statement.KindProjectCreate, "", statement.ProjectCreate{Project: bulwark.NewProjectID(), Org: at.Org, Name: "more"})
	for i := range 250 {
		id := bulwark.NewAppID()
		name := bulwark.AppName(fmt.Sprintf("a%d", i))
		b.must(owner, statement.KindAppCreate, id, statement.AppCreate{Name: name, Project: project})
		b.must(owner, statement.KindAppDestroy, id, statement.AppDestroy{Name: name})
	}
	b.refused(owner, bulwark.KindTooLarge, statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "more", Project: project})
	b.app(operator, "elsewhere")
	b.refused(owner, bulwark.KindTooLarge, statement.KindKeyAdd, "", statement.KeyAdd{SSH: &statement.SSHKey{Line: line(newSSH(t)) + " " + strings.Repeat("x", 64<<10)}})
	b.must(operator, statement.KindMemberRemove, "", statement.MemberRemove{Place: at, Person: owner.id})
	b.refused(owner, bulwark.KindForbidden, statement.KindKeyAdd, "", b.addSSH(owner, newSSH(t)))
}
