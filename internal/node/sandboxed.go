package node

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/network"
)

// sandboxed tells that an instance has a kernel of its own.
func (i *instance) sandboxed() bool { return i.Isolation == bulwark.IsolationSandbox }

// outside returns the network namespace in which a socket is made that leads to an instance: its own. A sandbox takes the address out of that
// and answers for it by itself, so for one it is the router's.
func (n *instances) outside(i *instance, pid int) (*os.File, error) {
	if i.sandboxed() {
		return n.router.Namespace()
	}
	return network.Namespace(pid)
}

// link gives an instance its network before it starts: afterwards the number may be somebody else's.
func (n *instances) link(ctx context.Context, i *instance, pid int) (err error) {
	if i.netns, err = n.outside(i, pid); err != nil {
		return err
	}
	guarded := make(chan error, 1)
	go func() { guarded <- n.guard(ctx, i, pid) }() // beside: it starts a program
	err = n.router.Connect(i.Instance.Instance, pid, i.address)
	if err := errors.Join(err, <-guarded); err != nil {
		return err
	}
	select {
	case <-i.announced:
	case <-time.After(announceTime):
	}
	return nil
}

// guard bounds what dial can do with the namespace of an instance that the edge is led to.
func (n *instances) guard(ctx context.Context, i *instance, pid int) error {
	if i.Process != bulwark.ProcessWeb || i.sandboxed() { // who is led to a sandbox is in the router's namespace, under its rules
		return nil
	}
	return network.Inward(ctx, pid, netip.AddrPortFrom(i.address, i.port))
}

// sandboxes are the ports at which sandboxes may be reached from the router.
func (n *instances) sandboxes() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []netip.AddrPort
	for _, i := range n.all {
		if i.sandboxed() && !i.Phase.Over() {
			out = append(out, netip.AddrPortFrom(i.address, i.port))
		}
	}
	return out
}
