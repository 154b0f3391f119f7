package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

func (c *cli) policyCommand() *cobra.Command {
	var as, org string
	explain := command("explain ACTION [APP]", "Say why something is allowed or refused",
		"  $ bulwark policy explain deploy shop\n  $ bulwark policy explain config.reveal shop --as ana@example.org", between(1, 2, "an action, and an app"),
		func(ctx context.Context, args []string) error { return c.explain(ctx, args, as, org) })
	explain.Long = `Asks the server's policies. ACTION is one of those that "bulwark policy show" names; "deploy" stands for "app.deploy". With --as, an
owner asks about somebody else.`
	explain.Flags().StringVar(&as, "as", "", "somebody else: a name or an id, as bulwark members lists them")
	explain.Flags().StringVar(&org, "org", "", "organisation in which a name is looked for, if you belong to several")
	show := command("show", "Print the policies", "  $ bulwark policy show", exactly(0, ""), c.showPolicies)
	return group("policy", "See who may do what, and why", "  $ bulwark policy explain deploy shop --as ana@example.org\n  $ bulwark policy show", nil, explain, show)
}

// explained is the answer with its question.
type explained struct {
	Action string           `json:"action"`
	App    bulwark.AppName  `json:"app,omitempty"`
	Person bulwark.PersonID `json:"as,omitempty"`
	client.Explanation
}

func (c *cli) explain(ctx context.Context, args []string, as, org string) error {
	out := explained{Action: args[0]}
	if !strings.Contains(out.Action, ".") && out.Action != "open" {
		out.Action = "app." + out.Action
	}
	if len(args) == 2 {
		name, err := bulwark.ParseAppName(args[1])
		if err != nil {
			return usage(err)
		}
		out.App = name
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	if as != "" {
		o, err := s.org(ctx, org)
		if err != nil {
			return err
		}
		if out.Person, err = s.member(ctx, o, as); err != nil {
			return err
		}
	}
	if out.Explanation, err = s.Explain(ctx, out.Action, out.App, out.Person); err != nil {
		return err
	}
	return c.result(out, func() {
		verdict := "refused"
		if out.Allowed {
			verdict = "allowed"
		}
		why := "no policy permits it"
		if len(out.Reasons) > 0 {
			why = "by " + strings.Join(out.Reasons, ", ")
		}
		var roles []string
		for _, g := range out.Roles {
			where := string(g.Org)
			if g.Project != "" {
				where = string(g.Project)
			}
			roles = append(roles, fmt.Sprintf("%s of %s", g.Role, where))
		}
		c.fields("Verdict", verdict, "Why", why, "Roles", strings.Join(roles, ", "))
	})
}

func (c *cli) showPolicies(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	text, err := s.Policies(ctx)
	if err != nil {
		return err
	}
	return c.result(struct {
		Policies string `json:"policies"`
	}{text}, func() { c.say("%s", strings.TrimRight(text, "\n")) })
}
