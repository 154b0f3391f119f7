package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (c *cli) logoutCommand() *cobra.Command {
	cmd := command("logout", "Forget the server and the device key on this machine", "  $ bulwark logout", exactly(0, ""),
		func(context.Context, []string) error { return c.logout() })
	cmd.Long = `Forgets the server and deletes the device key from this machine, if no other server uses it. The key stays registered
at the server, where nobody can use it any more; take it away there with "bulwark keys remove" from another device. To
sign in again you need a new token.`
	return cmd
}

func (c *cli) logout() error {
	st, err := openStore(c.env)
	if err != nil {
		return err
	}
	srv, err := st.choose(c.server)
	if err != nil {
		return err
	}
	st.remove(srv.URL)
	if err := st.save(); err != nil {
		return err
	}
	dropped, err := st.dropKey(srv.Device)
	if err != nil {
		return err
	}
	out := struct {
		Server  string `json:"server"`
		Deleted bool   `json:"device_key_deleted"`
	}{srv.URL, dropped}
	return c.result(out, func() {
		c.say("Signed out of %s.", srv.URL)
		if dropped {
			c.say("The device key was deleted from this machine.")
		}
	})
}

func (c *cli) whoamiCommand() *cobra.Command {
	return command("whoami", "Show who you are and where", "  $ bulwark whoami", exactly(0, ""), func(ctx context.Context, _ []string) error {
		s, err := c.signedIn(ctx)
		if err != nil {
			return err
		}
		me, err := s.Whoami(ctx)
		if err != nil {
			return err
		}
		out := s.signIn(me)
		return c.result(out, func() {
			c.fields("Person", string(me.Person), "Roles", c.roles(ctx, s, me), "Server", out.Server, "Server's node", s.server.Node, "Device key", out.Device, "SSH key", out.SSH)
		})
	})
}
