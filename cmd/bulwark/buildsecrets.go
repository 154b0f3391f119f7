package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) buildSecretsCommand() *cobra.Command {
	set := c.forApp(command("set NAME=VALUE...", "Set build secrets", "  $ bulwark build-secrets set NPM_TOKEN=-\n  $ bulwark build-secrets set NETRC=@.netrc",
		atLeast(1, "NAME=VALUE"), c.setBuildSecrets))
	set.Long = `Sets secrets that a build step may ask for; no other step sees them, and they are no part of the image. They are sealed
on this machine as config variables are, and are written the same way: NAME=VALUE, NAME=@FILE or NAME=-.`
	unset := c.forApp(command("unset NAME...", "Take build secrets away", "  $ bulwark build-secrets unset NPM_TOKEN",
		atLeast(1, "the name of a build secret"), c.unsetBuildSecrets))
	ls := c.forApp(command("list", "List the names of the build secrets", "  $ bulwark build-secrets list", exactly(0, ""), c.listBuildSecrets))
	return c.forApp(group("build-secrets", "Set and list the secrets of an app's builds", "  $ bulwark build-secrets", c.listBuildSecrets, set, unset, ls))
}

func (c *cli) listBuildSecrets(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	secrets, err := s.BuildSecrets(ctx, name)
	if err != nil {
		return err
	}
	return c.result(list(secrets), func() {
		if len(secrets) == 0 {
			c.empty("%s has no build secrets.", name)
			return
		}
		c.head("%s build secrets", name)
		var rows [][]string
		for _, b := range secrets {
			rows = append(rows, []string{string(b.Name), "set " + ago(c.now(), b.Set)})
		}
		c.table(rows)
	})
}

func (c *cli) setBuildSecrets(ctx context.Context, args []string) error {
	values, err := c.assigned(ctx, args)
	if err != nil {
		return err
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	return c.settingBy(name, statement.KindBuildSecret, "Set "+strings.Join(sortedNames(values), ", ")+" for the builds of "+string(name)+".", func() error {
		return s.sealed(ctx, app, seal.UseBuild, values, statement.ConfigSet{}, func(body statement.ConfigSet) error {
			return s.set(ctx, name, app.ID, statement.KindBuildSecret, body)
		})
	})
}

func (c *cli) unsetBuildSecrets(ctx context.Context, args []string) error {
	names, err := parseNames(args)
	if err != nil {
		return usage(err)
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	return c.setting(ctx, s, name, app.ID, statement.KindBuildSecret, statement.ConfigSet{Unset: names},
		"The builds of "+string(name)+" no longer have "+strings.Join(args, ", ")+".")
}

// setting signs and sends a change that makes no release, and says what is so now.
func (c *cli) setting(ctx context.Context, s *session, name bulwark.AppName, id bulwark.AppID, kind statement.Kind, body any, done string) error {
	return c.settingBy(name, kind, done, func() error { return s.set(ctx, name, id, kind, body) })
}

// set signs and sends it.
func (s *session) set(ctx context.Context, name bulwark.AppName, id bulwark.AppID, kind statement.Kind, body any) error {
	signed, err := s.sign(kind, id, body)
	if err != nil {
		return err
	}
	return s.Setting(ctx, name, signed)
}

// settingBy is setting by a function that sends it.
func (c *cli) settingBy(name bulwark.AppName, kind statement.Kind, done string, send func() error) error {
	if err := c.during("Changing "+string(name), send); err != nil {
		return err
	}
	out := struct {
		App  bulwark.AppName `json:"app"`
		Kind statement.Kind  `json:"kind"`
	}{name, kind}
	return c.result(out, func() { c.say("%s", done) })
}
