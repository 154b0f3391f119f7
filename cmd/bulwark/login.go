package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

type loginFlags struct {
	token, sshKey, name string
	again               bool
}

func (c *cli) loginCommand() *cobra.Command {
	var f loginFlags
	cmd := command("login URL", "Sign in to a server with a one-time token",
		"  $ bulwark login https://localhost:8443\n  $ bulwark login https://paas.example.org:8443 --ssh-key ~/.ssh/id_work.pub",
		exactly(1, "the address of the server"), func(ctx context.Context, args []string) error { return c.login(ctx, args[0], f) })
	cmd.Long = `Signs in with a one-time token, which the operator makes on the machine with "bulwark token", or with an invitation, which
an owner makes with "bulwark members add". It is asked for;
a program gives it in the environment variable BULWARK_TOKEN. It carries the public key of the server's node, so this
machine knows whom it speaks to from the first byte on.

Signing in makes a device key, which signs what you do and never leaves this machine, registers an SSH key for git, and
pins the server's SSH host keys in ~/.ssh/known_hosts.`
	cmd.Flags().StringVar(&f.token, "token", "", "the token (other users of this machine can see it while the command runs)")
	cmd.Flags().StringVar(&f.sshKey, "ssh-key", "", "public SSH key to register (default: your usual one; a new one if there is none)")
	cmd.Flags().StringVar(&f.name, "name", "", "your name, for people (default: git's user.name)")
	cmd.Flags().BoolVar(&f.again, "again", false, "sign in anew with a new device key")
	return cmd
}

// signIn is what a sign-in leads to.
type signIn struct {
	client.Me
	Server string `json:"server"`
	Device string `json:"device"`            // fingerprint
	SSH    string `json:"ssh_key,omitempty"` // fingerprint
}

func (c *cli) login(ctx context.Context, address string, f loginFlags) error {
	address, err := serverURL(address)
	if err != nil {
		return usage(err)
	}
	st, err := openStore(c.env)
	if err != nil {
		return err
	}
	if !f.again {
		if done, err := c.already(ctx, st, address); done || err != nil {
			return err
		}
	}
	node, p, err := c.token(ctx, f.token)
	if err != nil {
		return err
	}
	info, err := c.meet(ctx, address, statement.NewKey(node))
	if err != nil {
		return err
	}
	return c.signInTo(ctx, st, serverOf(address, info, st), info, p, f)
}

// proof is what an enrolment shows to be let in: the secret of the operator's one-time token, or an invitation's key.
type proof struct {
	secret     []byte
	invitation ed25519.PrivateKey
}

// into writes the proof for a device into an enrolment.
func (p proof) into(e *statement.Enroll) {
	if p.invitation == nil {
		e.Proof = enrol.Proof(p.secret, e.Device)
		return
	}
	e.Proof = enrol.Accept(p.invitation, e.Device)
	e.Invitation = statement.NewKey(p.invitation.Public().(ed25519.PublicKey)).Fingerprint
}

// signInTo enrols this device at a server whose node is known now.
func (c *cli) signInTo(ctx context.Context, st *store, srv server, info *statement.Info, p proof, f loginFlags) error {
	old := srv.Device
	s, made, err := c.deviceSession(st, srv, f.again)
	if err != nil {
		return err
	}
	if !made {
		me, err := s.Whoami(ctx)
		if err == nil {
			// The device is known there; only this machine had forgotten the server. The token stays unused.
			return c.signedInAs(ctx, st, s, me, info, nil, old)
		}
		if !stranger(err) {
			return err
		}
		if known, ok := st.find(srv.URL); ok && known.Node == info.Node {
			// The device was removed there, and a removed key never comes back.
			if s, made, err = c.deviceSession(st, srv, true); err != nil {
				return err
			}
		}
	}
	me, key, err := c.enrol(ctx, s, p, f)
	if err != nil {
		if k := bulwark.KindOf(err); made && k != bulwark.KindInternal && k != bulwark.KindUnavailable {
			// A plain refusal; after anything else the server may know the key, and the next attempt finds that out.
			_, dropErr := st.dropKey(s.server.Device)
			err = errors.Join(err, dropErr)
		}
		return err
	}
	return c.signedInAs(ctx, st, s, me, info, key, old)
}

// already says so if this machine is signed in at address and the server agrees.
func (c *cli) already(ctx context.Context, st *store, address string) (bool, error) {
	srv, ok := st.find(address)
	if !ok {
		return false, nil
	}
	s, err := st.session(srv, c.now)
	if bulwark.KindOf(err) == bulwark.KindUnauthorized {
		return false, nil // the key is gone
	}
	if err != nil {
		return false, err
	}
	me, err := s.Whoami(ctx)
	if stranger(err) {
		return false, nil // removed there, or another installation
	}
	if err != nil {
		return false, err
	}
	st.file.Default = address
	if err := st.save(); err != nil {
		return false, err
	}
	c.watchLog(ctx, s)
	return true, c.result(s.signIn(me), func() {
		c.say("You are signed in at %s already, as %s. To sign in anew: bulwark login %s --again", address, me.Person, address)
	})
}

// stranger reports whether err says that the server and this device do not know each other.
func stranger(err error) bool {
	k := bulwark.KindOf(err)
	return k == bulwark.KindUnauthorized || k == bulwark.KindForbidden
}

// token returns the parts of the token from the flag, the environment or the person.
func (c *cli) token(ctx context.Context, given string) (ed25519.PublicKey, proof, error) {
	if given == "" {
		given = c.getenv("BULWARK_TOKEN")
	}
	if given == "" && !c.stdinTTY && c.secret == nil {
		c.note("The login token is read from standard input.")
	}
	if given == "" {
		var err error
		if given, err = c.askSecret(ctx, "Login token: "); err != nil {
			return nil, proof{}, err
		}
	}
	if node, key, ok, err := enrol.ParseInvitation(given); ok || err != nil {
		return node, proof{invitation: key}, usage(err)
	}
	node, secret, err := enrol.ParseToken(given)
	return node, proof{secret: secret}, usage(err)
}

// serverOf is what is kept of a server, with what was kept of it before.
func serverOf(address string, info *statement.Info, st *store) server {
	old, _ := st.find(address)
	return server{URL: address, CA: string(info.CA), Node: info.Node, Key: info.Key, Domain: info.Domain, Git: info.Ports.SSH, Device: old.Device, SSH: old.SSH}
}

// deviceSession opens a session with the device key of a server: the one that is kept for it, else that of this machine,
// else, or if wanted, one that is made.
func (c *cli) deviceSession(st *store, srv server, fresh bool) (s *session, made bool, err error) {
	if srv.Device == "" {
		srv.Device = deviceFile
	}
	if !fresh {
		s, err := st.session(srv, c.now)
		if err == nil || bulwark.KindOf(err) != bulwark.KindUnauthorized {
			return s, false, err
		}
	}
	name, key, err := st.newKey()
	if err != nil {
		return nil, false, err
	}
	srv.Device = name
	cl, err := client.New(client.Config{URL: srv.URL, CA: []byte(srv.CA), Device: key})
	return &session{Client: cl, server: srv, device: key, now: c.now}, true, err
}

// enrol makes the device and an SSH key known to the node.
func (c *cli) enrol(ctx context.Context, s *session, p proof, f loginFlags) (client.Me, *sshKey, error) {
	key, err := c.chooseSSHKey(ctx, f.sshKey)
	if err != nil {
		return client.Me{}, nil, err
	}
	name := f.name
	if name == "" {
		if name, err = c.gitValue(ctx, "--get", "user.name"); err != nil || name == "" {
			name = c.getenv("USER") // without git too
		}
	}
	proven, err := c.prove(ctx, key, s)
	if err != nil {
		return client.Me{}, nil, err
	}
	device := statement.NewKey(s.device.Public().(ed25519.PublicKey)).PKIX()
	e := statement.Enroll{Name: name, Device: device, SSH: []statement.SSHKey{proven}}
	p.into(&e)
	signed, err := s.sign(statement.KindEnroll, "", e)
	if err != nil {
		return client.Me{}, nil, err
	}
	var me client.Me
	err = c.during("Signing in", func() (err error) {
		me, err = s.Login(ctx, signed)
		return err
	})
	if bulwark.KindOf(err) == bulwark.KindConflict {
		err = bulwark.Fail(bulwark.KindConflict, "A key of yours is registered there for somebody else, or was removed there.",
			"Give another SSH key with --ssh-key PATH, or make a new device key with --again. The token is still good.", err)
	}
	return me, &key, err
}

// signedInAs keeps the server and says who the person is now.
func (c *cli) signedInAs(ctx context.Context, st *store, s *session, me client.Me, info *statement.Info, key *sshKey, old string) error {
	srv := s.server
	srv.Person = me.Person
	if key != nil {
		srv.SSH = key.path
	}
	s.server = srv
	st.put(srv)
	if err := st.save(); err != nil {
		return err
	}
	if _, err := st.dropKey(old); err != nil { // the one before, if there was another
		return err
	}
	c.watchLog(ctx, s)
	pinned, err := pinHostKeys(c.home, srv.host(), fmt.Sprint(info.Ports.SSH), info.SSH)
	if err != nil {
		return err
	}
	elses := c.ofSomebodyElse(ctx, s, key)
	return c.result(s.signIn(me), func() {
		c.say("Signed in at %s as %s.", srv.URL, me.Person)
		c.fields("  Server's node", srv.Node, "  Device key", filepath.Join(st.dir, srv.Device)+" ("+s.fingerprint()+")", "  SSH key", srv.SSH)
		if pinned > 0 {
			c.say("The server's SSH host keys were pinned in ~/.ssh/known_hosts.")
		}
		if elses != "" {
			c.say("That SSH key is registered there for %s, so what you push with it counts as theirs. For one of your own: bulwark keys add PATH", elses)
		}
	})
}

// ofSomebodyElse tells whose an SSH key is that was to be registered and is another person's already, most often the same human being's from
// an earlier device; "" if it is nobody else's, or if that cannot be known, which matters little.
func (c *cli) ofSomebodyElse(ctx context.Context, s *session, key *sshKey) bulwark.PersonID {
	if key == nil {
		return ""
	}
	keys, err := s.Keys(ctx)
	if err != nil {
		return ""
	}
	for _, k := range keys {
		if k.Kind == "ssh" && k.Fingerprint == key.fingerprint() && k.Person != s.server.Person {
			return k.Person
		}
	}
	return ""
}

// fingerprint is the device key's.
func (s *session) fingerprint() string {
	return statement.NewKey(s.device.Public().(ed25519.PublicKey)).Fingerprint
}

func (s *session) signIn(me client.Me) signIn {
	out := signIn{Me: me, Server: s.server.URL, Device: s.fingerprint()}
	if s.server.SSH != "" {
		if k, err := readSSHKey(s.server.SSH); err == nil {
			out.SSH = k.fingerprint()
		}
	}
	return out
}
