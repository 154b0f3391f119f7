package posture

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func prv1() Control {
	return Control{ID: "PRV-1", Version: 1, Every: hourly,
		Promise: "The platform sends nothing to anybody but declared destinations: no telemetry.",
		Tries: "Watches every connection of the platform's own processes, twenty times a second while the model app is used: what leads off " +
			"the machine, and was not made for an app or a build, is not declared.",
		Probe: probePRV1}
}

// watchTime is how long connections are watched in one run.
const watchTime = 10 * time.Second

func probePRV1(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	pids, err := w.named()
	if err != nil {
		return err
	}
	// A connection of the prober's own to a port that it listens on: who does not see that one sees nothing.
	at, stop, err := hold("/proc/thread-self/ns/net", netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		return err
	}
	defer stop()
	use := make(chan error, 1)
	go func() {
		ask, err := w.visitor(app)
		if err == nil {
			visit(ctx, ask, watchTime/2)
			_, err = w.Person.InModel(ctx, app, "resolve", "localhost")
		}
		use <- err
	}()
	declared := w.Installation.Declared()
	asked, err := w.Installation.NameServers() // by the node, whose a claimed host name is
	if err != nil {
		return err
	}
	mine, samples := false, 0
	away := map[string]bool{}
	for end := time.Now().Add(watchTime); time.Now().Before(end) && ctx.Err() == nil; samples++ {
		c, derr := dialOnce(at)
		for name, pid := range pids {
			owned := inodes([]int{pid})
			for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
				// What it accepted is where its listeners were made; what it began is where it is itself.
				for _, s := range slices.Concat(sockets("/proc/thread-self/net/"+table), sockets(fmt.Sprintf("/proc/%d/net/%s", pid, table))) {
					if !owned[s.inode] || s.state == stateListen && strings.HasPrefix(table, "tcp") {
						continue
					}
					if pid == selfPID() && s.remote == at {
						mine = true
					}
					if inbound(s, declared) || s.remote.Addr().IsLoopback() || s.remote.Addr().IsUnspecified() || forTenants(name) || name == "node" && slices.Contains(asked, s.remote.Addr()) {
						continue
					}
					away[fmt.Sprintf("%s to %s (%s)", name, s.remote, table)] = true
				}
			}
		}
		if derr == nil {
			c.Close()
		}
		pause(ctx, 50*time.Millisecond)
	}
	if err := <-use; err != nil {
		return err
	}
	for a := range away {
		r.Refused("send something to a destination that is not declared", false, a)
	}
	r.Refused("send anything off the machine", len(away) == 0, fmt.Sprintf("%d processes, looked at %d times", len(pids), samples))
	r.Proven("a connection of the prober's own is seen", mine, at.String())
	return nil
}

// inbound tells that somebody came to a declared port.
func inbound(s socket, declared map[string]uint16) bool {
	for _, p := range declared {
		if s.local.Port() == p {
			return true
		}
	}
	return false
}

// forTenants are the processes that connect for apps and builds alone: where to is the app's owners' word, and is listed by
// bulwark egress and builds show. certs connects for host names that they claimed, to the operator's certificate authorities.
func forTenants(name string) bool {
	return name == "egress" || name == "resolver" || name == "certs"
}
