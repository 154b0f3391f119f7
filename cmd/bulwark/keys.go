package main

import (
	"context"
	"crypto/ed25519"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) keysCommand() *cobra.Command {
	add := command("add [PATH]", "Register an SSH key for git", "  $ bulwark keys add\n  $ bulwark keys add ~/.ssh/id_work.pub", between(0, 1, ""), c.addKey)
	add.Long = `Registers a public SSH key of yours, with which you push and sign pushes. Without PATH it is your usual one. Give the
.pub file; of a private key's file the public one beside it is taken. The key signs that it is to be yours, so its private half has to be
here or in the agent.`
	add.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	remove := command("remove FINGERPRINT", "Take a key away, for ever", "  $ bulwark keys remove SHA256:VkJ8bYq…",
		exactly(1, "the fingerprint of a key"), c.removeKey)
	remove.Long = `Takes an SSH key or a device key away. A key that was taken away is never taken again. "bulwark keys list" and
"ssh-keygen -l -f FILE" print fingerprints.`
	remove.ValidArgsFunction = c.completeKey
	ls := command("list", "List the keys of everybody", "  $ bulwark keys list", exactly(0, ""), c.listKeys)
	return group("keys", "Register, list and take away keys", "  $ bulwark keys list\n  $ bulwark keys add", nil, add, remove, ls)
}

func (c *cli) listKeys(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	keys, err := s.Keys(ctx)
	if err != nil {
		return err
	}
	me, err := s.Whoami(ctx)
	if err != nil {
		return err
	}
	own := statement.NewKey(s.device.Public().(ed25519.PublicKey)).Fingerprint
	return c.result(list(keys), func() {
		c.head("Keys")
		var rows [][]string
		for _, k := range keys {
			whose := string(k.Person)
			if k.Person == me.Person {
				whose = "yours"
			}
			if k.Kind == "device" && k.Fingerprint == own {
				whose = "yours, of this machine"
			}
			rows = append(rows, []string{k.Fingerprint, k.Kind, whose})
		}
		c.table(rows)
	})
}

// completeKey offers the fingerprints of the person's own keys; like completeApp it is quick or silent.
func (c *cli) completeKey(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	s, err := c.signedIn(ctx)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	me, err := s.Whoami(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	keys, err := s.Keys(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, k := range keys {
		if k.Person == me.Person {
			out = append(out, k.Fingerprint+"\t"+k.Kind)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
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
	proven, err := c.prove(ctx, key, s)
	if err != nil {
		return usage(err)
	}
	signed, err := s.sign(statement.KindKeyAdd, "", statement.KeyAdd{SSH: &proven})
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
		return misuse(quote(fingerprint)+" is not a key's fingerprint.", "It is \"SHA256:\" and 43 characters, as bulwark keys list and ssh-keygen -l print it.")
	}
	s, err := c.signedIn(ctx)
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
