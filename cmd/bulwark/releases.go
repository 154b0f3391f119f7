package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) releasesCommand() *cobra.Command {
	return c.forApp(group("releases", "List and approve the releases of an app", "  $ bulwark releases -a shop\n  $ bulwark releases approve v12 -a shop",
		c.listReleases, c.forApp(command("list", "List the releases of an app, the newest first", "  $ bulwark releases list -a shop", exactly(0, ""), c.listReleases)), c.approveCommand()))
}

func (c *cli) listReleases(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	releases, err := s.Releases(ctx, name)
	if err != nil {
		return err
	}
	return c.result(list(releases), func() {
		if len(releases) == 0 {
			c.empty("%s has no releases yet. Deploy it with git push bulwark main.", name)
			return
		}
		c.head("%s releases", name)
		var rows [][]string
		for _, r := range releases {
			what := strings.TrimSpace(r.Cause + " " + r.Note)
			if r.Reason != "" {
				what += ": " + r.Reason
			}
			if len(r.Approved) > 0 {
				what += ", approved by " + strings.Join(r.Approved, ", ")
			}
			rows = append(rows, []string{releaseName(r.Number), r.State, ago(c.now(), r.Created), r.Person, what})
		}
		c.table(rows)
	})
}

func (c *cli) rollbackCommand() *cobra.Command {
	var config bool
	cmd := c.forApp(command("rollback vN", "Make a new release of an old one's image", "  $ bulwark rollback v3\n  $ bulwark rollback v3 --config",
		exactly(1, "a release, such as v3"), func(ctx context.Context, args []string) error {
			to, err := parseRelease(args[0])
			if err != nil {
				return usage(err)
			}
			return c.change(ctx, statement.KindRollback, statement.Rollback{To: to, Config: config}, "Rolling back")
		}))
	cmd.Long = `Makes a new release of an old one's image and process types; nothing is built. Config stays as it is now, so that
credentials which were revoked do not return; with --config it is the old release's too.`
	cmd.Flags().BoolVar(&config, "config", false, "take the old release's config too")
	return cmd
}

// parseRelease reads "v3" or "3".
func parseRelease(s string) (uint64, error) {
	digits := strings.TrimPrefix(s, "v")
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return 0, bulwark.Invalid(quote(s)+" is not a release.", "Give one such as v3; bulwark releases lists them.")
	}
	return n, nil
}
