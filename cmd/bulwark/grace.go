package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) destroyCommand() *cobra.Command {
	var confirm string
	var now bool
	destroy := c.namesApp(command("destroy [NAME]", "Destroy an app; for a while it can be brought back",
		"  $ bulwark apps destroy shop\n  $ bulwark apps destroy shop --now --confirm shop", nil,
		func(ctx context.Context, _ []string) error { return c.destroyApp(ctx, confirm, now) }))
	destroy.Long = `Destroys an app: its instances end and its addresses serve nothing. The node keeps its releases, its config and its
domains for a grace, by default a week, and "bulwark apps restore" brings it back as it was. Its name is not free before.

With --now there is no grace: the app is gone for good, and its name is free. This can also be said of an app that was
destroyed before.`
	destroy.Flags().StringVar(&confirm, "confirm", "", "the app's name again, in place of being asked for it")
	destroy.Flags().BoolVar(&now, "now", false, "for good: without a grace, or at the end of the one it has")
	return destroy
}

func (c *cli) restoreCommand() *cobra.Command {
	return c.namesApp(command("restore [NAME]", "Bring a destroyed app back as it was", "  $ bulwark apps restore shop", nil, c.restoreApp))
}

func (c *cli) destroyApp(ctx context.Context, confirm string, now bool) error {
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	loss := fmt.Sprintf("This ends the app %s. It can be brought back while the grace lasts that this installation gives, and is gone after it with its releases, its config and its domains.", name)
	if now {
		loss = fmt.Sprintf("This destroys the app %s with its releases, its config and its domains, for ever.", name)
	}
	if err := c.confirm(ctx, confirm, string(name), loss); err != nil {
		return err
	}
	signed, err := s.sign(statement.KindAppDestroy, app.ID, statement.AppDestroy{Name: name, Now: now})
	if err != nil {
		return err
	}
	err = c.during("Destroying "+string(name), func() (err error) {
		app, err = s.DestroyApp(ctx, name, signed)
		return err
	})
	if err != nil {
		return err
	}
	return c.result(app, func() {
		if app.Until == nil {
			c.say("Destroyed %s, for good.", name)
			return
		}
		c.say("Destroyed %s; it %s:", name, untilWhen(app.Until))
		c.say("  bulwark apps restore %s", name)
	})
}

func (c *cli) restoreApp(ctx context.Context, _ []string) error {
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindAppRestore, app.ID, statement.AppRestore{Name: name})
	if err != nil {
		return err
	}
	var back client.App
	err = c.during("Restoring "+string(name), func() (err error) {
		back, err = s.RestoreApp(ctx, name, signed)
		return err
	})
	if err != nil {
		return err
	}
	return c.result(back, func() {
		if back.Release == 0 {
			c.say("Restored %s, which has no release yet.", name)
			return
		}
		c.say("Restored %s; release %s starts. %s", name, releaseName(back.Release), back.URL)
	})
}

// untilWhen says until when an app can be brought back; at the end of its grace nobody knows it for a moment.
func untilWhen(t *time.Time) string {
	if t == nil {
		return "cannot be brought back any more"
	}
	return "can be brought back until " + t.Local().Format("2006-01-02 15:04 MST")
}
