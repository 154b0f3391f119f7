package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) protectCommand() *cobra.Command {
	var approvals int
	var agree bool
	cmd := command("protect [NAME]", "Have an app's releases wait for the approval of other people",
		"  $ bulwark apps protect shop --approvals 1\n  $ bulwark apps protect shop --approvals 0\n  $ bulwark apps protect shop --approvals 0 --approve", nil, nil)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("approvals") {
			return misuse("How many other people have to approve a release?", "Give their number, such as --approvals 1.")
		}
		if agree {
			return c.approveProtection(cmd.Context(), approvals)
		}
		return c.protect(cmd.Context(), approvals)
	}
	cmd.Long = `Has each release of an app wait until so many other people than the one who brought it about have approved it, with
bulwark releases approve. Nothing of a release runs before. What serves goes on, and restarts, scales and runs as ever.

An owner says how many. More than before counts at once. The same number again, fewer, or 0, which takes the protection
away, is asked for, and counts when as many other people have agreed, by the same command with --approve, as a release
takes: else one stolen key would be enough. Those people count who could deploy when the protection was agreed upon; the
same number again lets those count who came since, so look at bulwark members before you agree.`
	cmd.Flags().IntVar(&approvals, "approvals", 0, "how many other people have to approve a release")
	cmd.Flags().BoolVar(&agree, "approve", false, "agree with an owner who asks for this")
	return c.namesApp(cmd)
}

func (c *cli) protect(ctx context.Context, approvals int) error {
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindProtect, app.ID, statement.Protect{Approvals: approvals})
	if err != nil {
		return err
	}
	var now statement.Protection
	err = c.during("Protecting "+string(name), func() (err error) {
		now, err = s.Protect(ctx, name, signed)
		return err
	})
	if err != nil {
		return err
	}
	return c.result(now, func() { c.tellProtection(name, now) })
}

func (c *cli) approveProtection(ctx context.Context, approvals int) error {
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	asked := app.Protection.Asked
	if asked == nil {
		return bulwark.Fail(bulwark.KindNotFound, "Nobody asks for another protection of "+string(name)+".", "See bulwark apps info "+string(name)+".", nil)
	}
	// Somebody may have asked for something else since they were told.
	if asked.Approvals != approvals {
		return bulwark.Fail(bulwark.KindConflict, askedFor(asked)+" You agreed with another number, so nothing was done.", "See bulwark apps info "+string(name)+".", nil)
	}
	signed, err := s.sign(statement.KindProtectApprove, app.ID, statement.ProtectApprove{Request: asked.Request, Approvals: asked.Approvals})
	if err != nil {
		return err
	}
	var now statement.Protection
	err = c.during("Agreeing", func() (err error) {
		now, err = s.ApproveProtection(ctx, name, signed)
		return err
	})
	if err != nil {
		return err
	}
	return c.result(now, func() { c.tellProtection(name, now) })
}

func (c *cli) tellProtection(name bulwark.AppName, p statement.Protection) {
	if p.Approvals == 0 {
		c.say("%s is not protected: its releases wait for nobody.", name)
	} else {
		c.say("Each release of %s waits for the approval of %s.", name, others(p.Approvals))
	}
	if q := p.Asked; q != nil {
		c.say("%s That counts when %s: bulwark apps protect %s --approvals %d --approve", askedFor(q), agreed(q.Missing), name, q.Approvals)
	}
}

// askedFor says what is asked for.
func askedFor(q *statement.Asked) string {
	if q.Approvals == 0 {
		return fmt.Sprintf("%s asks to take the protection away.", q.Person)
	}
	return fmt.Sprintf("%s asks that it be %s.", q.Person, others(q.Approvals))
}

func agreed(missing int) string {
	if missing == 1 {
		return "another person has agreed"
	}
	return others(missing) + " have agreed"
}

func others(n int) string {
	if n == 1 {
		return "another person"
	}
	return fmt.Sprintf("%d other people", n)
}

// protection is a line of what bulwark apps info shows.
func protection(p statement.Protection) string {
	if p.Approvals == 0 {
		return ""
	}
	line := "each release waits for the approval of " + others(p.Approvals)
	if p.Asked != nil {
		line += ". " + askedFor(p.Asked)
	}
	return line
}

func (c *cli) approveCommand() *cobra.Command {
	cmd := c.forApp(command("approve vN", "Approve another person's release of a protected app", "  $ bulwark releases approve v12 -a shop",
		exactly(1, "a release, such as v12"), func(ctx context.Context, args []string) error {
			number, err := parseRelease(args[0])
			if err != nil {
				return usage(err)
			}
			return c.approve(ctx, number)
		}))
	cmd.Long = `Approves a release that waits, and follows its rollout if no more approvals are needed. What you sign names the release
by its digest: this machine fetches the release, verifies it with the node's key, and shows what it is; on a terminal it
asks before it signs. Nobody approves what they brought about themselves, or what brings along config, sizes or build
secrets that they changed.`
	cmd.ValidArgsFunction = c.completeWaiting
	return cmd
}

// completeWaiting offers the releases that wait.
func (c *cli) completeWaiting(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	s, name, err := c.onApp(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := s.Releases(ctx, name)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, r := range all {
		if r.State == "waiting" {
			out = append(out, releaseName(r.Number))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) approve(ctx context.Context, number uint64) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	b, err := s.Bundle(ctx, name, number)
	if err != nil {
		return err
	}
	// What is signed is what was verified here: the server could show one release and pass on another.
	r, p, err := statement.OpenRelease(b, s.server.key())
	if err != nil {
		return err
	}
	if r.Name != name || r.Generation != number || r.Node != s.server.Node {
		return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The server gave v%d of %s in place of the release that you named. Nothing was approved.", r.Generation, r.Name), "Tell the operator.", nil)
	}
	if !c.json {
		c.head("%s %s", name, releaseName(number))
		c.fields("Brought about", fmt.Sprintf("%s by %s", r.Cause.Kind, r.Cause.Person), "Source", sourceOf(p), "Image", string(r.Image),
			"Config", "revision "+fmt.Sprint(r.Config.Revision), "Release", string(bulwark.Sum(b.Release)))
	}
	if err := c.sure(ctx, releaseName(number)); err != nil {
		return err
	}
	signed, err := s.sign(statement.KindApprove, r.App, statement.Approve{Generation: number, Release: bulwark.Sum(b.Release)})
	if err != nil {
		return err
	}
	var op client.Operation
	err = c.during("Approving "+releaseName(number), func() (err error) {
		op, err = s.Approve(ctx, name, number, signed)
		return err
	})
	if err != nil {
		return err
	}
	return c.released(ctx, s, name, op)
}

// sure has a person at a terminal say that they have read what they approve.
func (c *cli) sure(ctx context.Context, release string) error {
	if !c.stdinTTY || c.json {
		return nil
	}
	got, err := c.ask(ctx, "To approve it, type "+release+": ")
	if err == nil && got != release {
		err = misuse("That is not "+release+", so nothing was approved.", "Run the command again to approve it.")
	}
	return err
}

// sourceOf says what an image was made of.
func sourceOf(p *statement.Provenance) string {
	for _, d := range p.Predicate.BuildDefinition.ResolvedDependencies {
		if commit := d.Digest["gitCommit"]; commit != "" {
			return "commit " + commit
		}
		for kind, digest := range d.Digest { // the source comes first
			return strings.TrimSpace(d.Name + " " + kind + ":" + digest)
		}
	}
	return "unknown"
}
