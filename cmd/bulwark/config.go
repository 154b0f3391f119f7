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
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) configCommand() *cobra.Command {
	set := c.forApp(command("set NAME=VALUE...", "Set config variables, which makes a new release",
		"  $ bulwark config set LOG_LEVEL=debug WORKERS=4\n  $ bulwark config set TLS_KEY=@key.pem\n  $ pass show db | bulwark config set DATABASE_URL=-",
		atLeast(1, "NAME=VALUE"), c.setConfig))
	set.Long = `Sets config variables of an app and makes a new release with them. Values are sealed on this machine to a key that
only the node has: the server and its database never see them.

A value on the command line stays in your shell's history. NAME=@FILE takes a file's content, NAME=- standard input or,
on a terminal, a question; one line end at the end is left out.`
	unset := c.forApp(command("unset NAME...", "Take config variables away, which makes a new release",
		"  $ bulwark config unset LOG_LEVEL", atLeast(1, "the name of a variable"), c.unsetConfig))
	reveal := c.forApp(command("reveal NAME", "Show the value of a config variable",
		"  $ bulwark config reveal DATABASE_URL", exactly(1, "the name of a variable"), c.revealConfig))
	reveal.Long = `Shows the value of one config variable. The node seals it to a key that is made for this one time, so nobody between
can read it. That you asked is recorded.`
	return c.forApp(group("config", "List, set and reveal config variables",
		"  $ bulwark config\n  $ bulwark config set LOG_LEVEL=debug", c.listConfig, set, unset, reveal))
}

func (c *cli) listConfig(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	config, err := s.Config(ctx, name)
	if err != nil {
		return err
	}
	config.Variables = list(config.Variables)
	return c.result(config, func() {
		if len(config.Variables) == 0 {
			c.empty("%s has no config variables.", name)
			return
		}
		c.head("%s config, revision %d", name, config.Revision)
		var rows [][]string
		for _, v := range config.Variables {
			rows = append(rows, []string{string(v.Name), fmt.Sprintf("set in revision %d", v.Revision)})
		}
		c.table(rows)
	})
}

func (c *cli) setConfig(ctx context.Context, args []string) error {
	values, err := c.assigned(ctx, args)
	if err != nil {
		return err
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	app, config, err := s.configOf(ctx, name)
	if err != nil {
		return err
	}
	body := statement.ConfigSet{Base: config.Revision}
	return c.changeConfig(ctx, s, app, body, values, "Setting "+strings.Join(sortedNames(values), ", "))
}

func (c *cli) unsetConfig(ctx context.Context, args []string) error {
	names, err := parseNames(args)
	if err != nil {
		return usage(err)
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	app, config, err := s.configOf(ctx, name)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !slices.ContainsFunc(config.Variables, func(v client.Variable) bool { return v.Name == n }) {
			return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("%s has no config variable %s, so nothing was changed.", name, n), "See bulwark config.", nil)
		}
	}
	return c.changeConfig(ctx, s, app, statement.ConfigSet{Base: config.Revision, Unset: names}, nil, "Unsetting "+strings.Join(args, ", "))
}

// changeConfig makes a config revision and shows the release that follows.
func (c *cli) changeConfig(ctx context.Context, s *session, app client.App, body statement.ConfigSet, values map[bulwark.ConfigName][]byte, what string) error {
	var op client.Operation
	err := c.during(what, func() error {
		return s.sealed(ctx, app, seal.UseConfig, values, body, func(body statement.ConfigSet) error {
			signed, err := s.sign(statement.KindConfigSet, app.ID, body)
			if err == nil {
				op, err = s.Change(ctx, app.Name, signed)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	done, err := c.watch(ctx, s, app.Name, op)
	if err != nil {
		return err
	}
	switch {
	case c.json: // the events have told all
	case done.Release == 0:
		c.say("Config of %s is at revision %d. It has no release yet: the next one will use it.", app.Name, body.Base+1)
	default:
		c.say("%s", c.releaseLine(app.Name, done))
	}
	return nil
}

func (c *cli) revealConfig(ctx context.Context, args []string) error {
	names, err := parseNames(args)
	if err != nil {
		return usage(err)
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	key, err := seal.GenerateKey()
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindConfigReveal, app.ID, statement.ConfigReveal{Name: names[0], Recipient: key.Public()})
	if err != nil {
		return err
	}
	sealed, err := s.Reveal(ctx, name, signed)
	if err != nil {
		return err
	}
	value, err := key.Open(s.place(app, seal.UseReveal, names[0]), sealed)
	if err != nil {
		return err
	}
	return c.result(map[bulwark.ConfigName]string{names[0]: string(value)}, func() {
		if c.stdoutTTY {
			c.say("%s", value)
			return
		}
		fmt.Fprintln(c.stdout, string(value)) // as it is, for a program
	})
}

// assigned reads the arguments of a set command.
func (c *cli) assigned(ctx context.Context, args []string) (map[bulwark.ConfigName][]byte, error) {
	parsed, err := parseAssignments(args)
	if err != nil {
		return nil, usage(err)
	}
	return c.readValues(ctx, parsed)
}

// configOf returns an app and its newest config.
func (s *session) configOf(ctx context.Context, name bulwark.AppName) (client.App, client.AppConfig, error) {
	app, err := s.App(ctx, name)
	if err != nil {
		return app, client.AppConfig{}, err
	}
	config, err := s.Config(ctx, name)
	return app, config, err
}

func (s *session) place(app client.App, use string, name bulwark.ConfigName) seal.Place {
	return seal.Place{Node: s.server.Node, Project: app.Project, App: app.ID, Use: use, Name: name}
}

// sealed seals values for body to the key of the app's project, as the node has signed it just now, and sends it: the server
// can give neither a key of its own nor an old one. If the key is replaced in between, which happens by itself every
// few months, the node refuses the values, and they are sealed to the new key, once.
func (s *session) sealed(ctx context.Context, app client.App, use string, values map[bulwark.ConfigName][]byte, body statement.ConfigSet, send func(statement.ConfigSet) error) error {
	try := func() error {
		if err := s.seal(ctx, app, use, values, &body); err != nil {
			return err
		}
		return send(body)
	}
	err := try()
	if bulwark.KindOf(err) == bulwark.KindStale {
		err = try()
	}
	return err
}

func (s *session) seal(ctx context.Context, app client.App, use string, values map[bulwark.ConfigName][]byte, body *statement.ConfigSet) error {
	if len(values) == 0 {
		return nil
	}
	info, err := s.infoNow(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(info.Projects, func(p statement.ProjectKey) bool { return p.Project == app.Project })
	if i < 0 {
		return bulwark.Failf(bulwark.KindForbidden, "The node has signed for no key of the project of %s, so nothing was sealed.", app.Name)
	}
	body.Key, body.Set = info.Projects[i].Version, map[bulwark.ConfigName][]byte{}
	for name, v := range values {
		if body.Set[name], err = seal.Value(info.Projects[i].Public, s.place(app, use, name), v); err != nil {
			return err
		}
	}
	return nil
}

func sortedNames(values map[bulwark.ConfigName][]byte) []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(values)) {
		out = append(out, string(n))
	}
	return out
}
