package node

import (
	"net/netip"
	"os"

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
