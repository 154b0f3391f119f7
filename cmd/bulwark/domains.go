package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) domainsCommand() *cobra.Command {
	noWait := false
	plain := command("add HOST", "Claim a host name for an app", "  $ bulwark domains add shop.example.org\n  $ bulwark domains add '*.example.org'", exactly(1, "a host name"),
		func(ctx context.Context, args []string) error { return c.addDomain(ctx, args[0], noWait) })
	plain.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the certificate")
	add := c.forApp(plain)
	remove := c.forApp(command("remove HOST", "Give a host name up", "  $ bulwark domains remove shop.example.org", exactly(1, "a host name"),
		func(ctx context.Context, args []string) error {
			return c.domain(ctx, args[0], statement.KindDomainRemove, "%s no longer answers to %s.")
		}))
	ls := c.forApp(command("list", "List the host names of an app", "  $ bulwark domains list", exactly(0, ""), c.listDomains))
	return c.forApp(group("domains", "Claim, give up and list host names", "  $ bulwark domains\n  $ bulwark domains add shop.example.org",
		c.listDomains, add, remove, ls))
}

// parseDomain reads a host name, or a pattern such as *.example.org.
func parseDomain(text string) (bulwark.HostName, error) {
	below, wild := strings.CutPrefix(text, "*.")
	name, err := netpolicy.ParseHost(below)
	if err != nil || !wild {
		return name, err
	}
	return bulwark.ParseHostPattern("*." + string(name))
}

// addDomain claims a host name and waits for its certificate, or for why there is none yet.
func (c *cli) addDomain(ctx context.Context, text string, noWait bool) error {
	if err := c.domain(ctx, text, statement.KindDomainAdd, "%s answers to %s now."); err != nil || c.json {
		return err
	}
	host, err := parseDomain(text)
	if err != nil {
		return err
	}
	s, _, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	c.note("%s", recordFor(host, app.URL))
	if noWait {
		return nil
	}
	var v *client.Certificate
	err = c.during("Waiting for the certificate of "+string(host), func() (err error) {
		v, err = c.certified(ctx, s, host)
		return err
	})
	switch {
	case err != nil:
		return err
	case v == nil:
		c.note("How its certificate stands is not known yet: see bulwark certs.")
	case v.NotAfter.IsZero() && v.Stage != stageForeign:
		c.note("No certificate yet: %s", certificateNote(*v))
		c.note("It is tried again by itself, once the name leads to the server; see bulwark certs.")
	default:
		c.say("Certificate: %s.", certificateNote(*v))
	}
	return nil
}

// recordFor says which DNS record leads a host to an app that is at an address of the installation's own.
func recordFor(host bulwark.HostName, address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || strings.HasSuffix(u.Hostname(), ".localhost") {
		return fmt.Sprintf("Set the DNS record of %s to this server's addresses (A, AAAA).", host)
	}
	return fmt.Sprintf("Set the DNS record of %s: CNAME %s., or the same A and AAAA records as that has.", host, u.Hostname())
}

// How long a certificate is waited for, and how often it is looked.
const (
	certifiedWithin = 30 * time.Second // an authority takes seconds; a host that reaches none takes minutes to say so
	certifiedEvery  = 200 * time.Millisecond
	unheardOf       = 10 * time.Second // for a process that does not say anything of the name
)

// certified waits until a host has a certificate, none is to be had, or a try failed; nil if nobody says.
func (c *cli) certified(ctx context.Context, s *session, host bulwark.HostName) (*client.Certificate, error) {
	began := time.Now()
	for {
		all, err := s.Certificates(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, nil //nolint:nilerr // the name is claimed, whoever may not see how its certificate stands
		}
		at := slices.IndexFunc(all, func(v client.Certificate) bool { return v.Host == host })
		if at < 0 {
			return nil, nil
		}
		v := all[at]
		if v.Stage == stageForeign || !v.NotAfter.IsZero() || v.Error != "" {
			return &v, nil
		}
		if took := time.Since(began); took > certifiedWithin || took > unheardOf && v.Tried.IsZero() {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(certifiedEvery):
		}
	}
}

func (c *cli) domain(ctx context.Context, text string, kind statement.Kind, done string) error {
	host, err := parseDomain(text)
	if err != nil {
		return usage(err)
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	if kind == statement.KindDomainRemove && !slices.Contains(app.Domains, host) {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("%s does not answer to %s.", name, host), "See bulwark domains.", nil)
	}
	return c.setting(ctx, s, name, app.ID, kind, statement.Domain{Host: host}, fmt.Sprintf(done, name, host))
}

func (c *cli) listDomains(ctx context.Context, _ []string) error {
	_, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	return c.result(list(app.Domains), func() {
		if len(app.Domains) == 0 {
			c.empty("%s answers to no other names than %s.", name, app.URL)
			return
		}
		c.head("%s domains", name)
		var rows [][]string
		for _, h := range app.Domains {
			rows = append(rows, []string{string(h)})
		}
		c.table(rows)
	})
}

func (c *cli) egressCommand() *cobra.Command {
	allow := c.forApp(command("allow DESTINATION", "Let an app reach a destination",
		"  $ bulwark egress allow db.example.org:5432\n  $ bulwark egress allow 203.0.113.0/24:443", exactly(1, "a destination"),
		func(ctx context.Context, args []string) error {
			return c.egress(ctx, args[0], statement.KindEgressAllow, "%s may reach %s now.")
		}))
	deny := c.forApp(command("deny DESTINATION", "Take a destination away from an app again", "  $ bulwark egress deny db.example.org:5432",
		exactly(1, "a destination"), func(ctx context.Context, args []string) error {
			return c.egress(ctx, args[0], statement.KindEgressDeny, "%s may no longer reach %s.")
		}))
	ls := c.forApp(command("list", "List the destinations that were opened for an app", "  $ bulwark egress list", exactly(0, ""), c.listEgress))
	return c.forApp(group("egress", "Open, close and list destinations outside for an app", "  $ bulwark egress\n  $ bulwark egress allow db.example.org:5432",
		c.listEgress, allow, deny, ls))
}

func (c *cli) listEgress(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	rules, err := s.Egress(ctx, name)
	if err != nil {
		return err
	}
	return c.result(list(rules), func() {
		if len(rules) == 0 {
			c.empty("%s reaches the internet, and no inner address.", name)
			return
		}
		c.head("%s may reach beside the internet", name)
		var rows [][]string
		for _, r := range rules {
			rows = append(rows, []string{r.Rule, ago(c.now(), r.Created)})
		}
		c.table(rows)
	})
}

func (c *cli) egress(ctx context.Context, text string, kind statement.Kind, done string) error {
	to, err := netpolicy.ParseTarget(text)
	if err != nil {
		return usage(err)
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	if kind == statement.KindEgressDeny {
		rules, err := s.Egress(ctx, name)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(rules, func(r client.EgressRule) bool { return r.Rule == to.String() }) {
			return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("%s was not opened for %s.", to, name), "See bulwark egress.", nil)
		}
	}
	return c.setting(ctx, s, name, app.ID, kind, statement.Egress{Rule: to.String()}, fmt.Sprintf(done, name, to))
}
