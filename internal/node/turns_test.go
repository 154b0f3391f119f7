package node

import (
	"context"
	"errors"
	"runtime"
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

// An instance that was being started while the platform was stopped came after all others had ended, and lived on.
func TestHaltWaitsForStarts(t *testing.T) {
	n := &instances{starting: map[string]int{}, all: map[bulwark.InstanceID]*instance{}}
	r := &statement.Release{}
	end := n.begin(r)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.halt(gone); !errors.Is(err, context.Canceled) || n.halting.Load() {
		t.Fatalf("%v: it does not wait", err)
	}
	halted := make(chan error, 1)
	go func() { halted <- n.halt(t.Context()) }()
	for !n.halting.Load() {
		runtime.Gosched()
	}
	select {
	case err := <-halted:
		t.Fatalf("it ended before the start did: %v", err)
	default:
	}
	end()
	must(t, <-halted)
}
