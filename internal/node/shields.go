package node

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// shields keeps what the edge knows of the apps' shields as the ledger has it. The node tells the edge itself: so whoever owns the server
// cannot take an app's shield away.
type shields struct {
	client *http.Client

	mu   sync.Mutex // held while the edge is told; guards what follows
	sent []byte
	at   time.Time
}

// How often the edge is told what it has been told, and for how long the signer of a change waits until it is in force.
const (
	shieldsAgain = 30 * time.Second
	shieldsWait  = 3 * time.Second
)

// push tells the edge, if it does not know.
func (s *shields) push(ctx context.Context, l *ledger.Ledger) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := l.Shields(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(all)
	if err != nil || bytes.Equal(body, s.sent) && time.Since(s.at) < shieldsAgain {
		return err
	}
	if err := tellEdge(ctx, s.client, "/shields", body); err != nil {
		return err
	}
	s.sent, s.at = body, time.Now()
	return nil
}

// shieldsChanged tells the edge at once, so that who signed the change finds it in force; an edge that is away is told later.
func (n *Node) shieldsChanged(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shieldsWait)
	defer cancel()
	if err := n.shields.push(ctx, n.ledger); err != nil {
		n.config.Log.Warn("the edge does not know of a changed shield yet", "error", err)
	}
}
