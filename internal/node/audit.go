package node

import (
	"context"
	"net/http"

	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// auditVerbs are the node's part in the audit log: it signs checkpoints of one log that only grows, and tells what it
// accepted. Neither takes a text to sign.
func (n *Node) auditVerbs(mux *http.ServeMux) {
	verb(n, mux, "checkpoint", func(ctx context.Context, in nodeapi.Checkpoint) (*nodeapi.Checkpointed, error) {
		signed, err := n.ledger.Checkpoint(ctx, in.Size, in.Root, in.Proof)
		return &nodeapi.Checkpointed{Size: in.Size, Note: signed, Key: n.ledger.LogKey()}, err
	})
	verb(n, mux, "checkpointed", func(ctx context.Context, _ struct{}) (*nodeapi.Checkpointed, error) {
		size, signed, err := n.ledger.Checkpointed(ctx)
		return &nodeapi.Checkpointed{Size: size, Note: signed, Key: n.ledger.LogKey()}, err
	})
	verb(n, mux, "chain", func(ctx context.Context, in nodeapi.Chain) (*nodeapi.Links, error) {
		links, head, err := n.ledger.Chain(ctx, in.After)
		return &nodeapi.Links{Links: links, Head: head}, err
	})
}
