package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// How long the DNS has to say whose a host name is, how many are asked about at a time, also of one project's, and for how long what it said counts.
const (
	nameTime     = 8 * time.Second
	namesAtOnce  = 16
	namesOfOne   = 2
	namesCount   = 30 * time.Second
	maxNamesKept = 4096
)

// names asks the DNS whose a host name is, and remembers for a while what it said. Nothing that others wait for waits for it: who carries a claim
// has it asked before.
type names struct {
	resolver *net.Resolver

	mu    sync.Mutex // guards what follows
	all   int        // that are asked about
	of    map[bulwark.ProjectID]int
	known map[bulwark.HostName]nameSaid
}

type nameSaid struct {
	named ledger.Named
	err   error
	at    time.Time
}

// newNames asks a name server, "ADDRESS:PORT", or, if that is empty, those that the host asks.
func newNames(server string) *names {
	n := &names{resolver: net.DefaultResolver, of: map[bulwark.ProjectID]int{}, known: map[bulwark.HostName]nameSaid{}}
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
	words, err := n.resolver.LookupTXT(ctx, ledger.ProofName(host)+".") // with the dot no search domain is added
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		err = nil
	}
	if err != nil {
		return fail(err)
	}
	return ledger.Named{Host: host, Words: words, Asked: true}, nil
}

// look asks for a project's app, and remembers.
func (n *names) look(ctx context.Context, project bulwark.ProjectID, host bulwark.HostName) error {
	n.mu.Lock()
	if n.all >= namesAtOnce || n.of[project] >= namesOfOne {
		n.mu.Unlock()
		return bulwark.Fail(bulwark.KindUnavailable, "The DNS is being asked about too many names at a time.", "Run the command again in a moment.", nil)
	}
	n.all++
	n.of[project]++
	n.mu.Unlock()
	said := nameSaid{}
	said.named, said.err = n.ask(ctx, host)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all--
	if n.of[project]--; n.of[project] == 0 {
		delete(n.of, project)
	}
	said.at = time.Now()
	for h, s := range n.known {
		if said.at.Sub(s.at) > namesCount || len(n.known) >= maxNamesKept {
			delete(n.known, h)
		}
	}
	n.known[host] = said
	return nil
}

// said returns what the DNS said of late.
func (n *names) said(host bulwark.HostName) (nameSaid, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok := n.known[host]
	return s, ok && time.Since(s.at) <= namesCount
}

// whose has the DNS asked whose a host is, if a claim of it needs that.
func (n *Node) whose(ctx context.Context, in nodeapi.Whose) (*struct{}, error) {
	needed, err := n.ledger.ProofNeeded(ctx, in.App, in.Host)
	if err != nil || !needed {
		return &struct{}{}, err
	}
	app, err := n.ledger.App(ctx, in.App)
	if err != nil {
		return nil, err
	}
	return &struct{}{}, n.names.look(ctx, app.Project, in.Host)
}

// submit takes a statement of a person's. The ledger looks at what the DNS said as at everything else, in one transaction.
func (n *Node) submit(ctx context.Context, envelope []byte) (*ledger.Receipt, error) {
	r, err := n.ledger.Submit(ctx, envelope)
	u, ok := errors.AsType[*ledger.Unproven](err)
	if !ok {
		return r, err
	}
	said, ok := n.names.said(u.Host)
	switch {
	case !ok:
		return nil, err
	case said.err != nil:
		return nil, said.err
	}
	return n.ledger.SubmitNamed(ctx, envelope, said.named)
}
