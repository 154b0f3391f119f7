package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// chained is a node with a chain and nothing else.
type chained struct {
	links [][]byte
	refs  []statement.ChainRef
}

// acts has the node do something by itself.
func (c *chained) acts(at time.Time) {
	ref := c.refs[len(c.refs)-1]
	l := statement.Link{Version: 1, Seq: ref.Seq + 1, Time: at, Kind: statement.KindProjectRotate, Key: "SHA256:node", Document: bulwark.Sum([]byte{byte(len(c.links))})}
	b, _ := l.Encode()
	ref, _ = ref.Next(b)
	c.links, c.refs = append(c.links, b), append(c.refs, ref)
}

func (c *chained) accept(at time.Time) *nodeapi.Receipt {
	ref := statement.ChainStart("SHA256:node")
	if len(c.refs) > 0 {
		ref = c.refs[len(c.refs)-1]
	}
	l := statement.Link{Version: 1, Seq: ref.Seq + 1, Time: at, Kind: statement.KindAppCreate, Person: ana, Key: "SHA256:ana", Document: bulwark.Sum([]byte{byte(len(c.links))})}
	b, _ := l.Encode()
	ref, _ = ref.Next(b)
	c.links, c.refs = append(c.links, b), append(c.refs, ref)
	return &nodeapi.Receipt{Digest: l.Document, Kind: l.Kind, Person: l.Person, Key: l.Key, Chain: &ref}
}

func (c *chained) Call(_ context.Context, verb string, in, out any) error {
	if verb == "receipt" {
		b, _ := json.Marshal(statement.ProjectRotate{Project: bulwark.FirstProject})
		*out.(*nodeapi.Receipt) = nodeapi.Receipt{Digest: in.(nodeapi.Accepted).Digest, Kind: statement.KindProjectRotate, Rotated: 7, Body: b}
		return nil
	}
	head, _ := json.Marshal(statement.ChainHead{Node: "SHA256:node", Hash: bulwark.Sum(nil)})
	env, _ := json.Marshal(map[string][]byte{"payload": head})
	after := in.(nodeapi.Chain).After
	*out.(*nodeapi.Links) = nodeapi.Links{Links: c.links[after:], Head: env}
	return nil
}

// What the node accepted and a killed server has no entry of gets one, once, after a while; its late twin is no second.
func TestChainWatch(t *testing.T) {
	d, err := db.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), audit.Migrations())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	node, now := &chained{}, time.Now()
	c := &chainWatch{db: d, node: node, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now }}
	tell := func(r *nodeapi.Receipt) {
		t.Helper()
		if err := d.Tx(t.Context(), func(tx *sql.Tx) error {
			return audit.Write(t.Context(), tx, accepted(r, audit.Entry{Resource: "platform", Outcome: audit.Done}))
		}); err != nil {
			t.Fatal(err)
		}
	}
	look := func(recorded, all int) {
		t.Helper()
		if err := c.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := audit.List(t.Context(), d.Reader(), audit.Query{Most: 100})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, r := range list {
			if r.Outcome == audit.Recorded {
				n++
				if *r.Chain != audit.Place(node.refs[r.Chain.Seq-1]) || r.Actor != ana {
					t.Errorf("it says %+v", r)
				}
			}
		}
		if n != recorded || len(list) != all {
			t.Errorf("%d of %d entries were recorded late, not %d of %d", n, len(list), recorded, all)
		}
	}
	look(0, 0)
	tell(node.accept(now))
	lost := node.accept(now)
	tell(node.accept(now))
	look(0, 2) // it may still come
	now = now.Add(2 * time.Minute)
	look(1, 3)
	look(1, 3)
	tell(lost) // it came, after all
	look(1, 4)
	if told, err := audit.Tells(t.Context(), d.Reader(), lost.Chain.Seq); err != nil || !told {
		t.Error(err)
	}
	node.accept(now.Add(-time.Hour))
	look(2, 5)

	// What the node did by itself nobody else writes about, so there is nothing to wait for.
	node.acts(now)
	for range 2 {
		if err := c.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	list, err := audit.List(t.Context(), d.Reader(), audit.Query{Most: 1})
	if err != nil {
		t.Fatal(err)
	}
	e := list[0]
	if e.Actor != "" || e.Key != "SHA256:node" || e.Action != "project.rotate" || e.Outcome != audit.Done || e.Resource != "project:"+string(bulwark.FirstProject) || e.Project != bulwark.FirstProject ||
		e.Detail != "by its age, version 7 of its key" || *e.Chain != audit.Place(node.refs[len(node.refs)-1]) {
		t.Errorf("it says %+v", e)
	}
	if list, err = audit.List(t.Context(), d.Reader(), audit.Query{Most: 100}); err != nil || len(list) != 6 {
		t.Errorf("there are %d entries, %v", len(list), err)
	}
}
