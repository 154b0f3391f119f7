package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) keysCommand() *cobra.Command {
	add := command("add [PATH]", "Register an SSH key for git", "  $ bulwark keys add\n  $ bulwark keys add ~/.ssh/id_work.pub", between(0, 1, ""), c.addKey)
	add.Long = `Registers a public SSH key of yours, with which you push and sign pushes. Without PATH it is your usual one. Give the
.pub file; of a private key's file the public one beside it is taken.`
	add.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	remove := command("remove FINGERPRINT", "Take a key of yours away, for ever", "  $ bulwark keys remove SHA256:VkJ8bYq…",
		exactly(1, "the fingerprint of a key"), c.removeKey)
	remove.Long = `Takes an SSH key or a device key of yours away. A key that was taken away is never taken again. "bulwark whoami" and
"ssh-keygen -l -f FILE" print fingerprints.`
	return group("keys", "Register and take away keys", "  $ bulwark keys add", nil, add, remove)
}

// changedKey is what a change of keys was about.
type changedKey struct {
	Fingerprint string `json:"fingerprint"`
	Path        string `json:"path,omitempty"`
}

func (c *cli) addKey(ctx context.Context, args []string) error {
	st, err := openStore(c.env)
	if err != nil {
		return err
	}
	srv, err := st.choose(c.server)
	if err != nil {
		return err
	}
	s, err := st.session(srv, c.now)
	if err != nil {
		return err
	}
	path := ""
	if len(args) == 1 {
		path = args[0]
	}
	key, err := c.chooseSSHKey(ctx, path)
	if err != nil {
		return usage(err)
	}
	signed, err := s.sign(statement.KindKeyAdd, "", statement.KeyAdd{SSH: key.line})
	if err != nil {
		return err
	}
	if err := c.during("Registering the key", func() error { return s.AddKey(ctx, signed) }); err != nil {
		return err
	}
	if srv.SSH == "" {
		srv.SSH = key.path
		st.file.Servers[st.index(srv.URL)] = srv
		if err := st.save(); err != nil {
			return err
		}
	}
	return c.result(changedKey{key.fingerprint(), key.path}, func() { c.say("Registered %s (%s).", key.fingerprint(), key.path) })
}

func (c *cli) removeKey(ctx context.Context, args []string) error {
	fingerprint := args[0]
	if !strings.HasPrefix(fingerprint, "SHA256:") || len(fingerprint) != len("SHA256:")+43 {
		return misuse(quote(fingerprint)+" is not a key's fingerprint.", "It is \"SHA256:\" and 43 characters, as bulwark whoami and ssh-keygen -l print it.")
	}
	s, err := c.signedIn()
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindKeyRemove, "", statement.KeyRemove{Fingerprint: fingerprint})
	if err != nil {
		return err
	}
	if err := c.during("Taking the key away", func() error { return s.RemoveKey(ctx, signed) }); err != nil {
		return err
	}
	return c.result(changedKey{Fingerprint: fingerprint}, func() { c.say("Took %s away.", fingerprint) })
}
