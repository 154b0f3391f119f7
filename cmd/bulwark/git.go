package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// remoteName is the git remote that leads to the server.
const remoteName = "bulwark"

// gitAddress is the address of an app's repository.
type gitAddress struct {
	host string
	port string // empty means SSH's own
	app  bulwark.AppName
}

// parseGitURL reads "ssh://git@host:port/NAME.git" and git's short form "git@host:NAME.git".
func parseGitURL(s string) (gitAddress, error) {
	var a gitAddress
	path := ""
	if u, err := url.Parse(s); err == nil && u.Scheme == "ssh" {
		a.host, a.port, path = u.Hostname(), u.Port(), u.Path
	} else if before, after, ok := strings.Cut(s, ":"); ok && !strings.Contains(before, "/") && !strings.HasPrefix(after, "//") {
		a.host, path = before[strings.LastIndexByte(before, '@')+1:], after
	}
	name, err := bulwark.ParseAppName(strings.TrimSuffix(strings.Trim(path, "/"), ".git"))
	if err != nil || a.host == "" {
		return a, bulwark.Fail(bulwark.KindInvalid, "The git address "+quote(s)+" is not one of an app.",
			"Give the app with --app NAME, or set the remote with bulwark git setup --app NAME.", err)
	}
	a.app = name
	return a, nil
}

// git runs git in the current directory and returns what it printed, without its last line end.
func (c *cli) git(ctx context.Context, args ...string) (string, error) {
	path, err := process.Look("git", "git")
	if err != nil {
		return "", err
	}
	env := []string{"HOME=" + c.home, "PATH=/usr/bin:/bin", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0"}
	if dir := c.getenv("XDG_CONFIG_HOME"); dir != "" {
		env = append(env, "XDG_CONFIG_HOME="+dir)
	}
	out, err := process.Output(ctx, process.Cmd{Path: path, Args: args, Dir: c.cwd, Env: env})
	return strings.TrimSuffix(string(out), "\n"), err
}

// gitValue returns a value of git's configuration, "" if it is not set or this is no repository.
func (c *cli) gitValue(ctx context.Context, args ...string) (string, error) {
	out, err := c.git(ctx, append([]string{"config"}, args...)...)
	if _, ok := errors.AsType[*process.ExitError](err); ok {
		return "", nil
	}
	return out, err
}

// gitRemote returns the address of the remote that leads to the server, "" if there is none here.
func (c *cli) gitRemote(ctx context.Context) (string, error) {
	return c.gitValue(ctx, "--get", "remote."+remoteName+".url")
}

// repository returns the top directory of the repository that the current directory is in, "" if it is in none.
func (c *cli) repository(ctx context.Context) (string, error) {
	top, err := c.git(ctx, "rev-parse", "--show-toplevel")
	if _, ok := errors.AsType[*process.ExitError](err); ok {
		return "", nil
	}
	return top, err
}

func (c *cli) gitCommand() *cobra.Command {
	var force bool
	setup := command("setup", "Connect this git repository with an app: the remote, and signed pushes",
		"  $ bulwark git setup --app shop", exactly(0, ""), func(ctx context.Context, _ []string) error {
			return c.gitSetup(ctx, force)
		})
	setup.Long = `Adds the git remote "bulwark" to the repository here and turns on signed pushes for it with the SSH key that you
registered: push.gpgSign, gpg.format and user.signingKey. Nothing outside this repository is changed but
~/.ssh/known_hosts, which receives the server's host keys as its node has signed them.`
	setup.Flags().BoolVar(&force, "force", false, "replace a remote \"bulwark\" that leads elsewhere")
	c.forApp(setup)
	return group("git", "Connect a git repository with an app", "  $ bulwark git setup --app shop", nil, setup)
}

func (c *cli) gitSetup(ctx context.Context, force bool) error {
	top, err := c.repository(ctx)
	if err != nil {
		return err
	}
	if top == "" {
		return bulwark.Invalid("This directory is in no git repository.", "Make one with git init, or change into it.")
	}
	s, _, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	done, err := c.connect(ctx, s, app, top, force)
	if err != nil {
		return err
	}
	return c.result(done, func() { c.tellGit(done) })
}

// gitSetting is one value of a repository's configuration as it was and is.
type gitSetting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Was   string `json:"was,omitempty"` // in this repository, if it was another
}

// gitSetup is what connect did.
type gitSetup struct {
	Repository string       `json:"repository"`
	Remote     string       `json:"remote"`
	Settings   []gitSetting `json:"settings"`
	HostKeys   int          `json:"host_keys_added"`
}

// connect adds the remote and turns on signed pushes in the repository at top, and nowhere else.
func (c *cli) connect(ctx context.Context, s *session, app client.App, top string, force bool) (*gitSetup, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	addr, err := trustedGitURL(app, s.server, info)
	if err != nil {
		return nil, err
	}
	key, err := c.signingKey(ctx, s.server)
	if err != nil {
		return nil, err
	}
	if err := c.setRemote(ctx, app.GitURL, force); err != nil {
		return nil, err
	}
	out := &gitSetup{Repository: top, Remote: app.GitURL}
	for _, v := range []gitSetting{{Name: "push.gpgSign", Value: "if-asked"}, {Name: "gpg.format", Value: "ssh"}, {Name: "user.signingKey", Value: key}} {
		if v.Was, err = c.gitValue(ctx, "--local", "--get", v.Name); err != nil {
			return nil, err
		}
		if v.Was == v.Value {
			v.Was = ""
		}
		if _, err := c.git(ctx, "config", "--local", v.Name, v.Value); err != nil {
			return nil, fmt.Errorf("git's %s cannot be set: %w", v.Name, err)
		}
		out.Settings = append(out.Settings, v)
	}
	out.HostKeys, err = pinHostKeys(c.home, addr.host, addr.port, info.SSH)
	return out, err
}

// trustedGitURL checks the address that the server gives for an app's repository against what the node has signed: the
// node's host keys are about to be pinned for its host, and a server must not choose a stranger's host for that.
func trustedGitURL(app client.App, srv server, info *statement.Info) (gitAddress, error) {
	a, err := parseGitURL(app.GitURL)
	if err != nil {
		return a, err
	}
	srv.Domain = info.Domain
	port := a.port
	if port == "" {
		port = "22"
	}
	if !strings.HasPrefix(app.GitURL, "ssh://") || !srv.owns(a.host) || port != fmt.Sprint(info.Ports.SSH) || a.app != app.Name {
		return a, bulwark.Fail(bulwark.KindForbidden, "The server gives the git address "+quote(app.GitURL)+", which is not one that its node has signed for.",
			"Nothing was changed. Ask the operator.", nil)
	}
	return a, nil
}

// setRemote makes the remote lead to address.
func (c *cli) setRemote(ctx context.Context, address string, force bool) error {
	have, err := c.gitValue(ctx, "--local", "--get", "remote."+remoteName+".url")
	switch {
	case err != nil:
		return err
	case have == address:
		return nil
	case have == "":
		_, err = c.git(ctx, "remote", "add", remoteName, address)
	case force:
		_, err = c.git(ctx, "remote", "set-url", remoteName, address)
	default:
		return bulwark.Fail(bulwark.KindConflict, "The git remote bulwark leads elsewhere: "+clean(have)+".",
			"Replace it with bulwark git setup --force --app NAME.", nil)
	}
	if err != nil {
		return fmt.Errorf("the git remote bulwark cannot be set: %w", err)
	}
	return nil
}

// tellGit says what was set.
func (c *cli) tellGit(g *gitSetup) {
	c.say("In the git repository %s only:", g.Repository)
	rows := [][]string{{"  remote bulwark", g.Remote}}
	for _, v := range g.Settings {
		was := ""
		if v.Was != "" {
			was = "(it was " + v.Was + ")"
		}
		rows = append(rows, []string{"  " + v.Name, v.Value, was})
	}
	c.table(rows)
	c.say("Deploy with: git push bulwark main")
}
