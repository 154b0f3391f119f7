package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) appsCommand() *cobra.Command {
	list := command("list", "List the apps", "  $ bulwark apps list", exactly(0, ""), c.listApps)
	list.Aliases = []string{"ls"}
	return group("apps", "Make, list, protect, destroy and restore apps", "  $ bulwark apps\n  $ bulwark apps create shop", c.listApps,
		list, c.createCommand(), c.namesApp(command("info [NAME]", "Show an app", "  $ bulwark apps info shop", nil, c.appInfo)), c.protectCommand(),
		c.destroyCommand(), c.restoreCommand())
}

func (c *cli) listApps(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	apps, err := s.Apps(ctx)
	if err != nil {
		return err
	}
	return c.result(list(apps), func() {
		if len(apps) == 0 {
			c.empty("There are no apps yet. Make one with bulwark apps create NAME.")
			return
		}
		var rows, ended [][]string
		for _, a := range apps {
			if a.State == client.StateDestroyed {
				ended = append(ended, []string{string(a.Name), untilWhen(a.Until), "bulwark apps restore " + string(a.Name)})
				continue
			}
			rows = append(rows, []string{string(a.Name), a.State, releaseName(a.Release), a.URL, ago(c.now(), a.Created)})
		}
		if len(rows) > 0 {
			c.head("Apps")
			c.table(rows)
		}
		if len(ended) > 0 {
			c.head("Destroyed")
			c.table(ended)
		}
	})
}

func (c *cli) createCommand() *cobra.Command {
	var force bool
	var project string
	create := command("create NAME", "Make an app, and connect the git repository here with it",
		"  $ cd my-app && bulwark apps create shop", exactly(1, "the name of the new app"),
		func(ctx context.Context, args []string) error { return c.createApp(ctx, args[0], project, force) })
	create.Long = `Makes an app. Inside a git repository it also adds the git remote "bulwark" and turns on signed pushes, as
"bulwark git setup" does.`
	create.Flags().StringVar(&project, "project", "", "project that the app belongs to: ORG/PROJECT, or PROJECT if you belong to one organisation")
	create.Flags().BoolVar(&force, "force", false, "replace a git remote \"bulwark\" that leads elsewhere")
	return create
}

func (c *cli) createApp(ctx context.Context, text, project string, force bool) error {
	name, err := bulwark.ParseAppName(text)
	if err != nil {
		return usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	at, err := s.projectFor(ctx, project)
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: name, Project: at})
	if err != nil {
		return err
	}
	var app client.App
	err = c.during("Creating "+text, func() (err error) {
		app, err = s.CreateApp(ctx, signed)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.result(app, func() {
		c.say("Created %s.", app.Name)
		c.fields("  Address", app.URL, "  Git", app.GitURL)
	}); err != nil {
		return err
	}
	return c.connectHere(ctx, s, app, force)
}

// connectHere connects the repository that the current directory is in, if it is in one. The app is there already, so
// that what stands in the way is told and is no failure.
func (c *cli) connectHere(ctx context.Context, s *session, app client.App, force bool) error {
	top, err := c.repository(ctx)
	if err == nil && top == "" {
		c.say("This directory is in no git repository. Connect one with: bulwark git setup --app %s", app.Name)
		return nil
	}
	var done *gitSetup
	if err == nil {
		done, err = c.connect(ctx, s, app, top, force)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.note("The app was made, but the git repository here was not connected with it.")
		showError(c.env, err)
		return nil
	}
	if !c.json {
		c.tellGit(done)
	}
	return nil
}

func (c *cli) appInfo(ctx context.Context, _ []string) error {
	_, _, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	return c.result(app, func() {
		c.head("%s", app.Name)
		state := app.State
		if state == client.StateDestroyed {
			state += ", " + untilWhen(app.Until)
		}
		c.fields("Address", app.URL, "Git", app.GitURL, "Domains", hostNames(app.Domains), "State", state,
			"Release", releaseName(app.Release), "Config", "revision "+number(app.Config), "Processes", formation(app.Formation),
			"Protection", protection(app.Protection), "Created", ago(c.now(), app.Created), "Id", string(app.ID))
	})
}

func (c *cli) openCommand() *cobra.Command {
	return c.namesApp(command("open [APP]", "Print the address of an app", "  $ bulwark open -a shop", nil,
		func(ctx context.Context, _ []string) error {
			s, name, err := c.onApp(ctx)
			if err != nil {
				return err
			}
			app, err := s.App(ctx, name)
			if err != nil {
				return err
			}
			return c.result(app, func() { c.say("%s", app.URL) })
		}))
}

// formation writes how many instances the process types have: "web=2 worker=1".
func formation(f map[bulwark.ProcessType]int) string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(f)) {
		out = append(out, fmt.Sprintf("%s=%d", p, f[p]))
	}
	return strings.Join(out, " ")
}

func hostNames(hosts []bulwark.HostName) string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = string(h)
	}
	return strings.Join(out, ", ")
}

// releaseName writes a release's number; none is "-".
func releaseName(n uint64) string {
	if n == 0 {
		return "-"
	}
	return "v" + number(n)
}

func number(n uint64) string { return fmt.Sprint(n) }
