package main

import (
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// approval is what an approver signed, before it is signed.
type forgedApproval struct {
	person     bulwark.PersonID
	kind       statement.Kind
	app        bulwark.AppID
	node       string
	generation uint64
	release    bulwark.Digest
}

// approvedBy has the release approved; the device of the forge signs for all, spoil changes what one signs.
func (f *forge) approvedBy(t *testing.T, needed int, people []bulwark.PersonID, spoil func(*forgedApproval)) evidence {
	t.Helper()
	e := f.sign(t) // for the release's digest
	f.running.Approved = &statement.Approved{Generation: f.release.Generation, Needed: needed}
	for _, p := range people {
		a := forgedApproval{p, statement.KindApprove, f.release.App, f.release.Node, f.release.Generation, bulwark.Sum(e.proof.Bundle.Release)}
		if spoil != nil {
			spoil(&a)
		}
		st, err := statement.New(a.node, a.kind, a.app, statement.Approve{Generation: a.generation, Release: a.release}, time.Unix(1700000000, 0))
		if err != nil {
			t.Fatal(err)
		}
		env, err := statement.Seal(statement.PayloadType, st, f.device)
		if err != nil {
			t.Fatal(err)
		}
		e.proof.Approvals = append(e.proof.Approvals, env)
		f.running.Approved.By = append(f.running.Approved.By, statement.Cause{Kind: statement.KindApprove, Person: a.person,
			Key: statement.NewKey(e.device).Fingerprint, Digest: bulwark.Sum(env)})
	}
	var err error
	if e.proof.Running, err = statement.Seal(statement.RunningPayloadType, f.running, f.answerKey); err != nil {
		t.Fatal(err)
	}
	if f.last != nil {
		f.last(&e.proof)
	}
	return e
}

// Who approved a release is a link of the chain: each breaks by itself.
func TestChainOfApprovals(t *testing.T) {
	ben, cem := bulwark.NewPersonID(), bulwark.NewPersonID()
	both := []bulwark.PersonID{ben, cem}
	for name, c := range map[string]struct {
		needed int
		people []bulwark.PersonID
		spoil  func(*forge, *forgedApproval)
		last   func(*client.Proof)
		want   string
	}{
		"one approved":                 {needed: 1, people: both[:1], want: linkHolds},
		"two did":                      {needed: 2, people: both, want: linkHolds},
		"nobody had to":                {want: linkVouched},
		"one did, and two had to":      {needed: 2, people: both[:1], want: linkBroken},
		"one did twice":                {needed: 2, people: []bulwark.PersonID{ben, ben}, want: linkBroken},
		"what they signed is withheld": {needed: 1, people: both[:1], last: func(p *client.Proof) { p.Approvals = nil }, want: linkBroken},
		"another release's number":     {needed: 1, people: both[:1], spoil: func(_ *forge, a *forgedApproval) { a.generation++ }, want: linkBroken},
		"another release's digest":     {needed: 1, people: both[:1], spoil: func(_ *forge, a *forgedApproval) { a.release = bulwark.Sum(nil) }, want: linkBroken},
		"for another app":              {needed: 1, people: both[:1], spoil: func(_ *forge, a *forgedApproval) { a.app = bulwark.NewAppID() }, want: linkBroken},
		"for another installation":     {needed: 1, people: both[:1], spoil: func(_ *forge, a *forgedApproval) { a.node = "SHA256:x" }, want: linkBroken},
		"something else":               {needed: 1, people: both[:1], spoil: func(_ *forge, a *forgedApproval) { a.kind = statement.KindProtectApprove }, want: linkBroken},
		"by who brought it about":      {needed: 1, people: both[:1], spoil: func(f *forge, a *forgedApproval) { a.person = f.release.Cause.Person }, want: linkBroken},
	} {
		f := newForge(t)
		f.last = c.last
		e := f.approvedBy(t, c.needed, c.people, func(a *forgedApproval) {
			if c.spoil != nil {
				c.spoil(f, a)
			}
		})
		got := verifyChain(e)
		if state(got, "approval") != c.want || got.holds() != (c.want != linkBroken) {
			t.Errorf("%s: %+v", name, got.Links)
		}
	}
	// The server cannot leave out that somebody had to: it is in the node's signed answer.
	f := newForge(t)
	e := f.approvedBy(t, 1, nil, nil)
	if c := verifyChain(e); c.holds() {
		t.Errorf("nobody approved: %+v", c.Links)
	}
}
