package node

import (
	"context"
	"errors"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// A server that was killed left the start of an instance behind, its successor asked for the same one, and the first, which was
// being taken back, took the second's config socket with it: the release failed.
func TestOneStartAtATime(t *testing.T) {
	n := &instances{turns: map[bulwark.InstanceID]chan struct{}{}}
	id := bulwark.NewInstanceID()
	over, err := n.turn(t.Context(), id)
	must(t, err)

	if second, err := n.turn(t.Context(), bulwark.NewInstanceID()); err != nil {
		t.Fatalf("another instance waits, too: %v", err)
	} else {
		second()
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.turn(gone, id); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want it canceled", err)
	}
	came := make(chan struct{})
	go func() {
		defer close(came)
		if over, err := n.turn(t.Context(), id); err == nil {
			over()
		}
	}()
	select {
	case <-came:
		t.Fatal("both start it")
	default:
	}
	over()
	<-came
	if len(n.turns) > 0 {
		t.Fatalf("%d turns are kept", len(n.turns))
	}
}

// A release that asks for an isolation which this node does not know was started without any by bulwark run.
func TestUnknownIsolationStartsNothing(t *testing.T) {
	n := &instances{}
	launch := &ledger.Launch{Release: &statement.Release{Plan: bulwark.Plan{Isolation: "machine"}}}
	if i, err := n.bring(t.Context(), nodeapi.Start{}, launch, bulwark.Command{}, nil); bulwark.KindOf(err) != bulwark.KindInvalid {
		t.Fatalf("%v, %v", i, err)
	}
}
