package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/astable"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/base"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/node"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/supervise"
)

// operatorCommands are for root on the machine that hosts the platform.
func operatorCommands(e *env) []*cobra.Command {
	return []*cobra.Command{installCommand(e), upCommand(e), downCommand(e), tokenCommand(e), uninstallCommand(e), basesCommand(e),
		processCommand(e), supervisorCommand(e)}
}

// rootFlag adds --root.
func rootFlag(cmd *cobra.Command, root *string) {
	cmd.Flags().StringVar(root, "root", install.DefaultRoot, "folder of the installation")
}

// upOptions are the flags that say what an installation is.
type upOptions struct {
	install.Options
	name, domain, bases, probes, grace string
	asTable                            string
	proxyProtocol, onlyUpstreams       string
	upstreamsCA                        string
}

func (o *upOptions) flags(cmd *cobra.Command) {
	rootFlag(cmd, &o.Root)
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "name of the installation (default "+string(install.DefaultName)+")")
	f.StringVar(&o.domain, "domain", "", "domain below which every app has its name (default bulwark.localhost)")
	f.StringVar(&o.EngineBin, "engine", "", "directory of runc, the shim and buildkitd")
	f.StringVar(&o.bases, "bases", "", "directory of the base images")
	f.StringVar(&o.Etc, "etc", "", "directory in place of /etc for the register of user ids")
	f.Uint32Var(&o.Blocks, "blocks", 0, "blocks of 65536 user ids, at the first start")
	f.Uint32Var(&o.BuildDisk, "build-disk", 0, "MB of disk that the builds of one app may use, their cache included (default 10000)")
	f.DurationVar(&o.KeyAge, "key-age", 0, "how old the key of a project becomes before the node makes a new one, such as 720h (default 2160h, 90 days)")
	f.StringVar(&o.probes, "probes", "", "when the probes of bulwark posture run: by \"schedule\" (default), or only when \"asked\"")
	f.StringVar(&o.grace, "grace", "", "how long an app that was destroyed can be brought back: 0 to 2160h (default 168h)")
	f.StringVar(&o.ACME.Directories, "acme", "", "certificate authorities for claimed host names: https URLs of ACME directories with commas between them, or \"none\" (default Let's Encrypt)")
	f.StringVar(&o.ACME.Email, "acme-email", "", "where certificate authorities write to")
	f.StringVar(&o.ACME.Roots, "acme-roots", "", "file of certificates that say whom to trust when the authorities are asked, if not whom the host trusts")
	f.StringVar(&o.ACME.Accounts, "acme-accounts", "", "file with the accounts that authorities gave, where they ask for one: lines of DIRECTORY KEY-ID KEY")
	f.StringVar(&o.ACME.DNS, "acme-dns", "", "name server that takes updates (RFC 2136), ADDRESS:PORT: names are proven by records there too, as wildcards have to be")
	f.StringVar(&o.ACME.DNSKey, "acme-dns-key", "", "file with the key for it, as tsig-keygen writes it")
	f.StringVar(&o.NameServer, "name-server", "", "name server that is asked whose a claimed host name is, ADDRESS:PORT, or \"host\" for those that this machine asks (default host)")
	f.StringVar(&o.Upstreams.From, "upstreams", "", "proxies in front that may say for whom they ask: networks with commas between them, \"cloudflare\", or \"none\" (default none)")
	f.StringVar(&o.Upstreams.Header, "upstreams-header", "", "header in which they say it: "+strings.Join(install.ClientHeaders(), ", ")+" (default X-Forwarded-For, with cloudflare Cf-Connecting-Ip)")
	f.StringVar(&o.proxyProtocol, "upstreams-proxy-protocol", "", "their connections begin with a PROXY header: on or off (default off)")
	f.StringVar(&o.onlyUpstreams, "upstreams-only", "", "nobody else may connect: on or off (default off)")
	f.StringVar(&o.upstreamsCA, "upstreams-ca", "", "file of authorities, one of whose certificates everybody who connects by HTTPS has to show, but for this machine, or \"off\" (default off)")
	f.StringVar(&o.asTable, "as-table", "", "file that says which networks are which operator's, for shield deny AS64500: lines as iptoasn or BGP tools publish them, gzip or not; it is kept")
	f.Uint16Var(&o.Ports.HTTP, "http-port", 0, "port for http (default 80)")
	f.Uint16Var(&o.Ports.HTTPS, "https-port", 0, "port for https (default 443)")
	f.Uint16Var(&o.Ports.API, "api-port", 0, "port of the API (default 8443)")
	f.Uint16Var(&o.Ports.SSH, "ssh-port", 0, "port of the git server (default 2222)")
}

// parse returns the options after their text was read.
func (o *upOptions) parse() (install.Options, error) {
	opt := o.Options
	var err error
	if o.name != "" {
		if opt.Name, err = bulwark.ParseInstallationName(o.name); err != nil {
			return opt, err
		}
	}
	if o.domain != "" {
		if opt.Domain, err = bulwark.ParseHostName(o.domain); err != nil {
			return opt, err
		}
	}
	if o.probes != "" {
		if opt.Probes, err = install.ParseProbes(o.probes); err != nil {
			return opt, err
		}
	}
	if o.grace != "" {
		if opt.Grace, err = install.ParseGrace(o.grace); err != nil {
			return opt, err
		}
	}
	for _, s := range []struct {
		text string
		to   *install.Switch
	}{{o.proxyProtocol, &opt.Upstreams.Proxy}, {o.onlyUpstreams, &opt.Upstreams.Only}} {
		if s.text == "" {
			continue
		}
		if *s.to, err = install.ParseSwitch(s.text); err != nil {
			return opt, err
		}
	}
	if o.upstreamsCA != "" {
		if opt.Upstreams.CA, err = readClientCA(o.upstreamsCA); err != nil {
			return opt, err
		}
	}
	if o.bases != "" {
		index, err := base.Find(o.bases)
		if err != nil {
			return opt, err
		}
		opt.Bases = filepath.Dir(index[base.Run].Layout)
	}
	return opt, nil
}

func upCommand(e *env) *cobra.Command {
	var opt upOptions
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Run the platform on this machine, as root",
		Example: "  # bulwark up\n  # bulwark up --root /srv/bulwark --name second --https-port 9443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := opt.parse()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer stop()
			return up(ctx, e, o, opt.asTable)
		},
	}
	opt.flags(cmd)
	return cmd
}

// importNetworks takes a table of networks in, and returns whether it is another than before.
func importNetworks(inst *install.Installation, path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The table of networks %s cannot be read.", path), "", err)
	}
	defer f.Close()
	b, err := astable.Compile(f)
	if err != nil {
		return false, err
	}
	if was, err := os.ReadFile(inst.ASTable()); err == nil && bytes.Equal(was, b) {
		return false, nil
	}
	return true, atomicfile.Write(inst.ASTable(), b, 0o644)
}

// up makes the installation if there is none, and supervises it.
func up(ctx context.Context, e *env, opt install.Options, asTable string) error {
	inst, err := install.Create(opt)
	if err != nil {
		return err
	}
	if err := inst.Check(); err != nil {
		return err
	}
	var renewed bool
	if asTable != "" {
		if renewed, err = importNetworks(inst, asTable); err != nil {
			return err
		}
	}
	tools, err := toolchains(ctx, e)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(tools, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(toolchainsFile(inst), b, 0o600); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(e.stderr, nil))
	return supervise.Run(ctx, supervise.Config{
		Installation: inst, Log: log,
		Processes: supervise.Table(inst, supervise.Extra{SSLCertFile: e.getenv("SSL_CERT_FILE")}),
		BeforeDown: func(ctx context.Context) error {
			// An instance has 30 s to end; a node that is away must not keep the platform up for ever.
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			return nodeOf(inst).Call(ctx, "halt", struct{}{}, nil)
		},
		Open: func() {
			if err := tellSystemd(e); err != nil {
				log.Warn("systemd does not hear that the sockets are open", "error", err)
			}
		},
		Ready: func() {
			if renewed { // those that went on while there was no supervisor have the table from before
				for _, p := range []string{"edge", "node"} {
					if err := supervise.NewClient(inst).Restart(ctx, p); err != nil {
						log.Error("the table of networks is not in force", "process", p, "error", err)
					}
				}
			}
			fmt.Fprintln(e.stdout, "ready")
		},
	})
}

func nodeOf(inst *install.Installation) *nodeapi.Client {
	return nodeapi.NewClient(inst.Socket(install.NodeVerbs))
}

// toolchains reads how this host reaches the registries of the languages from its own tools' configuration; a host
// without a tool has builders without that registry.
func toolchains(ctx context.Context, e *env) (node.Toolchains, error) {
	var t node.Toolchains
	out := func(path string, args ...string) string {
		b, err := process.Output(ctx, process.Cmd{Path: path, Args: args, Env: []string{"HOME=" + e.home, "PATH=/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin",
			"GOFLAGS=-mod=mod"}})
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	if path := first("/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/usr/bin/go"); path != "" {
		t.Go = bulwark.GoProxy{Proxy: out(path, "env", "GOPROXY"), SumDB: out(path, "env", "GOSUMDB"), NoSum: out(path, "env", "GONOSUMDB")}
	}
	if path := first("/usr/local/bin/npm", "/usr/bin/npm"); path != "" {
		t.NPM = out(path, "config", "get", "registry")
	}
	for _, u := range append(strings.FieldsFunc(t.Go.Proxy, func(r rune) bool { return r == ',' || r == '|' }), t.NPM) {
		if parsed, err := url.Parse(u); err == nil && parsed.Host != "" {
			t.Allow = append(t.Allow, parsed.Host)
		}
	}
	if name, _, _ := strings.Cut(t.Go.SumDB, "+"); name != "" && name != "off" {
		t.Allow = append(t.Allow, name)
	}
	mirrors, err := base.HostMirrors("/etc/apt")
	if err != nil {
		return t, nil // a host that is not Debian has no apt for builders either
	}
	for _, line := range mirrors {
		for _, word := range strings.Fields(line) {
			if parsed, err := url.Parse(word); err == nil && strings.HasPrefix(parsed.Scheme, "http") && parsed.Host != "" {
				t.Allow = append(t.Allow, parsed.Host)
			}
		}
	}
	return t, nil
}

func first(paths ...string) string {
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && !st.IsDir() {
			return p
		}
	}
	return ""
}

func downCommand(e *env) *cobra.Command {
	var root string
	var force bool
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the platform and its apps, as root", Example: "  # bulwark down", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := install.Open(root)
			if err != nil {
				return err
			}
			return supervise.NewClient(inst).Down(cmd.Context(), force)
		},
	}
	rootFlag(cmd, &root)
	cmd.Flags().BoolVar(&force, "force", false, "stop the platform even if its apps cannot be stopped")
	return cmd
}

func tokenCommand(e *env) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use: "token", Short: "Make a one-time login token that is good for a day, as root", Example: "  # bulwark token", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := install.Open(root)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			var out map[string]string
			if err := nodeOf(inst).Call(ctx, "token", struct{}{}, &out); err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, out["token"])
			return nil
		},
	}
	rootFlag(cmd, &root)
	return cmd
}

func uninstallCommand(e *env) *cobra.Command {
	var root string
	var yes bool
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Remove an installation with all its apps and data, as root", Example: "  # bulwark uninstall --yes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := install.Open(root)
			if err != nil {
				return err
			}
			if !yes {
				return bulwark.Invalid(fmt.Sprintf("This removes %s with all apps and data.", inst.Root), "If that is what you want, add --yes.")
			}
			return errors.Join(install.Remove(cmd.Context(), inst), removeUnit(inst))
		},
	}
	rootFlag(cmd, &root)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}
