package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// told writes the entry of a document that the node accepted.
func told(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt, project bulwark.ProjectID, on access.Resource, outcome audit.Outcome, detail string) error {
	return audit.Write(ctx, tx, accepted(r, audit.Entry{Project: project, Resource: on.String(), Outcome: outcome, Detail: detail}))
}

// accepted fills an entry with what the node says about the document.
func accepted(r *nodeapi.Receipt, e audit.Entry) audit.Entry {
	e.Actor, e.Key, e.Action, e.Document = r.Person, r.Key, string(r.Kind), r.Digest
	if r.Chain != nil {
		p := audit.Place(*r.Chain)
		e.Chain = &p
	}
	return e
}

// tookPlace writes the entry that what e asked for was done, with the node's receipt.
func (s *Server) tookPlace(ctx context.Context, e audit.Entry) error {
	var r nodeapi.Receipt
	if err := s.node.Call(ctx, "receipt", nodeapi.Accepted{Digest: e.Document}, &r); err != nil {
		return err
	}
	e.Outcome = audit.Done
	return s.note(ctx, accepted(&r, e))
}

// withOrigin has the entries of a request say where it came from.
func withOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		next.ServeHTTP(w, r.WithContext(audit.WithOrigin(r.Context(), &audit.Origin{From: host})))
	})
}

// record writes what came of a call if nobody else did: each refusal, each failure of a change. A change that left no entry
// has one here, too; that it had none of its own is a fault, which TestEveryChangeIsRecorded finds.
func (s *Server) record(ctx context.Context, c api.Call) error {
	// The entry is written also if who asked went away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), submitTime)
	defer cancel()
	e := audit.Entry{Actor: c.Actor.Person, Key: c.Actor.Key, Action: string(c.Op.Action), Resource: c.Resource.String()}
	kind := bulwark.KindOf(c.Err)
	switch {
	case c.Err == nil && audit.OriginOf(ctx).Wrote():
		return nil
	case c.Err == nil:
		s.log.Error("a change left no audit entry of its own", "operation", c.Op.ID)
		e.Outcome = audit.Done
		return s.note(ctx, e)
	case kind == bulwark.KindNotFound && c.Resource.Kind == access.KindApp && !c.Op.Changes():
		// Another tenant's app and none at all are the same to who asks, and so is the entry.
		e.Outcome = audit.Refused
	case kind != bulwark.KindForbidden && kind != bulwark.KindUnauthorized && !c.Op.Changes():
		return nil // a read that found nothing
	case kind == bulwark.KindInternal || kind == bulwark.KindUnavailable:
		e.Outcome = audit.Failed
	default:
		e.Outcome = audit.Refused
	}
	e.Detail = c.Op.ID + ": " + string(kind)
	if b, ok := errors.AsType[*bulwark.Error](c.Err); ok && e.Outcome == audit.Refused && e.Actor != "" {
		e.Detail = c.Op.ID + ": " + b.Message // of a stranger's it could hold what the stranger sent
	}
	return s.refusals.Note(ctx, e)
}

// signedLog is the node as package translog sees it.
type signedLog struct{ node caller }

// Checkpoint implements translog.Node.
func (n signedLog) Checkpoint(ctx context.Context, size uint64, root []byte, consistency [][]byte) ([]byte, error) {
	var out nodeapi.Checkpointed
	err := n.node.Call(ctx, "checkpoint", nodeapi.Checkpoint{Size: size, Root: root, Proof: consistency}, &out)
	return out.Note, err
}

// Checkpointed implements translog.Node.
func (n signedLog) Checkpointed(ctx context.Context) (uint64, string, error) {
	var out nodeapi.Checkpointed
	err := n.node.Call(ctx, "checkpointed", struct{}{}, &out)
	return out.Size, out.Key, err
}

// chainWatch writes entries about what the node accepted and the server has none of: it was killed between the two. What
// comes in the ordinary way is there long before.
type chainWatch struct {
	db   *db.DB
	node caller
	log  *slog.Logger
	now  func() time.Time
}

// How often the chain is looked at, and how long an entry may take to come in the ordinary way.
const (
	chainEvery = 30 * time.Second
	chainGrace = time.Minute
)

func (c *chainWatch) run(ctx context.Context) {
	tick := time.NewTicker(chainEvery)
	defer tick.Stop()
	for {
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("what the node accepted was not compared with the audit log", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look compares what is new in the node's chain.
func (c *chainWatch) look(ctx context.Context) error {
	for {
		at, err := audit.Compared(ctx, c.db.Reader())
		if err != nil {
			return err
		}
		var out nodeapi.Links
		if err := c.node.Call(ctx, "chain", nodeapi.Chain{After: at.Seq}, &out); err != nil {
			return err
		}
		if at.Seq == 0 {
			if at, err = c.start(out.Head); err != nil {
				return err
			}
		}
		done, err := c.compare(ctx, statement.ChainRef(at), out.Links)
		if err != nil || done {
			return err
		}
	}
}

// start is the place before the first link. The node's word is not verified: this process believes the node as it is, and
// whoever checks the log verifies it.
func (c *chainWatch) start(head []byte) (audit.Place, error) {
	var envelope struct {
		Payload []byte `json:"payload"`
	}
	var h statement.ChainHead
	if err := errors.Join(json.Unmarshal(head, &envelope), json.Unmarshal(envelope.Payload, &h)); err != nil {
		return audit.Place{}, err
	}
	return audit.Place(statement.ChainStart(h.Node)), nil
}

// own asks the node what it did by itself, among links. No transaction of the store waits for the answers.
func (c *chainWatch) own(ctx context.Context, links [][]byte) (map[bulwark.Digest]*nodeapi.Receipt, error) {
	out := map[bulwark.Digest]*nodeapi.Receipt{}
	for _, b := range links {
		var link statement.Link
		if err := json.Unmarshal(b, &link); err != nil {
			return nil, err
		}
		if link.Person != "" {
			continue
		}
		var r nodeapi.Receipt
		if err := c.node.Call(ctx, "receipt", nodeapi.Accepted{Digest: link.Document}, &r); err != nil {
			return nil, err
		}
		out[link.Document] = &r
	}
	return out, nil
}

// compare writes what is missing, and notes how far it came. It reports whether there is no more to do for now.
func (c *chainWatch) compare(ctx context.Context, at statement.ChainRef, links [][]byte) (done bool, err error) {
	receipts, err := c.own(ctx, links)
	if err != nil {
		return false, err
	}
	err = c.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, b := range links {
			var link statement.Link
			if err := json.Unmarshal(b, &link); err != nil {
				return err
			}
			own := link.Person == "" // what the node did by itself nobody else writes about
			if !own && c.now().Sub(link.Time) < chainGrace {
				done = true // it may be on its way
				break
			}
			if at, err = at.Next(b); err != nil {
				return err
			}
			there, err := audit.Tells(ctx, tx, at.Seq)
			if err != nil {
				return err
			}
			if there {
				continue
			}
			p := audit.Place(at)
			e := audit.Entry{Actor: link.Person, Key: link.Key, Action: string(link.Kind), Resource: "platform", Outcome: audit.Recorded,
				Detail: string(link.App), Document: link.Document, Chain: &p}
			if own {
				on, detail := matter(receipts[link.Document])
				e.Project, e.Resource, e.Detail = on.Project, on.String(), "by its age, "+detail
				if c.now().Sub(link.Time) < 2*chainGrace {
					e.Outcome = audit.Done // else this process was away, and entries about what came later may stand before it
				}
			} else {
				c.log.Info("the audit log had no entry about what the node accepted", "document", link.Document, "kind", link.Kind)
			}
			if err := audit.Write(ctx, tx, e); err != nil {
				return err
			}
		}
		done = done || len(links) == 0
		if len(links) == 0 {
			return nil
		}
		return audit.SetCompared(ctx, tx, audit.Place(at))
	})
	return done, err
}
