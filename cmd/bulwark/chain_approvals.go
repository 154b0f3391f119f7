package main

import (
	"fmt"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// approvals checks who approved the release. That it took approvals, how many, and that who gave them could, is the node's word,
// in the same signed answer as what runs: the server cannot leave it out. What each of them signed is checked here.
func (e evidence) approvals(out *chain, r *statement.Release, releaseErr error) {
	const name = "approval"
	var run statement.Running
	if releaseErr != nil || statement.Open(e.proof.Running, statement.RunningPayloadType, e.node, &run) != nil || run.Approved == nil {
		return // the links that say what is wrong are broken, or nobody had to approve
	}
	a := run.Approved
	switch {
	case a.Generation != r.Generation:
		out.others++ // a deploy is under way
		out.add(name, "", "", fmt.Errorf("release v%d was promoted meanwhile", a.Generation))
		return
	case a.Needed == 0:
		out.add(name, linkVouched, fmt.Sprintf("v%d took none: it was promoted before the app was protected, the node says", r.Generation), nil)
		return
	}
	documents := map[bulwark.Digest][]byte{}
	for _, d := range e.proof.Approvals {
		documents[bulwark.Sum(d)] = d
	}
	people := map[bulwark.PersonID]bool{r.Cause.Person: true}
	for _, by := range a.By {
		raw, ok := documents[by.Digest]
		var err error
		switch {
		case !ok:
			err = fmt.Errorf("what %s signed is not here", by.Person)
		case people[by.Person]:
			err = fmt.Errorf("%s is not another person", by.Person)
		}
		people[by.Person] = true
		if err != nil {
			out.add(name, "", "", err)
			continue
		}
		e.approval(out, name, raw, by, r)
	}
	if len(a.By) < a.Needed {
		out.add(name, "", "", fmt.Errorf("%s approved it, and %d had to", counted(len(a.By), "person"), a.Needed))
	}
}

// approval checks one person's statement.
func (e evidence) approval(out *chain, name string, raw []byte, by statement.Cause, r *statement.Release) {
	var b statement.Approve
	signed := e.stated(&chain{}, name, raw, by, r)
	var err error
	switch {
	case signed.stmt == nil:
		e.stated(out, name, raw, by, r) // which says what is wrong
		return
	case by.Kind != statement.KindApprove || signed.stmt.Kind != statement.KindApprove:
		err = fmt.Errorf("what %s signed approves nothing", by.Person)
	default:
		err = signed.stmt.Decode(&b)
	}
	if err == nil && (b.Generation != r.Generation || b.Release != bulwark.Sum(e.proof.Bundle.Release)) {
		err = fmt.Errorf("what %s approved is another release", by.Person)
	}
	if err != nil {
		out.add(name, "", "", err)
		return
	}
	e.stated(out, name, raw, by, r)
}
