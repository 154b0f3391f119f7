package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

func (c *cli) buildsCommand() *cobra.Command {
	show := c.forApp(command("show N", "Show a build: its log, and what it reached over the network", "  $ bulwark builds show 12",
		exactly(1, "the number of a build"), c.showBuild))
	cancel := c.forApp(command("cancel", "Stop the build that runs or waits", "  $ bulwark builds cancel", exactly(0, ""), c.cancelBuild))
	return c.forApp(group("builds", "List, show and stop builds", "  $ bulwark builds\n  $ bulwark builds show 12\n  $ bulwark builds sbom 12", c.listBuilds, show, c.sbomCommand(), cancel))
}

func (c *cli) listBuilds(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	builds, err := s.Builds(ctx, name)
	if err != nil {
		return err
	}
	return c.result(list(builds), func() {
		if len(builds) == 0 {
			c.empty("%s has no builds yet.", name)
			return
		}
		c.head("%s builds", name)
		var rows [][]string
		for _, b := range builds {
			rows = append(rows, []string{number(b.Number), b.State, short(b.Commit), ago(c.now(), b.Created), took(b), b.Reason})
		}
		c.table(rows)
	})
}

// short cuts the name of what was built for people: of a commit its first digits, of a deploy "folder …" or "image …".
func short(source string) string {
	if words := strings.Fields(source); len(words) > 1 && (words[0] == "folder" || words[0] == "image") {
		return words[0] + " " + words[1]
	}
	return source[:min(8, len(source))]
}

// took says how long a build ran.
func took(b client.Build) string {
	if b.Ended.IsZero() || b.Ended.Before(b.Created) {
		return ""
	}
	return b.Ended.Sub(b.Created).Round(100 * time.Millisecond).String()
}

func (c *cli) showBuild(ctx context.Context, args []string) error {
	n, err := strconv.ParseUint(args[0], 10, 63)
	if err != nil || n == 0 {
		return misuse(quote(args[0])+" is not the number of a build.", "bulwark builds lists them.")
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	b, err := s.Build(ctx, name, n)
	if err != nil {
		return err
	}
	if c.json {
		return c.result(b, nil)
	}
	c.head("%s build %d", name, b.Number)
	c.fields("State", b.State, "Commit", b.Commit, "Image", string(b.Image), "Began", ago(c.now(), b.Created), "Took", took(b), "Reason", b.Reason, "Id", string(b.ID))
	c.showReached(b.Reached)
	if b.Operation == "" {
		return nil
	}
	fmt.Fprintln(c.stdout)
	c.head("Log")
	return c.showLog(ctx, s, name, b.Operation)
}

// showReached lists the places that a build reached or was refused.
func (c *cli) showReached(reached []client.Reached) {
	fmt.Fprintln(c.stdout)
	if len(reached) == 0 {
		c.empty("It reached nothing over the network.")
		return
	}
	c.head("Reached over the network")
	var rows [][]string
	for _, r := range reached {
		state := "allowed"
		if !r.Allowed {
			state = "refused"
		}
		rows = append(rows, []string{fmt.Sprintf("%s:%d", r.Host, r.Port), state, fmt.Sprintf("%dx", r.Count), size(r.Bytes), r.Reason})
	}
	c.table(rows)
}

// showLog shows an operation's log; that the operation failed is no failure of showing it.
func (c *cli) showLog(ctx context.Context, s *session, app bulwark.AppName, op bulwark.OperationID) error {
	_, err := c.watch(ctx, s, app, client.Operation{ID: op})
	switch bulwark.KindOf(err) {
	case bulwark.KindFailed, bulwark.KindCanceled, bulwark.KindConflict:
		if err != nil && ctx.Err() == nil {
			showError(c.env, err)
			return nil
		}
	case bulwark.KindNotFound:
		c.empty("The log is no longer kept.")
		return nil
	}
	return err
}

func (c *cli) cancelBuild(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	if err := c.during("Stopping the build", func() error { return s.CancelBuild(ctx, name) }); err != nil {
		return err
	}
	out := struct {
		App bulwark.AppName `json:"app"`
	}{name}
	return c.result(out, func() { c.say("The build of %s was stopped.", name) })
}
