package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// shields keeps what the edge knows of the apps' shields and of virtual patches as the ledger has it. The node tells the edge itself: so
// whoever owns the server can take neither away.
type shields struct {
	client *http.Client

	mu      sync.Mutex // held while the edge is told; guards what follows
	shields told
	patches told
	canary  *bulwark.Patch // the prober's
}

// told is what the edge was told last.
type told struct {
	body []byte
	at   time.Time
}

// How often the edge is told what it has been told, and for how long the signer of a change waits until it is in force.
const (
	shieldsAgain = time.Second // an edge that took over in that moment may not have heard it
	shieldsWait  = 3 * time.Second
)

// push tells the edge what it does not know.
func (s *shields) push(ctx context.Context, l *ledger.Ledger) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := l.Shields(ctx)
	if err == nil {
		err = s.tell(ctx, "/shields", &s.shields, all)
	}
	if err != nil {
		return err
	}
	patches, err := l.Patches(ctx)
	if err != nil {
		return err
	}
	live := []bulwark.Patch{}
	for _, p := range patches {
		if p.Until.After(time.Now()) {
			live = append(live, p.Patch)
		}
	}
	if c := s.canary; c != nil && c.Until.After(time.Now()) {
		live = append(live, *c)
	}
	return s.tell(ctx, "/patches", &s.patches, live)
}

func (s *shields) tell(ctx context.Context, path string, last *told, v any) error {
	body, err := json.Marshal(v)
	if err != nil || bytes.Equal(body, last.body) && time.Since(last.at) < shieldsAgain {
		return err
	}
	if err := tellEdge(ctx, s.client, path, body); err != nil {
		// The connection may have led to an edge that another one has taken over from: the next leads to that.
		if err = tellEdge(ctx, s.client, path, body); err != nil {
			return err
		}
	}
	*last = told{body, time.Now()}
	return nil
}

// canaryFor is how long the prober's patch is raised at most.
const canaryFor = time.Minute

// canary raises the prober's patch, or takes it away. It is on the way of every other but for the signature.
func (n *Node) canary(ctx context.Context, in nodeapi.Canary) error {
	var p *bulwark.Patch
	if in.Mark != "" {
		if b, err := hex.DecodeString(in.Mark); err != nil || len(b) != 16 {
			return bulwark.Invalid("The mark is 32 hexadecimal digits.", "")
		}
		p = &bulwark.Patch{Name: "bulwark-canary", DryRun: in.DryRun, Until: time.Now().Add(canaryFor).UTC(),
			Rules: fmt.Sprintf("SecRule REQUEST_HEADERS:%s \"@streq %s\" \"id:1000,phase:1,msg:'the prober'\"", nodeapi.CanaryHeader, in.Mark)}
	}
	n.shields.mu.Lock()
	n.shields.canary = p
	n.shields.mu.Unlock()
	return n.shields.push(ctx, n.ledger)
}

// shieldsChanged tells the edge at once, so that who signed the change finds it in force; an edge that is away is told later.
func (n *Node) shieldsChanged(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shieldsWait)
	defer cancel()
	if err := n.shields.push(ctx, n.ledger); err != nil {
		n.config.Log.Warn("the edge does not know of a changed shield yet", "error", err)
	}
}
