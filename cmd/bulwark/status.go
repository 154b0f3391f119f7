package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark/client"
)

func (c *cli) statusCommand() *cobra.Command {
	return command("status", "Show how the platform is", "  $ bulwark status", exactly(0, ""), func(ctx context.Context, _ []string) error {
		s, err := c.signedIn(ctx)
		if err != nil {
			return err
		}
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		return c.result(st, func() { c.showStatus(s.server.URL, st) })
	})
}

func (c *cli) showStatus(address string, st client.Status) {
	c.head("%s", address)
	c.fields("Version", st.Version, "Apps", fmt.Sprint(st.Apps), "Instances", fmt.Sprintf("%d, of which %d healthy", st.Instances, st.Healthy),
		"Builds", fmt.Sprintf("%d under way", st.Building), "Node", st.Node, "Edge", st.Edge, "Certificates", clean(st.Certificates))
}

func (c *cli) versionCommand() *cobra.Command {
	return command("version", "Show the version of this program and of the server", "  $ bulwark version", exactly(0, ""), c.showVersion)
}

// showVersion asks the server too if there is one, and does without its answer.
func (c *cli) showVersion(ctx context.Context, _ []string) error {
	out := struct {
		Client string `json:"client"`
		Server string `json:"server,omitempty"`
		URL    string `json:"url,omitempty"`
	}{Client: c.version}
	if s, err := c.signedIn(ctx); err == nil {
		ask, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if info, err := s.Info(ask, ""); err == nil {
			out.Server, out.URL = info.Version, s.server.URL
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.result(out, func() {
		c.say("bulwark %s", out.Client)
		if out.Server != "" {
			c.say("server  %s at %s", out.Server, out.URL)
		}
	})
}
