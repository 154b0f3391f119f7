package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The states of a link.
const (
	linkHolds   = "holds"   // verified on this machine
	linkVouched = "vouched" // not verifiable here: the node, whose signature holds, says so
	linkBroken  = "broken"
)

// link is one step of the way from a person's signature to what runs.
type link struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Detail string `json:"detail"`
}

// evidence is all that verifying an app takes. Node and Challenge are this machine's own; the rest came from the server,
// which is not believed.
type evidence struct {
	app       bulwark.AppName
	challenge string
	node      statement.Key
	device    ed25519.PublicKey // this machine's, to verify statements that were signed here
	proof     client.Proof
}

// chain is what was found out.
type chain struct {
	Release uint64         `json:"release,omitempty"`
	Commit  bulwark.Commit `json:"commit,omitempty"`
	Image   bulwark.Digest `json:"image,omitempty"`
	Links   []link         `json:"links"`
	others  int            // broken links that are instances of another release
}

// changing reports whether all that does not hold are instances of another release: they may be on their way out.
func (c *chain) changing() bool {
	broken := 0
	for _, l := range c.Links {
		if l.State == linkBroken {
			broken++
		}
	}
	return broken > 0 && broken == c.others
}

// holds reports whether no link is broken.
func (c *chain) holds() bool {
	for _, l := range c.Links {
		if l.State == linkBroken {
			return false
		}
	}
	return len(c.Links) > 0
}

// add notes a link: err breaks it.
func (c *chain) add(name, state, detail string, err error) {
	if err != nil {
		state, detail = linkBroken, reason(err)
	}
	c.Links = append(c.Links, link{name, state, detail})
}

// reason says what is wrong in one line.
func reason(err error) string {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		if e.Cause != nil {
			return e.Message + " (" + e.Cause.Error() + ")"
		}
		return e.Message
	}
	return err.Error()
}

// verifyChain follows the evidence from what a person signed to what runs, link by link. It does no input or output.
// Each link is checked by itself, so that the one that is broken shows; at the end statement.OpenRelease, by which the
// node itself judges, has the last word.
func verifyChain(e evidence) *chain {
	out := &chain{}
	var r statement.Release
	var p statement.Provenance
	b := e.proof.Bundle
	releaseErr := statement.Open(b.Release, statement.ReleasePayloadType, e.node, &r)
	provenanceErr := statement.Open(b.Provenance, statement.ProvenancePayloadType, e.node, &p)
	origin := b.Origin
	if origin == nil {
		origin = b.Cause
	}
	built := p.Predicate.BuildDefinition.ExternalParameters.Cause
	signed := e.person(out, "signature", origin, built, &r, provenanceErr)
	e.source(out, signed, &p, provenanceErr)
	e.builder(out, &p, &r, provenanceErr)
	e.image(out, &p, &r, provenanceErr, releaseErr)
	if b.Origin != nil {
		e.person(out, "release signature", b.Cause, r.Cause, &r, releaseErr)
	}
	e.release(out, &r, releaseErr)
	e.approvals(out, &r, releaseErr)
	e.running(out, &r, releaseErr)
	if releaseErr == nil {
		out.Release, out.Image = r.Generation, r.Image
	}
	return out
}

// source checks that what was built is what was signed.
func (e evidence) source(out *chain, signed document, p *statement.Provenance, nodeErr error) {
	const name = "source"
	if nodeErr != nil || signed == (document{}) {
		out.add(name, "", "", fmt.Errorf("it cannot be followed: there is no signature to follow it from"))
		return
	}
	measured := map[string]string{}
	for _, d := range p.Predicate.BuildDefinition.ResolvedDependencies {
		for kind, digest := range d.Digest {
			if _, twice := measured[kind]; !twice { // the source comes first
				measured[kind] = digest
			}
		}
	}
	if signed.push != nil {
		var err error
		if got := measured["gitCommit"]; got != string(signed.push.New) {
			err = fmt.Errorf("the node built commit %s, and %s was signed", orNone(got), signed.push.New)
		} else {
			out.Commit = signed.push.New
		}
		out.add(name, linkHolds, fmt.Sprintf("commit %s", signed.push.New), err)
		return
	}
	var d statement.Deploy
	if err := signed.stmt.Decode(&d); err != nil || signed.stmt.Kind != statement.KindDeploy {
		out.add(name, "", "", fmt.Errorf("what was signed deploys nothing"))
		return
	}
	detail, kind := "folder "+d.Source(), statement.BuildType
	if d.Image != "" {
		detail, kind = "image archive "+d.Source()+", imported: it was not built here", statement.ImportType
	}
	err := d.Check()
	for digest, want := range d.Material().Digest {
		if err == nil && measured[digest] != want {
			err = fmt.Errorf("the node used another source than the %s that was signed", d.Source())
		}
	}
	if got := p.Predicate.BuildDefinition.BuildType; err == nil && got != kind {
		err = fmt.Errorf("the provenance is of the type %s, not %s", got, kind)
	}
	out.add(name, linkHolds, detail, err)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// builder checks the provenance: the node's word on what was built, where.
func (e evidence) builder(out *chain, p *statement.Provenance, r *statement.Release, nodeErr error) {
	ext := p.Predicate.BuildDefinition.ExternalParameters
	run := p.Predicate.RunDetails
	err := nodeErr
	switch {
	case err != nil:
	case p.Type != statement.InTotoType || p.PredicateType != statement.SLSAType:
		err = fmt.Errorf("it is no provenance")
	case ext.Node != e.node.Fingerprint:
		err = fmt.Errorf("it was built for another installation")
	case ext.App != r.App:
		err = fmt.Errorf("it was built for another app")
	}
	out.add("builder", linkHolds, fmt.Sprintf("%s, run %s, signed by the node", run.Builder.ID, run.Metadata.InvocationID), err)
	for _, d := range p.Predicate.BuildDefinition.ResolvedDependencies {
		if ref, ok := strings.CutPrefix(d.URI, "docker-image://"); ok && err == nil {
			out.add("built from", linkVouched, fmt.Sprintf("%s, sha256:%s: the builder says so, to the node", ref, d.Digest["sha256"]), nil)
		}
	}
}

// image checks that what came out of the build is what the release runs.
func (e evidence) image(out *chain, p *statement.Provenance, r *statement.Release, provenanceErr, releaseErr error) {
	var err error
	switch {
	case provenanceErr != nil || releaseErr != nil:
		err = fmt.Errorf("it cannot be followed: the node's own document does not hold")
	case len(p.Subject) != 1:
		err = fmt.Errorf("the provenance names %d images", len(p.Subject))
	case p.Subject[0].Digest["sha256"] != r.Image.Hex():
		err = fmt.Errorf("the build made another image than the release runs")
	case bulwark.Sum(e.proof.Bundle.Provenance) != r.Provenance:
		err = fmt.Errorf("the release names another provenance")
	}
	out.add("image", linkHolds, string(r.Image), err)
}

// release checks the release statement, and everything that it names once more as the node itself does.
func (e evidence) release(out *chain, r *statement.Release, err error) {
	if err == nil {
		_, _, err = statement.OpenRelease(e.proof.Bundle, e.node)
	}
	switch {
	case err != nil:
	case r.Node != e.node.Fingerprint:
		err = fmt.Errorf("it is of another installation")
	case r.Name != e.app:
		err = fmt.Errorf("it is of the app %s", r.Name)
	}
	out.add("release", linkHolds, fmt.Sprintf("v%d of %s, config revision %d, signed by the node %s", r.Generation, r.Name, r.Config.Revision, e.node.Fingerprint), err)
}

// running checks the node's fresh word on what runs.
func (e evidence) running(out *chain, r *statement.Release, releaseErr error) {
	const name = "running"
	if releaseErr != nil {
		out.add(name, "", "", fmt.Errorf("it cannot be followed: there is no release to compare with"))
		return
	}
	var run statement.Running
	err := statement.Open(e.proof.Running, statement.RunningPayloadType, e.node, &run)
	switch {
	case err != nil:
	case run.Challenge != e.challenge:
		err = fmt.Errorf("the node's answer is not to this question: it may be an old one")
	case run.Node != e.node.Fingerprint || run.App != r.App:
		err = fmt.Errorf("the node's answer is about another app")
	}
	if err != nil || len(run.Instances) == 0 {
		out.add(name, linkHolds, "nothing runs now", err)
		return
	}
	want := bulwark.Sum(e.proof.Bundle.Release)
	for _, i := range run.Instances {
		err = nil
		switch {
		case i.Once && i.Generation < r.Generation:
			out.add(name, linkVouched, fmt.Sprintf("%s (%s) runs once and began with v%d, which was then the newest", i.Instance, i.Process, i.Generation), nil)
			continue
		case i.Release != want || i.Generation != r.Generation:
			err = fmt.Errorf("%s of %s runs release v%d, not the v%d that was verified; if a deploy is under way, verify again after it",
				i.Instance, i.Process, i.Generation, r.Generation)
			if i.Generation != r.Generation {
				out.others++
			}
		case i.Image != r.Image:
			err = fmt.Errorf("%s of %s runs the image %s", i.Instance, i.Process, i.Image)
		}
		out.add(name, linkHolds, fmt.Sprintf("%s (%s) runs v%d", i.Instance, i.Process, i.Generation), err)
	}
}
