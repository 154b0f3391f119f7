package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// How long the DNS has to say whose a host name is, and how many are asked about at a time.
const (
	nameTime    = 10 * time.Second
	namesAtOnce = 4
)

// names asks the DNS whose a host name is.
type names struct {
	resolver *net.Resolver
	turns    chan struct{}
}

// newNames asks a name server, "ADDRESS:PORT", or, if that is empty, those that the host asks.
func newNames(server string) *names {
	n := &names{resolver: net.DefaultResolver, turns: make(chan struct{}, namesAtOnce)}
	if server != "" {
		n.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		}}
	}
	return n
}

// ask returns what the DNS says.
func (n *names) ask(ctx context.Context, host bulwark.HostName) (ledger.Named, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	fail := func(err error) (ledger.Named, error) {
		return ledger.Named{}, bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The DNS did not say whose %s is.", host),
			"Run the command again; if it stays so, see whether the server reaches its name server, and whether the domain's name servers answer.", err)
	}
	select {
	case n.turns <- struct{}{}:
		defer func() { <-n.turns }()
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	words, err := n.resolver.LookupTXT(ctx, ledger.ProofName(host)+".") // with the dot no search domain is added
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		err = nil
	}
	if err != nil {
		return fail(err)
	}
	return ledger.Named{Host: host, Words: words, Asked: true}, nil
}

// submit takes a statement of a person's. Whose a host name is is looked up when its signature and the signer's rights are known, and
// outside of any transaction; the ledger looks at all of it again.
func (n *Node) submit(ctx context.Context, envelope []byte) (*ledger.Receipt, error) {
	r, err := n.ledger.Submit(ctx, envelope)
	u, ok := errors.AsType[*ledger.Unproven](err)
	if !ok {
		return r, err
	}
	named, err := n.names.ask(ctx, u.Host)
	if err != nil {
		return nil, err
	}
	return n.ledger.SubmitNamed(ctx, envelope, named)
}
