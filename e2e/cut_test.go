package e2e

import (
	"context"
	"math/rand/v2"
	"strconv"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// cutStarts plays a server that is killed in the middle of a start, or kills the node or the engine there, TIMES times, each time at another
// moment of it: "cutstarts server|node|containerd APP TIMES". Who comes after asks for the same instance at once, and gets it.
func cutStarts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: cutstarts server|node|containerd APP TIMES")
	}
	killed, args := args[0], args[1:]
	times, err := strconv.Atoi(args[1])
	ts.Check(err)
	s := of(ts)
	pid, err := s.on.pid("server")
	ts.Check(err)
	node := nodeapi.NewClient(s.on.inst.Socket(install.NodeVerbs))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var all []nodeapi.Instance
	ts.Check(node.Call(ctx, "instances", struct{}{}, &all))
	if len(all) != 1 {
		ts.Fatalf("%s has %d instances, not 1", args[0], len(all))
	}
	var release nodeapi.Released
	ts.Check(node.Call(ctx, "bundle", nodeapi.Promote{App: all[0].App, Generation: all[0].Generation}, &release))

	ts.Check(syscall.Kill(pid, syscall.SIGSTOP)) // it would end what it did not ask for
	defer syscall.Kill(pid, syscall.SIGCONT)
	start := func(ctx context.Context, id bulwark.InstanceID) error {
		return node.Call(ctx, "start", nodeapi.Start{Bundle: release.Bundle, Instance: id, Process: all[0].Process, Index: 2}, nil)
	}
	whole, cut := 100*time.Millisecond, 0
	for range times {
		id := bulwark.NewInstanceID()
		within, leave := context.WithTimeout(ctx, rand.N(whole))
		began := time.Now()
		if killed != "server" {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = start(ctx, id) // whatever comes of it: the client itself may ask the next node
			}()
			<-within.Done()
			select {
			case <-ended:
			default:
				cut++
			}
			s.on.end(ts, killed, syscall.SIGKILL)
			back(ts, false, []string{killed})
			<-ended
		} else if start(within, id) != nil {
			cut++
		}
		leave()
		if err := start(ctx, id); err != nil {
			ts.Fatalf("after %d starts that were cut off: %v", cut, err)
		}
		if killed == "server" {
			whole = min(whole, time.Since(began))
		}
		ts.Check(node.Call(ctx, "stop", nodeapi.Stop{Instance: id}, nil))
	}
	ts.Logf("%d starts of %d were cut off", cut, times)
	if cut < times/3 {
		ts.Fatalf("only %d starts of %d were cut off", cut, times)
	}
}
