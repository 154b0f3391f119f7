package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) maintenanceCommand() *cobra.Command {
	cmd := command("maintenance [on|off]", "Have the edge answer in an app's place", "  $ bulwark maintenance\n  $ bulwark maintenance on -a shop", between(0, 1, ""), c.maintenance)
	cmd.Long = `With on, whoever comes is told that the app is being worked on (status 503), and no request reaches it; its processes go on. Networks that
bulwark shield allow names get through, so that you can look at it. See bulwark pages for a page of your own.`
	cmd.ValidArgs = []string{string(bulwark.MaintenanceOn), string(bulwark.MaintenanceOff)}
	return c.forApp(cmd)
}

func (c *cli) maintenance(ctx context.Context, args []string) error {
	if len(args) == 0 {
		s, name, err := c.onApp(ctx)
		if err != nil {
			return err
		}
		v, err := s.Shield(ctx, name)
		if err != nil {
			return err
		}
		mode := v.Shield.Maintenance
		if mode == "" {
			mode = bulwark.MaintenanceOff
		}
		return c.result(struct {
			App         bulwark.AppName         `json:"app"`
			Maintenance bulwark.MaintenanceMode `json:"maintenance"`
		}{name, mode}, func() { c.say("%s", mode) })
	}
	mode, err := bulwark.ParseMaintenanceMode(args[0])
	if err != nil {
		return usage(err)
	}
	return c.changeShield(ctx, bulwark.ShieldChange{Maintenance: mode}, map[bulwark.MaintenanceMode]string{
		bulwark.MaintenanceOn: "%s is in maintenance: the edge answers in its place.", bulwark.MaintenanceOff: "%s serves again."}[mode])
}

// changeShield signs and sends a change; done has the app's name in it.
func (c *cli) changeShield(ctx context.Context, change bulwark.ShieldChange, done string) error {
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	return c.setting(ctx, s, name, app.ID, statement.KindShieldSet, statement.Shield{Change: change}, fmt.Sprintf(done, name))
}

func (c *cli) pagesCommand() *cobra.Command {
	set := c.forApp(command("set PAGE FILE", "Give a page of the edge's another form", "  $ bulwark pages set maintenance soon.html\n  $ bulwark pages set error sorry.html",
		exactly(2, "a page and a file"), c.setPage))
	set.Long = `PAGE is error, which is shown when the app gives no proper answer (502), does not run (503) or takes too long (504), or maintenance. FILE is
HTML of at most 24 KB. It may have styles and pictures within itself; it loads nothing and runs nothing. ` + bulwark.PageID + ` in it becomes the number of
the request, which is in the log.`
	remove := c.forApp(command("remove PAGE", "Show the edge's own page again", "  $ bulwark pages remove error", exactly(1, "a page"), func(ctx context.Context, args []string) error {
		name, err := bulwark.ParsePageName(args[0])
		if err != nil {
			return usage(err)
		}
		return c.changeShield(ctx, bulwark.ShieldChange{Pages: map[bulwark.PageName]string{name: ""}}, "%s shows the edge's own page \""+string(name)+"\" again.")
	}))
	ls := c.forApp(command("list", "List the pages that were given", "  $ bulwark pages list", exactly(0, ""), c.listPages))
	return c.forApp(group("pages", "Give, remove and list error pages of an app", "  $ bulwark pages\n  $ bulwark pages set error sorry.html", c.listPages, set, remove, ls))
}

func (c *cli) setPage(ctx context.Context, args []string) error {
	name, err := bulwark.ParsePageName(args[0])
	if err != nil {
		return usage(err)
	}
	f, err := os.Open(args[1])
	var text []byte
	if err == nil {
		defer f.Close()
		text, err = io.ReadAll(io.LimitReader(f, bulwark.MaxPage+1))
	}
	if err != nil {
		return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s cannot be read.", args[1]), "Give a file of HTML.", err)
	}
	if len(text) == 0 {
		return bulwark.Invalid(fmt.Sprintf("The file %s is empty.", args[1]), "Give a file of HTML, or take the page away with bulwark pages remove.")
	}
	change := bulwark.ShieldChange{Pages: map[bulwark.PageName]string{name: string(text)}}
	if _, err := (bulwark.Shield{}).With(change); err != nil {
		return err
	}
	return c.changeShield(ctx, change, "%s has a page \""+string(name)+"\" of its own.")
}

func (c *cli) listPages(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	v, err := s.Shield(ctx, name)
	if err != nil {
		return err
	}
	pages := v.Shield.Pages
	if pages == nil {
		pages = map[bulwark.PageName]string{}
	}
	return c.result(pages, func() {
		if len(pages) == 0 {
			c.empty("%s shows the edge's own pages. See bulwark pages set.", name)
			return
		}
		c.head("%s pages", name)
		var rows [][]string
		for _, n := range slices.Sorted(maps.Keys(pages)) {
			rows = append(rows, []string{string(n), fmt.Sprintf("%d bytes", len(pages[n]))})
		}
		c.table(rows)
	})
}
