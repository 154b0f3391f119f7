package server

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/witness"
)

type witnessIn struct {
	Body client.Witnessed
}

func (witnessIn) Resource() access.Resource { return access.Platform() }

// auditWitnessed passes on what witnesses signed: the server can keep it back, which who asks for a witness by its key notices.
func (s *Server) auditWitnessed(ctx context.Context, _ access.Actor, _ *platformIn) ([]client.Witnessed, error) {
	all, err := audit.WitnessedBy(ctx, s.db.Reader())
	if err != nil {
		return nil, err
	}
	out := make([]client.Witnessed, 0, len(all))
	for _, w := range all {
		out = append(out, client.Witnessed{Witness: w.Witness, Note: w.Note})
	}
	return out, nil
}

// witnessAudit keeps what a witness signed, for who asks.
func (s *Server) witnessAudit(ctx context.Context, actor access.Actor, in *witnessIn) (struct{}, error) {
	_, log, err := signedLog{s.node}.Checkpointed(ctx)
	if err != nil {
		return struct{}{}, err
	}
	seen, err := witness.Open(in.Body.Note, log, in.Body.Witness)
	if err != nil {
		return struct{}{}, err
	}
	name, err := witness.Name(in.Body.Witness)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.db.Tx(ctx, func(tx *sql.Tx) error {
		kept, err := audit.PutWitnessed(ctx, tx, audit.Witnessed{Witness: in.Body.Witness, Note: in.Body.Note, Size: seen.Size, At: seen.At})
		if err != nil {
			return err
		}
		if !kept {
			return bulwark.Fail(bulwark.KindConflict, "There are as many witnesses as the server keeps.", "Have one of those sign that are there: bulwark audit witness --list.", nil)
		}
		return audit.Write(ctx, tx, audit.Entry{Actor: actor.Person, Key: actor.Key, Action: string(access.WitnessAudit), Resource: access.Platform().String(),
			Outcome: audit.Done, Detail: fmt.Sprintf("%s saw %d entries", name, seen.Size)})
	})
}
