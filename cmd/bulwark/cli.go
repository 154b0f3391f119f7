package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// cli is what the user's commands share: the world around them and the flags that most of them have.
type cli struct {
	*env
	json   bool   // --json
	app    string // --app
	server string // --server
}

// userCommands returns the commands of the people who deploy; each is a client of the API.
func userCommands(e *env) []*cobra.Command {
	c := &cli{env: e}
	all := []*cobra.Command{
		c.loginCommand(), c.logoutCommand(), c.whoamiCommand(), c.keysCommand(),
		c.appsCommand(), c.gitCommand(), c.openCommand(),
		c.configCommand(), c.buildSecretsCommand(),
		c.psCommand(), c.logsCommand(), c.runCommand(), c.cronCommand(), c.deployCommand(), c.releasesCommand(), c.rollbackCommand(), c.buildsCommand(),
		c.domainsCommand(), c.certsCommand(), c.shieldCommand(), c.maintenanceCommand(), c.pagesCommand(), c.egressCommand(), c.registriesCommand(),
		c.orgsCommand(), c.projectsCommand(), c.membersCommand(), c.tokensCommand(), c.policyCommand(),
		c.verifyCommand(), c.auditCommand(), c.postureCommand(), c.metricsCommand(), c.tracesCommand(), c.packagesCommand(), c.statusCommand(), c.versionCommand(),
	}
	for _, cmd := range all {
		c.finish(cmd)
	}
	return all
}

// finish gives cmd and all below it what every command has.
func (c *cli) finish(cmd *cobra.Command) {
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetFlagErrorFunc(flagError)
	if cmd.RunE != nil {
		cmd.Flags().BoolVar(&c.json, "json", false, "print JSON, for programs")
		cmd.Flags().StringVar(&c.server, "server", "", "address of the server, if you are signed in to several")
		if cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
	for _, sub := range cmd.Commands() {
		c.finish(sub)
	}
}

// action is what a command does.
type action func(ctx context.Context, args []string) error

// command makes one from what all have.
func command(use, short, example string, args cobra.PositionalArgs, run action) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) }}
}

// group makes a command that has others below it. Called alone it does what run does, or shows its help.
func group(use, short, example string, run action, below ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: knownCommand}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if run == nil {
			return cmd.Help()
		}
		return run(cmd.Context(), args)
	}
	cmd.AddCommand(below...)
	for _, c := range below {
		if run != nil && c.Name() == "list" { // the same without its name, so with the same flags
			cmd.Flags().AddFlagSet(c.Flags())
		}
	}
	return cmd
}

// exactly takes n arguments; otherwise it says what they are.
func exactly(n int, what string) cobra.PositionalArgs { return between(n, n, what) }

// atLeast takes n arguments or more.
func atLeast(n int, what string) cobra.PositionalArgs { return between(n, 1<<20, what) }

func between(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return misuse("The command "+cmd.CommandPath()+" needs "+what+".", "See "+cmd.CommandPath()+" --help.")
		case len(args) > most:
			return misuse("The command "+cmd.CommandPath()+" has an argument too many: "+quote(args[most])+".", "See "+cmd.CommandPath()+" --help.")
		}
		return nil
	}
}

// forApp gives a command the flag that names an app.
func (c *cli) forApp(cmd *cobra.Command) *cobra.Command {
	if cmd.Flags().Lookup("app") != nil {
		return cmd // it has that of its list
	}
	cmd.Flags().StringVarP(&c.app, "app", "a", "", "name of the app; else that of the git remote \"bulwark\" here")
	if err := cmd.RegisterFlagCompletionFunc("app", c.completeApp); err != nil {
		panic(err) // the flag was made one line above
	}
	return cmd
}

// completeTime bounds a completion: a person waits for it with a finger on the key.
const completeTime = 2 * time.Second

// completeApp offers the names of the apps. It is quick or silent.
func (c *cli) completeApp(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	s, err := c.signedIn(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	apps, err := s.Apps(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, a := range apps {
		names = append(names, string(a.Name))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// namesApp lets a command take the app's name as its only argument too.
func (c *cli) namesApp(cmd *cobra.Command) *cobra.Command {
	run := cmd.RunE
	cmd.Args = between(0, 1, "")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completeApp(cmd, args, start)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			if c.app != "" && c.app != args[0] {
				return misuse("Two apps are named: "+quote(c.app)+" and "+quote(args[0])+".", "Name one.")
			}
			c.app = args[0]
		}
		return run(cmd, nil)
	}
	return c.forApp(cmd)
}

// session is a person's connection to one server.
type session struct {
	*client.Client
	server server
	device ed25519.PrivateKey
	now    func() time.Time
}

// signedIn opens the session that the flags and the state on this machine name.
func (c *cli) signedIn(ctx context.Context) (*session, error) {
	if s, err := c.tokenSession(ctx, ""); s != nil || err != nil {
		return s, err
	}
	st, err := openStore(c.env)
	if err != nil {
		return nil, err
	}
	srv, err := st.choose(c.server)
	if err != nil {
		return nil, err
	}
	return st.session(srv, c.now)
}

// withApp opens the session and asks for the app that a command is about.
func (c *cli) withApp(ctx context.Context) (s *session, name bulwark.AppName, app client.App, err error) {
	if s, name, err = c.onApp(ctx); err == nil {
		app, err = s.App(ctx, name)
	}
	return s, name, app, err
}

// onApp opens the session and finds the app that a command is about.
func (c *cli) onApp(ctx context.Context) (*session, bulwark.AppName, error) {
	st, err := openStore(c.env)
	if err != nil {
		return nil, "", err
	}
	name, host, port, err := c.appName(ctx)
	if err != nil {
		return nil, "", err
	}
	if s, err := c.tokenSession(ctx, host); s != nil || err != nil {
		return s, name, err
	}
	wanted := c.server
	if wanted == "" && host != "" {
		wanted = st.byGit(host, port)
	}
	srv, err := st.choose(wanted)
	if err != nil {
		return nil, "", err
	}
	s, err := st.session(srv, c.now)
	return s, name, err
}

// appName is the name that was given, or that of the git remote here, then with the remote's host and port.
func (c *cli) appName(ctx context.Context) (name bulwark.AppName, host, port string, err error) {
	if c.app != "" {
		name, err = bulwark.ParseAppName(c.app)
		return name, "", "", usage(err)
	}
	remote, err := c.gitRemote(ctx)
	if err != nil || remote == "" {
		return "", "", "", misuse("Which app? None was named, and there is no git remote named bulwark here.",
			"Give it with --app NAME, or run the command inside the app's git repository.")
	}
	addr, err := parseGitURL(remote)
	if err != nil {
		return "", "", "", err
	}
	return addr.app, addr.host, addr.port, nil
}

// info asks the server for the node's word on itself and verifies it with the key that was pinned at sign-in.
func (s *session) info(ctx context.Context) (*statement.Info, error) {
	got, err := s.Info(ctx, "")
	if err != nil {
		return nil, err
	}
	return openInfo(got.Envelope, s.server.key())
}

// infoNow is info that the node said just now. Whoever passes the node's word on could repeat an old one, with a key of a
// project that was replaced since, perhaps because it was stolen: nothing may be sealed to that.
func (s *session) infoNow(ctx context.Context) (*statement.Info, error) {
	challenge := rand.Text()
	got, err := s.Info(ctx, challenge)
	if err != nil {
		return nil, err
	}
	info, err := openInfo(got.Envelope, s.server.key())
	if err == nil && info.Challenge != challenge {
		err = bulwark.Fail(bulwark.KindForbidden, "The server repeats what the node said at another time, so nothing was sealed.",
			"Use a bulwark command of the same version as the server. If it is, somebody who got hold of the server may want an old key to be used: tell those who run the machine.", nil)
	}
	return info, err
}

// sign makes a statement in the person's name.
func (s *session) sign(kind statement.Kind, app bulwark.AppID, body any) (client.Signed, error) {
	st, err := statement.New(s.server.Node, kind, app, body, s.now())
	if err != nil {
		return client.Signed{}, err
	}
	env, err := statement.Seal(statement.PayloadType, st, s.device)
	return client.Signed{Envelope: env}, err
}
