package inspect

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// chain is what the node accepted, while the entries are compared with it.
type chain struct {
	after  statement.ChainRef // from where it is read
	seen   statement.ChainRef // the newest place that this machine knows of
	head   statement.ChainHead
	links  map[uint64]Waiting // that no entry has told of yet
	newest time.Time
}

func newChain(st State, seen statement.ChainRef) chain {
	c := chain{after: st.Chain, seen: seen, links: map[uint64]Waiting{}, newest: st.Newest}
	for _, w := range st.Waiting {
		c.links[w.Seq] = w
	}
	return c
}

// readChain reads the node's chain to its end.
func (in *inspection) readChain(ctx context.Context) error {
	c := &in.chain
	if c.after.Seq == 0 {
		c.after = statement.ChainStart(in.keys.Node.Fingerprint)
	}
	at := c.after
	for {
		links, signed, err := in.src.Chain(ctx, at.Seq)
		if err != nil {
			return err
		}
		c.head = statement.ChainHead{} // a field that is left out is not the one before
		if err := statement.Open(signed, statement.ChainPayloadType, in.keys.Node, &c.head); err != nil || c.head.Node != in.keys.Node.Fingerprint {
			in.report.found("What the node accepted cannot be told: its word on its chain was not signed by it.")
			return nil
		}
		for _, b := range links {
			if at, err = at.Next(b); err != nil {
				return err
			}
			var link statement.Link
			if err := statement.Strict(b, &link); err != nil || link.Seq != at.Seq {
				in.report.found("Link %d of the node's chain is none.", at.Seq)
				return nil
			}
			if at.Seq == c.seen.Seq && at != c.seen {
				in.report.found("Link %d of the node's chain is another than this machine saw.", at.Seq)
			}
			c.links[at.Seq] = Waiting{ChainRef: at, Link: link}
		}
		if at.Seq >= c.head.Seq || len(links) == 0 {
			break
		}
	}
	in.report.Accepted = c.head.Seq
	if now := in.o.Now; !now.IsZero() && now.Sub(c.head.Time).Abs() > grace {
		in.report.found("The node's word on its chain is of %s, which is not now: an old state is shown, or one of the clocks is wrong.", c.head.Time.Format(time.RFC3339))
	}
	switch {
	case c.head.Seq < c.seen.Seq:
		in.report.found("The node accepted %d documents; this machine saw %d: an older state of the node was put back.", c.head.Seq, c.seen.Seq)
	case at != c.head.Ref():
		in.report.found("The links of the node's chain are not those that it signed for: one is missing, moved or changed.")
	}
	return nil
}

// entry compares an entry with the chain.
func (c *chain) entry(report *Report, at uint64, r audit.Record) {
	if r.Outcome == audit.Recorded {
		report.Late++
	}
	if r.Chain == nil {
		// What is asked for, refused or failed is the server's word; that it was done is the node's.
		if (r.Outcome == audit.Accepted || r.Outcome == audit.Done) && slices.Contains(statement.Kinds(), statement.Kind(r.Action)) {
			report.found("Entry %d says that %s was %s, which somebody signs for, and names nothing that the node accepted.", at, r.Action, r.Outcome)
		}
		return
	}
	w, ok := c.links[r.Chain.Seq]
	switch {
	case !ok && r.Chain.Seq <= c.head.Seq:
		report.found("Entry %d is about a document that another entry tells of already.", at)
		return
	case !ok:
		report.found("Entry %d says that the node accepted a document, and it did not.", at)
		return
	}
	delete(c.links, w.Seq)
	if w.Hash != r.Chain.Hash || w.Link.Document != r.Document || w.Link.Person != r.Actor || w.Link.Key != r.Key || !c.means(w.Link.Kind, r.Action) {
		report.found("Entry %d says %s by %s with %s about %s, and what the node accepted there is %s by %s with %s, %s.", at, r.Action, r.Actor, r.Key, r.Document,
			w.Link.Kind, w.Link.Person, w.Link.Key, w.Link.Document)
	}
	if r.Outcome == audit.Recorded {
		return // it says itself that it is late
	}
	if w.Link.Time.Add(grace).Before(c.newest) {
		report.found("Entry %d stands behind entries about what the node accepted long after it.", at)
	}
	if w.Link.Time.After(c.newest) {
		c.newest = w.Link.Time
	}
}

// means reports whether an action is what a kind of document asks for: a push and a deploy are one action.
func (c *chain) means(kind statement.Kind, action string) bool {
	return action == string(kind) || kind == statement.KindPush && action == string(statement.KindDeploy)
}

// waiting returns the links that no entry tells of, in their order.
func (c *chain) waiting() []Waiting {
	return slices.SortedFunc(maps.Values(c.links), func(a, b Waiting) int { return cmp.Compare(a.Seq, b.Seq) })
}

// whose names who signed what the node accepted, for people.
func whose(l statement.Link) string {
	if l.Person == "" {
		return "the node itself"
	}
	return string(l.Person)
}

// end looks at what the node accepted and the log does not tell of.
func (c *chain) end(report *Report) {
	for _, w := range c.waiting() {
		if c.head.Time.Sub(w.Link.Time) > grace {
			report.found("There is no entry about %s by %s, which the node accepted on %s.", w.Link.Kind, whose(w.Link), w.Link.Time.Format(time.RFC3339))
		}
	}
}
