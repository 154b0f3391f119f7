package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) tokensCommand() *cobra.Command {
	var scopes []string
	var expires string
	create := command("create NAME", "Make an access token for a program", "  $ bulwark tokens create ci --scope deploy:shop --expires 30d", exactly(1, "a name for the token"),
		func(ctx context.Context, args []string) error { return c.createToken(ctx, args[0], scopes, expires) })
	create.Long = `Makes an access token and shows it once. It signs in your name what its scopes say, and never more than you may yourself at that
time: "deploy:shop" deploys and rolls back, "config:shop" sets variables and build secrets, "run:shop" runs commands, "read:shop" reads the
app and its logs. A token reveals no value and changes no member, key or token.

A program gives it in the environment variable BULWARK_TOKEN, with the server's address in BULWARK_SERVER:

  BULWARK_SERVER=https://paas.example.org:8443 BULWARK_TOKEN=bulwark-token-… bulwark deploy . --app shop`
	create.Flags().StringArrayVar(&scopes, "scope", nil, "what it is for: deploy:APP, config:APP, run:APP or read:APP; again for more")
	create.Flags().StringVar(&expires, "expires", "30d", "how long it is good: 12h, 30d, at most a year")
	if err := create.MarkFlagRequired("scope"); err != nil {
		panic(err) // the flag was made above
	}
	revoke := command("revoke TOKEN", "End a token, at once and for ever", "  $ bulwark tokens revoke ci", exactly(1, "the name or the id of a token"), c.revokeToken)
	ls := command("list", "List your tokens", "  $ bulwark tokens list", exactly(0, ""), c.listTokens)
	return group("tokens", "Make, list and revoke access tokens for programs", "  $ bulwark tokens\n  $ bulwark tokens create ci --scope deploy:shop", c.listTokens, create, ls, revoke)
}

// madeToken is what tokens create leads to.
type madeToken struct {
	ID    bulwark.TokenID `json:"id"`
	Name  string          `json:"name"`
	Token string          `json:"token"`
	Until time.Time       `json:"until"`
}

func (c *cli) createToken(ctx context.Context, name string, scopes []string, expires string) error {
	life, err := parseLife(expires)
	if err != nil {
		return err
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	body := statement.TokenCreate{Token: bulwark.NewTokenID(), Name: name, Until: c.now().Add(life).UTC().Truncate(time.Second)}
	for _, text := range scopes {
		do, app, _ := strings.Cut(text, ":")
		deed, err := bulwark.ParseDeed(do)
		if err != nil {
			return usage(err)
		}
		n, err := bulwark.ParseAppName(app)
		if err != nil {
			return usage(err)
		}
		a, err := s.App(ctx, n)
		if err != nil {
			return err
		}
		body.Scopes = append(body.Scopes, statement.Scope{Do: deed, App: a.ID})
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	body.Key = statement.NewKey(key.Public().(ed25519.PublicKey)).PKIX()
	signed, err := s.sign(statement.KindTokenCreate, "", body)
	if err != nil {
		return err
	}
	if err := c.during("Making the token", func() error { return s.ChangeTokens(ctx, signed) }); err != nil {
		return err
	}
	text := enrol.FormatAccessToken(s.server.key().Ed25519, key)
	return c.result(madeToken{ID: body.Token, Name: name, Token: text, Until: body.Until}, func() {
		c.say("The token %s, good until %s. It is shown this once:", name, body.Until.Format(time.DateTime))
		c.say("  %s", text)
		c.say("Use it with BULWARK_SERVER=%s and BULWARK_TOKEN.", s.server.URL)
	})
}

func (c *cli) listTokens(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	all, err := s.Tokens(ctx)
	if err != nil {
		return err
	}
	return c.result(list(all), func() {
		if len(all) == 0 {
			c.empty("You have no access tokens. Make one with bulwark tokens create NAME --scope deploy:APP.")
			return
		}
		c.head("Access tokens")
		var rows [][]string
		for _, t := range all {
			state := "until " + t.Until.Format(time.DateTime)
			if t.Ended {
				state = "ended"
			}
			used := "not used since the server started"
			if t.Used != nil {
				used = "used " + ago(c.now(), *t.Used)
			}
			rows = append(rows, []string{string(t.ID), clean(t.Name), strings.Join(t.Scopes, " "), state, used})
		}
		c.table(rows)
	})
}

func (c *cli) revokeToken(ctx context.Context, args []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	var id bulwark.TokenID
	if id.UnmarshalText([]byte(args[0])) != nil {
		if id, err = s.tokenNamed(ctx, args[0]); err != nil {
			return err
		}
	}
	signed, err := s.sign(statement.KindTokenRevoke, "", statement.TokenRevoke{Token: id})
	if err != nil {
		return err
	}
	if err := c.during("Revoking the token", func() error { return s.ChangeTokens(ctx, signed) }); err != nil {
		return err
	}
	return c.result(struct {
		ID bulwark.TokenID `json:"id"`
	}{id}, func() { c.say("The token %s has ended.", args[0]) })
}

// tokenNamed finds the one live token of a name.
func (s *session) tokenNamed(ctx context.Context, name string) (bulwark.TokenID, error) {
	all, err := s.Tokens(ctx)
	if err != nil {
		return "", err
	}
	var found []client.Token
	for _, t := range all {
		if t.Name == name && !t.Ended {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 1:
		return found[0].ID, nil
	case 0:
		return "", bulwark.Fail(bulwark.KindNotFound, "You have no token of that name that has not ended.", "See bulwark tokens list.", nil)
	}
	return "", misuse("Several tokens have that name.", "Give the id, as bulwark tokens list shows it.")
}

// parseLife reads a duration of hours or days.
func parseLife(text string) (time.Duration, error) {
	bad := misuse("The time "+strconv.Quote(text)+" cannot be read.", "Give hours or days: 12h, 30d.")
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 1 || n > 3660 {
			return 0, bad
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, bad
	}
	return d, nil
}

// tokenSession is a session by an access token of the environment, nil if there is none. The server is the one that was named, or
// the environment's; the token says by which node it is to be known.
func (c *cli) tokenSession(ctx context.Context, gitHost string) (*session, error) {
	node, key, ok, err := enrol.ParseAccessToken(c.getenv("BULWARK_TOKEN"))
	if !ok || err != nil {
		return nil, usage(err)
	}
	address := c.server
	if address == "" {
		address = c.getenv("BULWARK_SERVER")
	}
	if address == "" {
		hint := "Set BULWARK_SERVER, such as https://paas.example.org:8443, or give --server."
		if gitHost != "" {
			hint = "Set BULWARK_SERVER, such as https://" + gitHost + ":8443, or give --server."
		}
		return nil, misuse("Which server? BULWARK_TOKEN does not say.", hint)
	}
	if address, err = serverURL(address); err != nil {
		return nil, usage(err)
	}
	k := statement.NewKey(node)
	info, err := c.meet(ctx, address, k)
	if err != nil {
		return nil, err
	}
	cl, err := client.New(client.Config{URL: address, CA: info.CA, Device: key})
	if err != nil {
		return nil, err
	}
	srv := server{URL: address, CA: string(info.CA), Node: info.Node, Key: info.Key, Domain: info.Domain, Git: info.Ports.SSH}
	return &session{Client: cl, server: srv, device: key, now: c.now}, nil
}
