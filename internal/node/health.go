package node

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/network"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// How instances are watched. Boot is what an app has from its start to its first answer.
const (
	bootTime      = 60 * time.Second
	eagerTime     = time.Second // in the first second it is tried every few milliseconds: most apps are ready by then
	eagerInterval = 3 * time.Millisecond
	probeInterval = time.Second
	probeTimeout  = 5 * time.Second
	sickAfter     = 3 // failed probes in a row
)

// watch follows an instance from its start to its end: it decides when it is healthy, tells dial, and notices when it
// stops answering.
func (n *instances) watch(ctx context.Context, i *instance) {
	if i.Kind != "" {
		n.watchOnce(ctx, i)
		return
	}
	if i.Phase.Over() {
		return
	}
	if i.Process != bulwark.ProcessWeb {
		n.phase(i, nodeapi.PhaseHealthy, "")
		return
	}
	boot := time.Now().Add(bootTime)
	eager := time.Now().Add(eagerTime)
	registered := false
	failures := 0
	for {
		err := probe(i)
		switch {
		case err == nil && !registered:
			if registered = n.register(ctx, i); registered {
				n.phase(i, nodeapi.PhaseHealthy, "")
			}
		case err == nil:
			failures = 0
			n.phase(i, nodeapi.PhaseHealthy, "")
		case !registered && time.Now().After(boot):
			n.phase(i, nodeapi.PhaseFailed, fmt.Sprintf("it did not answer on port %d within %d s: %v", i.port, int(bootTime.Seconds()), err))
			return
		case registered:
			if failures++; failures == sickAfter {
				n.phase(i, nodeapi.PhaseSick, fmt.Sprintf("it does not answer on port %d: %v", i.port, err))
			}
		}
		wait := probeInterval
		if !registered && time.Now().Before(eager) {
			wait = eagerInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-i.gone:
			return
		case <-time.After(wait):
		}
	}
}

// phase notes a change; what is over stays over.
func (n *instances) phase(i *instance, p nodeapi.Phase, reason string) {
	reason = brief(reason)
	n.mu.Lock()
	same := i.Phase == p || i.Phase.Over() || i.Phase == nodeapi.PhaseStopping
	if !same {
		i.Phase, i.Reason, i.Since = p, reason, time.Now()
	}
	n.mu.Unlock()
	if !same {
		n.changed.send()
	}
}

// brief bounds a reason, in which an app's own words may be: all reasons together go into one message to the server.
func brief(reason string) string {
	const most = 300
	if len(reason) <= most {
		return reason
	}
	return strings.ToValidUTF8(reason[:most], "") + "…"
}

func (n *instances) register(ctx context.Context, i *instance) bool {
	e, err := n.registration(ctx, i)
	if err == nil {
		err = n.dial.register(ctx, e)
	}
	if err != nil {
		if ctx.Err() == nil { // else nobody watches it any more
			n.log.Warn("dial does not know an instance yet", "instance", i.Instance.Instance, "error", err)
		}
		return false
	}
	return true
}

// probe tries an instance once: by a connection, and by one request if the app has a health path. The answer is the app's,
// so only its first line is read, and no more than a fixed number of bytes of it.
func probe(i *instance) error {
	if i.netns == nil {
		return fmt.Errorf("it does not run")
	}
	c, err := network.Dial(i.netns, netip.AddrPortFrom(i.address, i.port), probeTimeout)
	if err != nil {
		return fmt.Errorf("nothing listens there; an app must listen on all addresses (0.0.0.0) and the port in PORT")
	}
	defer c.Close()
	if i.health == "" {
		return nil
	}
	c.SetDeadline(time.Now().Add(probeTimeout))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bulwark-health\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n", i.health); err != nil {
		return fmt.Errorf("it closed the connection")
	}
	line, err := bufio.NewReaderSize(c, 256).ReadSlice('\n')
	if err != nil || len(line) < 12 || string(line[:7]) != "HTTP/1." {
		return fmt.Errorf("its answer is not HTTP")
	}
	if code := line[9]; code != '2' && code != '3' {
		return fmt.Errorf("GET %s answers %s", i.health, line[9:12])
	}
	return nil
}

// broadcast wakes all who wait for a change.
type broadcast struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

// wait returns a channel that is closed at the next change.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
