package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/astable"
	"github.com/bulwark-paas/bulwark/internal/certs"
	"github.com/bulwark-paas/bulwark/internal/certs/certsapi"
	"github.com/bulwark-paas/bulwark/internal/dial"
	"github.com/bulwark-paas/bulwark/internal/edge"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/egress"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/node"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/network"
	"github.com/bulwark-paas/bulwark/internal/posture"
	"github.com/bulwark-paas/bulwark/internal/resolver"
	"github.com/bulwark-paas/bulwark/internal/sandbox"
	platform "github.com/bulwark-paas/bulwark/internal/server"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// child is what a process of the platform starts with: the installation, and what the supervisor handed to it.
type child struct {
	inst     *install.Installation
	files    map[string][]*os.File
	notifier *fdpass.Notifier
	log      *slog.Logger
	version  string
}

// processCommand runs one of the platform's processes; the supervisor calls it, people do not.
func processCommand(e *env) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:    "process NAME",
		Short:  "Run one of the platform's processes; the supervisor does this",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			run, ok := map[string]func(context.Context, *child) error{
				"containerd": runContainerd, "node": runNode, "dial": runDial, "egress": runEgress, "resolver": runResolver, "certs": runCerts,
				"server": runServer, "edge": runEdge, "posture": runPosture,
			}[args[0]]
			if !ok {
				return bulwark.Invalid(fmt.Sprintf("There is no process %q.", args[0]), "")
			}
			c, err := newChild(e, root)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer stop()
			return run(ctx, c)
		},
	}
	cmd.Flags().StringVar(&root, "root", install.DefaultRoot, "folder of the installation")
	return cmd
}

func newChild(e *env, root string) (*child, error) {
	inst, err := install.Open(root)
	if err != nil {
		return nil, err
	}
	c := &child{inst: inst, log: slog.New(slog.NewJSONHandler(e.stderr, nil)), version: e.version}
	if c.files, err = fdpass.Listeners(os.Environ()); err != nil {
		return nil, err
	}
	c.notifier, err = fdpass.NewNotifier(e.getenv("NOTIFY_SOCKET"))
	return c, err
}

// ready tells the supervisor.
func (c *child) ready() {
	if err := c.notifier.Notify("READY=1"); err != nil {
		c.log.Warn("the supervisor is away", "error", err)
	}
}

// listener takes one of the sockets that the supervisor made.
func (c *child) listener(name string) (net.Listener, error) {
	files := c.files[name]
	if len(files) == 0 {
		return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The listener %s was not handed over.", name), "Processes are started by bulwark up.", nil)
	}
	l, err := net.FileListener(files[0])
	files[0].Close()
	delete(c.files, name)
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the supervisor's, who keeps it open for the next process
	}
	return l, err
}

// packetConn takes a socket for datagrams.
func (c *child) packetConn(name string) (net.PacketConn, error) {
	files := c.files[name]
	if len(files) == 0 {
		return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The socket %s was not handed over.", name), "Processes are started by bulwark up.", nil)
	}
	p, err := net.FilePacketConn(files[0])
	files[0].Close()
	delete(c.files, name)
	return p, err
}

func (c *child) unixListener(name string) (*net.UnixListener, error) {
	l, err := c.listener(name)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, bulwark.Invalid(fmt.Sprintf("The listener %s is not a unix socket.", name), "")
	}
	return u, nil
}

// engineShares is what the engine and the node have of the processors together when others want them too; a program outside has
// 1024. What they do for a rollout is a dozen programs that start at once: requests should not wait for those.
const engineShares = 128

// behindRequests has this process wait for those through which requests go.
func (c *child) behindRequests() {
	if err := cell.Join(c.inst.EngineCgroupName(), engineShares); err != nil {
		c.log.Warn("starting instances has as much of the processors as serving requests", "error", err)
	}
}

func runNode(ctx context.Context, c *child) error {
	// What git and the builder's programs write is for the app's users to read; the node's own folder lets nobody in,
	// and its keys have modes of their own.
	syscall.Umask(0o022)
	i := c.inst
	c.behindRequests()
	verbs, err := c.listener("verbs")
	if err != nil {
		return err
	}
	libexec, err := libexec()
	if err != nil {
		return err
	}
	fromCerts, err := c.listener("certs")
	if err != nil {
		return err
	}
	issuers, err := acmeAuthorities(i)
	if err != nil {
		return err
	}
	proxies, err := upstreams(i)
	if err != nil {
		return err
	}
	updates, err := dnsUpdates(i)
	if err != nil {
		return err
	}
	operators, err := astable.Open(i.ASTable())
	if err != nil {
		return err
	}
	var tools node.Toolchains
	if err := readJSON(toolchainsFile(i), &tools); err != nil {
		return err
	}
	return node.Run(ctx, node.Config{
		Verbs: verbs, ServerUID: i.User(install.Server), Name: i.Name, Domain: i.Domain,
		Ports: statement.InfoPorts{HTTP: i.Ports.HTTP, HTTPS: i.Ports.HTTPS, API: i.Ports.API, SSH: i.Ports.SSH},
		Dir:   i.NodeDir(), RunDir: i.RunDir(), BuildDir: i.BuildDir(), LogDir: filepath.Join(i.LogDir(), "instances"),
		Recovery: filepath.Join(i.Root, "RECOVERY-KEY.txt"), EngineBin: i.EngineBin, Libexec: libexec, Bases: i.Bases,
		CA: authorities(os.Getenv("SSL_CERT_FILE")), Router: i.RouterNamespacePath(),
		Leaving: network.Leaving{Table: i.HostTable(), Egress: i.User(install.Egress), Names: i.User(install.Resolver), Certs: i.User(install.Certs),
			Upstreams: proxies.From, Platform: slices.Sorted(maps.Values(i.Declared())), Datagrams: []uint16{i.Ports.HTTPS}}, Cgroup: "/" + i.CgroupName(), BuildCgroup: "/" + i.BuildCgroupName(),
		Sockets: node.Sockets{Containerd: i.Socket(install.ContainerdSocket), Dial: i.Socket(install.DialNode),
			Egress: i.Socket(install.EgressControl), Resolver: i.Socket(install.ResolverControl), EdgeCerts: i.Socket(install.EdgeCerts)},
		Workers: cell.UserRange{First: i.User(install.Workers), Count: install.WorkerCount}, BuildDisk: int64(i.BuildDisk) * 1e6, Grace: i.Grace.Duration(),
		KeyAge: i.KeyAge, Block: func(n uint32) (uint32, error) { r, err := i.Block(n); return r.Base, err },
		Restored: c.files, Keeper: c.notifier, Certs: node.CertsConfig{Listener: fromCerts, UID: i.User(install.Certs), Authorities: issuers, Email: i.ACME.Email, Updates: updates},
		NameServer: i.NameServerAddress(), Operators: operators, Toolchains: tools, SSHHostKey: hostKeyFile(i), PostureKey: filepath.Join(i.PostureDir(), posture.PublicKeyFile), Log: c.log,
	}, c.ready)
}

func toolchainsFile(i *install.Installation) string {
	return filepath.Join(i.NodeDir(), "toolchains.json")
}

// hostKeyFile is where the server leaves the git server's public key for the node.
func hostKeyFile(i *install.Installation) string {
	return filepath.Join(i.ServerDir(), "ssh_host_key.pub")
}

// authorities is the file with the certificate authorities that this host trusts.
func authorities(set string) string {
	if set != "" {
		return set
	}
	return "/etc/ssl/certs/ca-certificates.crt"
}

// libexec is the directory of the helper programs, beside the directory of this one.
func libexec() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(filepath.Dir(self)), "libexec", "bulwark")
	if _, err := os.Stat(filepath.Join(dir, "bulwark-init")); err != nil {
		return "", bulwark.Fail(bulwark.KindUnavailable, "The helper programs are not in "+dir+".", "Build or install Bulwark as a whole: make build.", err)
	}
	return dir, nil
}

func readJSON(path string, dst any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, dst)
}

func runDial(ctx context.Context, c *child) error {
	l, err := c.unixListener("node")
	if err != nil {
		return err
	}
	home, err := dial.Home()
	if err != nil {
		return err
	}
	if err := dial.Harden(); err != nil {
		return err
	}
	c.ready()
	return dial.Run(ctx, dial.Config{Node: l, NodeUID: 0, EdgePath: c.inst.Socket(install.EdgeDial), Home: home, Logger: c.log})
}

func runEgress(ctx context.Context, c *child) error {
	l, err := c.unixListener("control")
	if err != nil {
		return err
	}
	if err := sandbox.EnterConnecting(); err != nil {
		return err
	}
	c.ready()
	return egress.Run(ctx, egress.Config{Control: l, NodeUID: 0, Log: c.log})
}

func runResolver(ctx context.Context, c *child) error {
	l, err := c.unixListener("control")
	if err != nil {
		return err
	}
	if err := sandbox.EnterConnecting(); err != nil {
		return err
	}
	c.ready()
	return resolver.Run(ctx, resolver.Config{Control: l, NodeUID: 0, Log: c.log})
}

// acmeAuthorities are the certificate authorities that the operator chose.
func acmeAuthorities(i *install.Installation) ([]certsapi.Authority, error) {
	if i.ACME.Directories == "" { // made before there was a choice
		i.ACME.Directories = install.DefaultAuthority
	}
	all, err := install.ParseAuthorities(i.ACME.Directories)
	if err != nil {
		return nil, err
	}
	var roots []byte
	if i.ACME.Roots != "" {
		if roots, err = os.ReadFile(i.ACME.Roots); err != nil {
			return nil, err
		}
	}
	var accounts []install.Account
	if i.ACME.Accounts != "" {
		if accounts, err = install.ReadAccounts(i.ACME.Accounts); err != nil {
			return nil, err
		}
	}
	var out []certsapi.Authority
	for _, d := range all {
		a := certsapi.Authority{Directory: d, Roots: roots}
		if at := slices.IndexFunc(accounts, func(a install.Account) bool { return a.Directory == d }); at >= 0 {
			a.EAB = &certsapi.EAB{KeyID: accounts[at].KeyID, MACKey: accounts[at].MACKey}
		}
		out = append(out, a)
	}
	return out, nil
}

// dnsUpdates is where the operator lets records of the DNS be set, nil if nowhere.
func dnsUpdates(i *install.Installation) (*certsapi.Updates, error) {
	if i.ACME.DNS == "" {
		return nil, nil
	}
	k, err := install.ReadUpdateKey(i.ACME.DNSKey)
	if err != nil {
		return nil, err
	}
	return &certsapi.Updates{Server: i.ACME.DNS, KeyName: k.Name, Algorithm: k.Algorithm, Key: k.Key}, nil
}

func runCerts(ctx context.Context, c *child) error {
	if _, err := x509.SystemCertPool(); err != nil { // read while it can be, wherever it is
		c.log.Warn("whom this host trusts cannot be read", "error", err)
	}
	if err := certs.Harden(); err != nil {
		return err
	}
	toEdge := edgecontrol.New(c.inst.Socket(install.EdgeIssued))
	defer toEdge.Close()
	return certs.Run(ctx, certs.Config{Node: c.inst.Socket(install.NodeCerts), Edge: toEdge, Log: c.log}, c.ready)
}

func runServer(ctx context.Context, c *child) error {
	i := c.inst
	api, err := c.listener("api")
	if err != nil {
		return err
	}
	ssh, err := c.listener("ssh")
	if err != nil {
		return err
	}
	libexec, err := libexec()
	if err != nil {
		return err
	}
	if err := sandbox.EnterStarting(); err != nil {
		return err
	}
	return platform.Run(ctx, platform.Config{API: api, SSH: ssh, Dir: i.ServerDir(), NodeSocket: i.Socket(install.NodeVerbs),
		EdgeSocket: i.Socket(install.EdgeControl), Hook: filepath.Join(libexec, "bulwark-hook"), Domain: i.Domain,
		HTTPS: i.Ports.HTTPS, Git: i.Ports.SSH, Version: c.version, Policy: filepath.Join(i.Root, "policy.cedar"), Posture: i.Socket(install.PostureResults), HostKeyFile: hostKeyFile(i), Log: c.log}, c.ready)
}

func runEdge(ctx context.Context, c *child) error {
	var cfg edge.Config
	var err error
	for name, dst := range map[string]*net.Listener{"https": &cfg.HTTPS, "http": &cfg.HTTP} {
		if *dst, err = c.listener(name); err != nil {
			return err
		}
	}
	for name, dst := range map[string]**net.UnixListener{"control": &cfg.Control, "certs": &cfg.Certs, "issued": &cfg.Issued, "dial": &cfg.Dial} {
		if *dst, err = c.unixListener(name); err != nil {
			return err
		}
	}
	if cfg.QUIC, err = c.packetConn("quic"); err != nil {
		return err
	}
	i := c.inst
	cfg.ServerUID, cfg.NodeUID, cfg.DialUID, cfg.CertsUID = i.User(install.Server), 0, i.User(install.Dial), i.User(install.Certs)
	if cfg.Upstreams, err = upstreams(i); err != nil {
		return err
	}
	if cfg.ASTable, err = astable.Open(i.ASTable()); err != nil {
		return err
	}
	cfg.Restored, cfg.Logger = c.files, c.log
	cfg.AccessLog = io.Writer(os.Stdout) // the supervisor keeps it, bounded
	if c.notifier != nil {
		cfg.Keeper = c.notifier
	}
	if err := edge.Harden(); err != nil {
		return err
	}
	return edge.Run(ctx, cfg)
}

// upstreams are the operator's own proxies.
func upstreams(i *install.Installation) (edge.Upstreams, error) {
	from, err := install.ParseUpstreams(i.Upstreams.From)
	u := edge.Upstreams{From: from, Header: i.Upstreams.Header, Proxy: i.Upstreams.Proxy == install.On, Only: i.Upstreams.Only == install.On}
	if ca := i.Upstreams.CA; ca != bulwark.ClientCAOff {
		u.CA = ca
	}
	return u, err
}

func runPosture(ctx context.Context, c *child) error {
	i := c.inst
	if err := cell.Join(i.PostureCgroupName(), probeShares); err != nil {
		c.log.Warn("the probes have as much of the processors as serving requests", "error", err)
	}
	l, err := c.unixListener("results")
	if err != nil {
		return err
	}
	dir, err := libexec()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return posture.Run(ctx, posture.Config{Results: l, Installation: i, Bulwark: self, Kit: filepath.Join(dir, "bulwark-kit"), Version: c.version,
		Manual: i.Probes == install.ProbesWhenAsked, SSLCertFile: os.Getenv("SSL_CERT_FILE"), Log: c.log}, c.ready)
}

// probeShares is what the probes have of the processors when others want them too; a program outside has 1024.
const probeShares = 32
