package ledger_test

import (
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// guarded is an app that others have to approve releases of: Ana owns it, Ben and Cem deploy to it.
type guarded struct {
	*book
	ana, ben, cem *person
	shop          bulwark.AppID
}

func guard(t *testing.T, approvals int) *guarded {
	b := open(t)
	g := &guarded{book: b, ana: b.enrol()}
	g.ben, g.cem = b.invite(g.ana, first(), bulwark.Developer), b.invite(g.ana, first(), bulwark.Developer)
	g.shop = b.app(g.ana, "shop")
	r := b.must(g.ana, statement.KindProtect, g.shop, statement.Protect{Approvals: approvals})
	if r.Protection == nil || r.Protection.Approvals != approvals || r.Protection.Asked != nil {
		t.Fatalf("the protection is %+v", r.Protection)
	}
	return g
}

// candidate has a push of p's made a release.
func (g *guarded) candidate(p *person) (*statement.Bundle, *statement.Release) {
	g.t.Helper()
	r := g.pushed(p, g.shop, "shop")
	g.built(r, "shop")
	return g.released(r)
}

func (g *guarded) released(r *ledger.Receipt) (*statement.Bundle, *statement.Release) {
	g.t.Helper()
	b, rel, err := g.Release(g.ctx(), r.Digest)
	ok(g.t, err)
	return b, rel
}

func approval(b *statement.Bundle, r *statement.Release) statement.Approve {
	return statement.Approve{Generation: r.Generation, Release: bulwark.Sum(b.Release)}
}

// waits holds that a release neither starts nor is promoted, and how many approvals it lacks.
func (g *guarded) waits(b *statement.Bundle, r *statement.Release, missing int) {
	g.t.Helper()
	_, err := g.launches(b)
	isKind(g.t, err, bulwark.KindForbidden)
	isKind(g.t, g.Promote(g.ctx(), g.shop, r.Generation), bulwark.KindForbidden)
	if got, _, err := g.Approvals(g.ctx(), g.shop, r.Generation); err != nil || got != missing {
		g.t.Fatalf("v%d lacks %d approvals (%v), want %d", r.Generation, got, err, missing)
	}
}

// runs holds that it starts and is promoted.
func (g *guarded) runs(b *statement.Bundle, r *statement.Release) {
	g.t.Helper()
	_, err := g.launches(b)
	ok(g.t, err)
	ok(g.t, g.Promote(g.ctx(), g.shop, r.Generation))
	_, err = g.launches(b)
	ok(g.t, err)
}

// Nothing of a release runs before somebody else who may deploy has approved it; who that is not, in every way, is refused.
func TestApprovalBySecondPerson(t *testing.T) {
	g := guard(t, 1)
	viewer, auditor := g.invite(g.ana, first(), bulwark.Viewer), g.invite(g.ana, first(), bulwark.Auditor)
	at, _ := g.org(g.ana, "acme")
	stranger := g.invite(g.ana, at, bulwark.Owner)
	bensToken, _ := g.token(g.ben, statement.Scope{Do: bulwark.DeedDeploy, App: g.shop})
	anasToken, _ := g.token(g.ana, statement.Scope{Do: bulwark.DeedDeploy, App: g.shop})
	b, r := g.candidate(g.ana)
	g.waits(b, r, 1)

	yes := approval(b, r)
	for name, c := range map[string]struct {
		who  *person
		want bulwark.Kind
	}{
		"who brought it about":  {g.ana, bulwark.KindForbidden},
		"a token of theirs":     {anasToken, bulwark.KindForbidden},
		"another person's":      {bensToken, bulwark.KindForbidden},
		"a viewer":              {viewer, bulwark.KindForbidden},
		"an auditor":            {auditor, bulwark.KindForbidden},
		"another tenant's":      {stranger, bulwark.KindNotFound},
		"nobody that is known":  {&person{device: newKey(t)}, bulwark.KindForbidden},
		"another key of theirs": {g.secondKey(g.ana), bulwark.KindForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := g.Submit(g.ctx(), g.sign(c.who.device, statement.KindApprove, g.shop, yes))
			isKind(t, err, c.want)
		})
	}
	g.waits(b, r, 1)
	g.must(g.ben, statement.KindApprove, g.shop, yes)
	g.runs(b, r)

	// What was promoted stays so, whoever leaves.
	g.must(g.ana, statement.KindMemberRemove, "", statement.MemberRemove{Place: first(), Person: g.ben.id})
	_, err := g.launches(b)
	ok(t, err)
	ok(t, g.Promote(g.ctx(), g.shop, r.Generation))
	by, err := g.Approved(g.ctx(), g.shop)
	ok(t, err)
	if by.Generation != 1 || by.Needed != 1 || len(by.By) != 1 || by.By[0].Person != g.ben.id || by.By[0].Kind != statement.KindApprove {
		t.Errorf("the node says %+v", by)
	}
	if _, documents, err := g.Approvals(g.ctx(), g.shop, 1); err != nil || len(documents) != 1 || bulwark.Sum(documents[0]) != by.By[0].Digest {
		t.Errorf("%d documents, %v", len(documents), err)
	}
	// It runs, and a command in it needs nobody.
	_, _, _, err = g.Run(g.ctx(), g.sign(g.ana.device, statement.KindRun, g.shop, statement.Run{Argv: []string{"ls"}, Detach: true}))
	ok(t, err)
}

// secondKey is another device of the same person's.
func (g *guarded) secondKey(p *person) *person {
	k := newKey(g.t)
	g.must(p, statement.KindKeyAdd, "", g.addDevice(p, k))
	return &person{id: p.id, device: k, ssh: p.ssh}
}

// An approval is of one release of one app: it cannot be played again for another, and what is newer takes the place of what
// waits.
func TestApprovalIsOfOneRelease(t *testing.T) {
	g := guard(t, 1)
	blog := g.app(g.ana, "blog")
	b1, r1 := g.candidate(g.ana)
	envelope := g.sign(g.ben.device, statement.KindApprove, g.shop, approval(b1, r1))
	_, err := g.Submit(g.ctx(), envelope)
	ok(t, err)
	b2, r2 := g.candidate(g.ana)
	g.waits(b2, r2, 1)
	_, err = g.launches(b1)
	isKind(t, err, bulwark.KindForbidden) // not the newest any more
	_, err = g.Submit(g.ctx(), envelope)  // the same document again: the same receipt, and nothing happens
	ok(t, err)
	g.waits(b2, r2, 1)

	for name, c := range map[string]struct {
		app  bulwark.AppID
		body statement.Approve
		want bulwark.Kind
	}{
		"an older release":                {g.shop, approval(b1, r1), bulwark.KindConflict},
		"the older one's digest":          {g.shop, statement.Approve{Generation: 2, Release: bulwark.Sum(b1.Release)}, bulwark.KindForbidden},
		"the older one's number":          {g.shop, statement.Approve{Generation: 1, Release: bulwark.Sum(b2.Release)}, bulwark.KindForbidden},
		"a release that is not yet":       {g.shop, statement.Approve{Generation: 3, Release: bulwark.Sum(b2.Release)}, bulwark.KindNotFound},
		"no digest":                       {g.shop, statement.Approve{Generation: 2}, bulwark.KindInvalid},
		"another app's":                   {blog, approval(b2, r2), bulwark.KindNotFound},
		"an app that has not been before": {bulwark.NewAppID(), approval(b2, r2), bulwark.KindNotFound},
	} {
		t.Run(name, func(t *testing.T) { g.refused(g.ben, c.want, statement.KindApprove, c.app, c.body) })
	}
	g.must(g.ben, statement.KindApprove, g.shop, approval(b2, r2))
	g.runs(b2, r2)
	g.refused(g.cem, bulwark.KindConflict, statement.KindApprove, g.shop, approval(b2, r2)) // it serves

	// Each release anew: also one of the same image, or of another config.
	b3, r3 := g.released(g.must(g.ana, statement.KindRollback, g.shop, statement.Rollback{To: 1}))
	g.waits(b3, r3, 1)
	b4, r4 := g.released(g.set(g.ana, g.shop, 0, "A", "b"))
	g.waits(b4, r4, 1)
	_, err = g.launches(b2) // what serves goes on
	ok(t, err)
	g.must(g.cem, statement.KindApprove, g.shop, approval(b4, r4))
	g.runs(b4, r4)

	// An app that is not protected has nothing to approve.
	p := g.pushed(g.ana, blog, "blog")
	g.built(p, "blog")
	b, r, err := g.Release(g.ctx(), p.Digest)
	ok(t, err)
	g.refused(g.ben, bulwark.KindConflict, statement.KindApprove, blog, approval(b, r))
	ok(t, g.Promote(g.ctx(), blog, 1))
}

// What counts is what holds when the release is promoted: a right that was lost, or a key that was taken away, counts no more.
func TestApprovalsThatCountNoMore(t *testing.T) {
	g := guard(t, 1)
	b, r := g.candidate(g.ana)
	yes := approval(b, r)
	g.must(g.ben, statement.KindApprove, g.shop, yes)
	_, err := g.launches(b)
	ok(t, err)
	lowered := statement.MemberSet{Place: first(), Person: g.ben.id, Role: bulwark.Viewer}
	g.must(g.ana, statement.KindMemberSet, "", lowered)
	g.waits(b, r, 1)
	lowered.Role = bulwark.Developer
	g.must(g.ana, statement.KindMemberSet, "", lowered)
	g.must(g.ana, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(g.ben.device)})
	g.waits(b, r, 1)
	g.refused(g.ben, bulwark.KindForbidden, statement.KindApprove, g.shop, yes)

	// Cem's key was stolen; he approves with his other one, and the first approval's end does no harm.
	other := g.secondKey(g.cem)
	g.must(g.cem, statement.KindApprove, g.shop, yes)
	g.must(other, statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint(g.cem.device)})
	g.waits(b, r, 1)
	g.must(other, statement.KindApprove, g.shop, yes)
	g.runs(b, r)
}

// Two approvals are two people's.
func TestDistinctPeople(t *testing.T) {
	g := guard(t, 2)
	b, r := g.candidate(g.ben)
	g.waits(b, r, 2)
	g.must(g.ana, statement.KindApprove, g.shop, approval(b, r))
	g.must(g.ana, statement.KindApprove, g.shop, approval(b, r))
	g.must(g.secondKey(g.ana), statement.KindApprove, g.shop, approval(b, r))
	g.waits(b, r, 1)
	g.must(g.cem, statement.KindApprove, g.shop, approval(b, r))
	g.runs(b, r)
}

// An owner's key that was stolen lets a second person in, and a third: they count for nothing, whatever they do together.
func TestWhoWasLetInSinceDoesNotCount(t *testing.T) {
	g := guard(t, 1)
	puppet, second := g.invite(g.ana, first(), bulwark.Developer), g.invite(g.ana, first(), bulwark.Owner)
	b, r := g.candidate(g.ana)
	g.refused(puppet, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
	g.waits(b, r, 1)
	// What they bring about takes one more of those who count.
	b, r = g.candidate(puppet)
	g.waits(b, r, 2)
	g.must(g.ana, statement.KindApprove, g.shop, approval(b, r))
	g.refused(second, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
	g.waits(b, r, 1)
	// Asking for more, which counts at once, lets nobody new count.
	g.must(g.ana, statement.KindProtect, g.shop, statement.Protect{Approvals: 2})
	g.refused(puppet, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
	// Nor a viewer from before who was raised since.
	viewer := g.invite(g.ana, first(), bulwark.Viewer)
	g.must(g.ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: viewer.id, Role: bulwark.Developer})
	g.refused(viewer, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
	// Nor do they take the protection away.
	q := g.must(second, statement.KindProtect, g.shop, statement.Protect{}).Protection.Asked
	if q == nil || q.Missing != 3 {
		t.Fatalf("asked: %+v", q)
	}
	g.refused(puppet, bulwark.KindForbidden, statement.KindProtectApprove, g.shop, statement.ProtectApprove{Request: q.Request})
	g.must(g.ana, statement.KindProtectApprove, g.shop, statement.ProtectApprove{Request: q.Request})
	g.waits(b, r, 2)

	// The protection agreed upon anew, they count.
	q = g.must(g.ana, statement.KindProtect, g.shop, statement.Protect{Approvals: 2}).Protection.Asked
	for _, p := range []*person{g.ben, g.cem} {
		g.must(p, statement.KindProtectApprove, g.shop, statement.ProtectApprove{Request: q.Request, Approvals: 2})
	}
	g.must(second, statement.KindApprove, g.shop, approval(b, r))
	g.runs(b, r)
}

// Root on the machine could write the ledger; who signs in with the token that it makes counts, so that an app whose people
// are gone is not lost.
func TestOperatorsTokenCounts(t *testing.T) {
	g := guard(t, 1)
	for _, p := range []*person{g.ben, g.cem} {
		g.must(g.ana, statement.KindMemberRemove, "", statement.MemberRemove{Place: first(), Person: p.id})
	}
	b, r := g.candidate(g.ana)
	operator := g.enrol()
	g.must(operator, statement.KindApprove, g.shop, approval(b, r))
	g.runs(b, r)
}

// A protection goes away, or down, when as many others have agreed as a release takes: not by one key.
func TestProtectionIsNotOnePersonsToTake(t *testing.T) {
	g := guard(t, 2)
	ask := func(p *person, n int) *statement.Asked {
		t.Helper()
		now := g.must(p, statement.KindProtect, g.shop, statement.Protect{Approvals: n}).Protection
		if now.Approvals != 2 || now.Asked == nil || now.Asked.Person != p.id || now.Asked.Approvals != n {
			t.Fatalf("after asking for %d: %+v", n, now)
		}
		return now.Asked
	}
	g.refused(g.ben, bulwark.KindForbidden, statement.KindProtect, g.shop, statement.Protect{})
	g.refused(g.ana, bulwark.KindInvalid, statement.KindProtect, g.shop, statement.Protect{Approvals: -1})
	g.refused(g.ana, bulwark.KindInvalid, statement.KindProtect, g.shop, statement.Protect{Approvals: 11})
	g.refused(g.ana, bulwark.KindConflict, statement.KindProtect, g.shop, statement.Protect{Approvals: 3}) // then nobody could deploy
	b, r := g.candidate(g.ana)

	old := ask(g.ana, 1)
	q := ask(g.ana, 0)
	yes := statement.ProtectApprove{Request: q.Request}
	bensToken, _ := g.token(g.ben, statement.Scope{Do: bulwark.DeedDeploy, App: g.shop})
	g.refused(g.ana, bulwark.KindForbidden, statement.KindProtectApprove, g.shop, yes)
	g.refused(bensToken, bulwark.KindForbidden, statement.KindProtectApprove, g.shop, yes)
	g.refused(g.invite(g.ana, first(), bulwark.Viewer), bulwark.KindForbidden, statement.KindProtectApprove, g.shop, yes)
	g.refused(g.ben, bulwark.KindConflict, statement.KindProtectApprove, g.shop, statement.ProtectApprove{Request: old.Request, Approvals: 1})
	g.refused(g.ben, bulwark.KindConflict, statement.KindProtectApprove, g.shop, statement.ProtectApprove{Request: q.Request, Approvals: 1})
	now := g.must(g.ben, statement.KindProtectApprove, g.shop, yes).Protection
	if now.Approvals != 2 || now.Asked == nil || now.Asked.Missing != 1 {
		t.Fatalf("after one has agreed: %+v", now)
	}
	g.must(g.ben, statement.KindProtectApprove, g.shop, yes) // again, which is one person's
	g.waits(b, r, 2)
	// Ben agreed and left: his word counts no more.
	g.must(g.ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: g.ben.id, Role: bulwark.Viewer})
	if now = g.must(g.cem, statement.KindProtectApprove, g.shop, yes).Protection; now.Approvals != 2 {
		t.Fatalf("by one who left: %+v", now)
	}
	g.must(g.ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: g.ben.id, Role: bulwark.Developer})
	if now = g.must(g.cem, statement.KindProtectApprove, g.shop, yes).Protection; now.Approvals != 0 || now.Asked != nil {
		t.Fatalf("after both have agreed: %+v", now)
	}
	g.runs(b, r)
	g.refused(g.cem, bulwark.KindNotFound, statement.KindProtectApprove, g.shop, yes)
	g.must(g.ana, statement.KindProtect, g.shop, statement.Protect{}) // it is not
	if by, err := g.Approved(g.ctx(), g.shop); err != nil || by != nil {
		t.Errorf("the node says %+v, %v", by, err)
	}

	// Protected anew, what serves took none.
	g.must(g.ana, statement.KindProtect, g.shop, statement.Protect{Approvals: 1})
	if by, err := g.Approved(g.ctx(), g.shop); err != nil || by == nil || by.Needed != 0 {
		t.Errorf("the node says %+v, %v", by, err)
	}
	// Who asked must be one who may still.
	dan := g.invite(g.ana, first(), bulwark.Owner)
	left := g.must(dan, statement.KindProtect, g.shop, statement.Protect{}).Protection.Asked
	g.must(g.ana, statement.KindMemberSet, "", statement.MemberSet{Place: first(), Person: dan.id, Role: bulwark.Developer})
	g.refused(g.ben, bulwark.KindForbidden, statement.KindProtectApprove, g.shop, statement.ProtectApprove{Request: left.Request})
}

// A protection that nobody could ever satisfy is not taken.
func TestProtectionNeedsPeople(t *testing.T) {
	b := open(t)
	ana := b.enrol()
	shop := b.app(ana, "shop")
	b.refused(ana, bulwark.KindConflict, statement.KindProtect, shop, statement.Protect{Approvals: 1})
	b.invite(ana, first(), bulwark.Viewer)
	b.refused(ana, bulwark.KindConflict, statement.KindProtect, shop, statement.Protect{Approvals: 1})
	b.deployed(ana, shop, "shop")
	b.invite(ana, first(), bulwark.Developer)
	b.must(ana, statement.KindProtect, shop, statement.Protect{Approvals: 1})
}

// Ben changes the config, waits for Ana's push to take it along, and approves that: nobody but he has agreed to his change.
func TestNobodyApprovesTheirOwnPart(t *testing.T) {
	g := guard(t, 1)
	b, r := g.candidate(g.ana)
	g.must(g.ben, statement.KindApprove, g.shop, approval(b, r))
	g.runs(b, r)
	g.released(g.set(g.ben, g.shop, 0, "PAY_TO", "ben"))
	b, r = g.candidate(g.ana)
	if r.Config.Revision != 1 {
		t.Fatalf("revision %d", r.Config.Revision)
	}
	g.refused(g.ben, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
	g.waits(b, r, 1)
	g.must(g.cem, statement.KindApprove, g.shop, approval(b, r))
	g.runs(b, r)
	// Once promoted it is everybody's.
	b, r = g.candidate(g.ana)
	g.must(g.ben, statement.KindApprove, g.shop, approval(b, r))
	g.runs(b, r)

	// Cem changes it again; Ana goes back to an older one, and Ben agrees. That does not make Cem's change agreed upon.
	g.released(g.set(g.cem, g.shop, 1, "PAY_TO", "cem"))
	b, r = g.released(g.must(g.ana, statement.KindRollback, g.shop, statement.Rollback{To: 1, Config: true}))
	if r.Config.Revision != 0 {
		t.Fatalf("revision %d", r.Config.Revision)
	}
	g.must(g.ben, statement.KindApprove, g.shop, approval(b, r))
	g.runs(b, r)
	b, r = g.candidate(g.ana)
	if r.Config.Revision != 2 {
		t.Fatalf("revision %d", r.Config.Revision)
	}
	g.refused(g.cem, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
}

// The same of sizes and build secrets; those last count where there is another image.
func TestNobodyApprovesTheirSizesAndSecrets(t *testing.T) {
	g := guard(t, 1)
	promoted := func(b *statement.Bundle, r *statement.Release, by *person) {
		t.Helper()
		g.must(by, statement.KindApprove, g.shop, approval(b, r))
		g.runs(b, r)
	}
	b, r := g.candidate(g.ana)
	promoted(b, r, g.ben)
	g.must(g.ben, statement.KindBuildSecret, g.shop, statement.ConfigSet{Set: map[bulwark.ConfigName][]byte{"NPM_TOKEN": g.value(g.shop, seal.UseBuild, "NPM_TOKEN", "s")}})
	b, r = g.released(g.set(g.ana, g.shop, 0, "A", "b")) // of the image that serves
	promoted(b, r, g.ben)
	b, r = g.candidate(g.ana)
	g.refused(g.ben, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
	promoted(b, r, g.cem)
	g.must(g.ben, statement.KindResize, g.shop, statement.Resize{Sizes: map[bulwark.ProcessType]bulwark.Size{"web": bulwark.SizeLarge}})
	b, r = g.candidate(g.ana)
	g.refused(g.ben, bulwark.KindForbidden, statement.KindApprove, g.shop, approval(b, r))
	promoted(b, r, g.cem)
}

// A release that was made before the app was protected, and does not serve yet, waits too.
func TestProtectedMeanwhile(t *testing.T) {
	b := open(t)
	g := &guarded{book: b, ana: b.enrol()}
	g.ben, g.shop = b.invite(g.ana, first(), bulwark.Developer), b.app(g.ana, "shop")
	bundle, r := g.candidate(g.ana)
	_, err := g.launches(bundle)
	ok(t, err)
	g.must(g.ana, statement.KindProtect, g.shop, statement.Protect{Approvals: 1})
	g.waits(bundle, r, 1)
	g.must(g.ben, statement.KindApprove, g.shop, approval(bundle, r))
	g.runs(bundle, r)
	g.must(g.ana, statement.KindAppDestroy, g.shop, statement.AppDestroy{Name: "shop"})
	isKind(t, g.Promote(g.ctx(), g.shop, r.Generation), bulwark.KindNotFound)
}
