package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) domainsCommand() *cobra.Command {
	add := c.forApp(command("add HOST", "Claim a host name for an app", "  $ bulwark domains add shop.example.org", exactly(1, "a host name"),
		func(ctx context.Context, args []string) error {
			return c.domain(ctx, args[0], statement.KindDomainAdd, "%s answers to %s now. Point its DNS record at the server; bulwark certs shows how its certificate stands.")
		}))
	remove := c.forApp(command("remove HOST", "Give a host name up", "  $ bulwark domains remove shop.example.org", exactly(1, "a host name"),
		func(ctx context.Context, args []string) error {
			return c.domain(ctx, args[0], statement.KindDomainRemove, "%s no longer answers to %s.")
		}))
	ls := c.forApp(command("list", "List the host names of an app", "  $ bulwark domains list", exactly(0, ""), c.listDomains))
	return c.forApp(group("domains", "Claim, give up and list host names", "  $ bulwark domains\n  $ bulwark domains add shop.example.org",
		c.listDomains, add, remove, ls))
}

func (c *cli) domain(ctx context.Context, text string, kind statement.Kind, done string) error {
	host, err := netpolicy.ParseHost(text)
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
