// Package node is the privileged side of a site: the only process that starts, stops, connects or opens anything for an
// app, and the only one that decides. It promises to do nothing on the server's word: each verb is either harmless or
// follows from a document that a person signed and from what the node itself measured and keeps in its ledger.
//
// It has no network listener; the server reaches it over one unix socket. Whoever owns the node owns the machine's apps
// and their secrets, which is why everything that need not be here is elsewhere.
package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/astable"
	"github.com/bulwark-paas/bulwark/internal/dial"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/instance/containerd"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/node/applogs"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/certkeep"
	"github.com/bulwark-paas/bulwark/internal/node/files"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/network"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Config is all that a node is told. All paths are absolute.
type Config struct {
	Verbs     net.Listener // the server's way in
	ServerUID uint32       // who may use it, beside root
	Name      bulwark.InstallationName
	Domain    bulwark.HostName
	Ports     statement.InfoPorts
	Dir       string // the node's own: ledger, keys, images
	RunDir    string // mounts and sockets that instances' users pass through
	BuildDir  string
	LogDir    string // instances' logs
	Recovery  string // where the recovery key's private half is put once
	EngineBin string
	Libexec   string // bulwark-init, bulwark-pack, bulwark-sbom, bulwark-unpack and the builder's programs
	Bases     string
	CA        string // file with the authorities that this host trusts
	Router    string // path of the router namespace
	// Leaving says whose the host's rules are for the processes that connect for others: the table's name and their users.
	Leaving network.Leaving
	Cgroup  string
	// BuildCgroup is the control group of the builders, "/bulwark-main.builds".
	BuildCgroup string
	Sockets     Sockets
	Workers     cell.UserRange // for helpers that work for no single app
	BuildDisk   int64          // bytes that each app's builds may use; 0 for DefaultBuildDisk
	Grace       time.Duration  // how long an app that is destroyed can be brought back; 0: not at all
	KeyAge      time.Duration  // of projects' keys; 0 for DefaultKeyAge
	// Block returns the first host id of a block of 65536; 0 is the platform's own.
	Block      func(n uint32) (uint32, error)
	Toolchains Toolchains
	// Restored is what the supervisor kept for a predecessor, Keeper keeps for a successor.
	Restored   map[string][]*os.File
	Keeper     network.Keeper
	SSHHostKey string // file with the git server's public host key, written by the server
	PostureKey string // file with the prober's public key, written by the prober, who is root
	Certs      CertsConfig
	Operators  *astable.Table // whose networks are whose
	NameServer string         // "ADDRESS:PORT" of the name server that says whose a host name is; empty: those that the host asks
	Log        *slog.Logger
}

// Sockets are the unix sockets of the other processes.
type Sockets struct {
	Containerd, Dial, Egress, Resolver, EdgeCerts string
}

// DefaultBuildDisk is how many bytes of disk the builds of one app may use, their cache among them, unless the operator says
// otherwise (bulwark up --build-disk).
const DefaultBuildDisk = 10e9

// DefaultKeyAge is how old a project's key becomes before the node makes a new one, unless the operator says otherwise
// (bulwark up --key-age).
const DefaultKeyAge = 90 * 24 * time.Hour

// blocksPerApp: one block for its instances, two for its builders.
const blocksPerApp = 3

// Node is a running node.
type Node struct {
	config    Config
	keys      *keyring
	ledger    *ledger.Ledger
	instances *instances
	builds    *builds
	authority *authority
	shields   shields
	names     *names
	brought   brought
	certs     *certkeep.Keeper
	outward   *outward
	graced    chan struct{} // an app was destroyed, so there is a grace to wait for
}

// Run runs the node until ctx ends; ready is called when it serves.
func Run(ctx context.Context, c Config, ready func()) error {
	n, err := open(ctx, c)
	if err != nil {
		return err
	}
	defer n.ledger.Close()
	go n.instances.dial.keep(ctx)
	go n.follow(ctx)
	defer n.certs.Close()
	go n.serveCerts(ctx)
	go n.publish(ctx)
	go n.outward.run(ctx)
	go n.tidy(ctx)
	go n.finish(ctx)
	go n.rotate(ctx)
	go n.builds.warm(ctx)
	return n.serve(ctx, ready)
}

func open(ctx context.Context, c Config) (*Node, error) {
	keys, err := openKeys(filepath.Join(c.Dir, "keys"), c.Recovery)
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, ledger.Config{Path: filepath.Join(c.Dir, "ledger.db"), Key: keys.node, Keys: keys.projects, Domain: c.Domain, Grace: c.Grace, Operators: c.Operators})
	if err != nil {
		return nil, err
	}
	n := &Node{config: c, keys: keys, ledger: l, names: newNames(c.NameServer), graced: make(chan struct{}, 1)}
	n.shields.client = unixClient(c.Sockets.EdgeCerts)
	if n.authority, err = openAuthority(filepath.Join(c.Dir, "keys"), c.Domain); err != nil {
		return nil, err
	}
	if err := n.openCerts(ctx); err != nil {
		return nil, err
	}
	cells := &cell.Cells{Launcher: filepath.Join(c.Libexec, "bulwark-cell"), Cgroup: c.Cgroup, Users: c.Workers}
	if err := cells.Sweep(); err != nil {
		return nil, err
	}
	store, err := images.Open(images.Config{Dir: filepath.Join(c.Dir, "images"), Pack: filepath.Join(c.Libexec, "bulwark-pack"),
		Catalog: filepath.Join(c.Libexec, "bulwark-sbom"), Scratch: c.BuildDir, Cells: cells, Ledger: l})
	if err != nil {
		return nil, err
	}
	engine, err := containerd.Open(ctx, containerd.Config{Socket: c.Sockets.Containerd, EngineBin: c.EngineBin,
		State: filepath.Join(c.RunDir, "runc"), Cgroup: c.Cgroup})
	if err != nil {
		return nil, err
	}
	if err := n.openInstances(ctx, store, engine); err != nil {
		return nil, err
	}
	return n, n.openBuilds(ctx, store, engine, cells)
}

func (n *Node) openInstances(ctx context.Context, store *images.Store, engine *containerd.Driver) error {
	c := n.config
	d := dirs{rootfs: filepath.Join(c.RunDir, "rootfs"), init: filepath.Join(c.RunDir, "init"), fifos: filepath.Join(c.RunDir, "fifo"), logs: c.LogDir,
		bin: filepath.Join(c.Libexec, "bulwark-init")}
	for _, dir := range []string{d.rootfs, d.init} {
		if err := files.Dir(dir, 0o711, 0); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(d.fifos); err != nil { // of streams that ended with the node before this one
		return err
	}
	if err := os.MkdirAll(d.logs, 0o700); err != nil {
		return err
	}
	running, err := engine.List(ctx)
	if err != nil {
		return err
	}
	var used []netip.Addr
	for _, st := range running {
		if a, err := netip.ParseAddr(st.Labels[labelAddress]); err == nil {
			used = append(used, a)
		}
	}
	lines, err := applogs.Open(filepath.Join(c.LogDir, "apps"))
	if err != nil {
		return err
	}
	router, err := network.Open(c.Router, used)
	if err != nil {
		return err
	}
	n.instances = &instances{ledger: n.ledger, images: store, applogs: lines, driver: engine, router: router, dirs: d, log: c.Log,
		dial: &dialer{path: c.Sockets.Dial, log: c.Log, entries: map[bulwark.InstanceID]dial.Entry{}},
		uid:  func(block uint32) (uint32, error) { return c.Block(1 + (block-1)*blocksPerApp) },
		all:  map[bulwark.InstanceID]*instance{}, coming: map[netip.Addr]bulwark.AppID{}, starting: map[string]int{}, turns: map[bulwark.InstanceID]chan struct{}{}, early: map[life]driver.Exit{}, numbers: map[bulwark.AppID]map[int]bool{}}
	sockets, err := router.Sockets(c.Restored, c.Keeper)
	if err != nil {
		return err
	}
	n.outward = &outward{ledger: n.ledger, instances: n.instances, router: router, sockets: sockets, leaving: c.Leaving, authorities: c.Certs.Authorities, nameServers: c.nameServers(),
		packages: func(ctx context.Context) ([]netpolicy.Rule, error) { return n.builds.rules(ctx) }, egress: c.Sockets.Egress,
		resolver: c.Sockets.Resolver, domain: c.Domain, log: c.Log, named: map[bulwark.AppID]map[netip.Addr]namedAddress{}}
	n.instances.openWay = n.outward.apply
	// Before any instance: a router without rules forwards nothing, but it must not answer either. Those of a predecessor let what runs serve
	// and go on; they are replaced as soon as it is known what that is.
	if !router.Ruled(ctx) {
		subnets, err := hostSubnets()
		if err != nil {
			return err
		}
		if err := router.Apply(ctx, network.Rules(subnets, nil, nil)); err != nil {
			return err
		}
	}
	return n.instances.recover(ctx)
}

func (n *Node) openBuilds(ctx context.Context, store *images.Store, engine *containerd.Driver, cells *cell.Cells) error {
	c := n.config
	git, err := process.Look("git", "git")
	if err != nil {
		return err
	}
	ca, err := publicCopy(c.CA, filepath.Join(c.BuildDir, "ca.pem"))
	if err != nil {
		return err
	}
	n.builds = &builds{ledger: n.ledger, images: store, engine: engine, log: c.Log, runs: map[bulwark.BuildID]*buildRun{}, waiting: earlyBuilder{busy: map[bulwark.AppID]int{}}, built: make(chan struct{}, 1),
		slots: make(chan struct{}, max(1, runtime.NumCPU()/2)),
		config: buildConfig{Dir: c.BuildDir, Bases: c.Bases, Programs: filepath.Join(c.Libexec, "builder"), CA: ca, Egress: c.Sockets.Egress,
			Rootfs: filepath.Join(c.RunDir, "rootfs"), Cgroup: c.BuildCgroup, Git: git, Unpack: filepath.Join(c.Libexec, "bulwark-unpack"), Cells: cells, Toolchains: c.Toolchains,
			UID: func(block uint32) (uint32, error) {
				if _, err := c.Block(block * blocksPerApp); err != nil { // a builder has two, and the second must be there too
					return 0, err
				}
				return c.Block(2 + (block-1)*blocksPerApp)
			}}}
	size := c.BuildDisk
	if size == 0 {
		size = DefaultBuildDisk
	}
	if n.builds.disks, err = openDisks(c.BuildDir, size); err != nil {
		return err
	}
	if err := cell.Weigh(c.BuildCgroup, buildShares); err != nil {
		c.Log.Warn("builds have as much of the processors as everything else", "error", err)
	}
	// Sources of builds that were cut off; the server brings them again.
	left, err := filepath.Glob(filepath.Join(c.BuildDir, "bld_*"))
	if err != nil {
		return err
	}
	unfinished, err := filepath.Glob(filepath.Join(c.BuildDir, "in-*"))
	if err != nil {
		return err
	}
	packing, err := filepath.Glob(filepath.Join(c.BuildDir, "pack-*"))
	if err != nil {
		return err
	}
	for _, dir := range slices.Concat(left, unfinished, packing) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := tidyStore(store, n.builds.config.Rootfs); err != nil {
		return err
	}
	// A builder that outlived the node has nobody to report to.
	ids, err := engine.IDs(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := bulwark.ParseBuildID(id); err == nil {
			if err := engine.RemoveID(ctx, id); err != nil {
				return err
			}
			if err := store.Unmount(filepath.Join(n.builds.config.Rootfs, id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// publicCopy copies a file of the host's for readers of any user. It returns "" if there is none.
func publicCopy(from, to string) (string, error) {
	b, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return to, files.Write(to, b, 0o644)
}

// follow takes the engine's word for what ended, and asks again for all whenever the engine was away.
func (n *Node) follow(ctx context.Context) {
	for ctx.Err() == nil {
		exits, err := n.instances.driver.Exits(ctx)
		if err == nil {
			n.resync(ctx)
			for e := range exits {
				n.instances.ended(e)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Token makes a one-time login token: the fingerprint of the node's key, by which the person's machine knows whom it
// speaks to, and a secret, by which the node knows the person.
func (n *Node) token(ctx context.Context, prober bool) (string, error) {
	var secret [enrol.SecretSize]byte
	rand.Read(secret[:])
	add := n.ledger.AddToken
	if prober {
		add = n.ledger.AddProberToken
	}
	if err := add(ctx, secret[:]); err != nil {
		return "", err
	}
	return enrol.FormatToken(n.keys.node.Public().(ed25519.PublicKey), secret[:]), nil
}

// info is what the node says about itself.
func (n *Node) info(ctx context.Context, challenge string) ([]byte, error) {
	projects, err := n.ledger.ProjectKeys(ctx)
	if err != nil {
		return nil, err
	}
	hostKeys, err := readHostKeys(n.config.SSHHostKey)
	if err != nil {
		return nil, err
	}
	k := statement.NewKey(n.keys.node.Public().(ed25519.PublicKey))
	return statement.Seal(statement.InfoPayloadType, statement.Info{Version: 1, Node: n.ledger.Node(), Key: k.PKIX(), CA: n.authority.pem(),
		Domain: n.config.Domain, Projects: projects, SSH: hostKeys, Ports: n.config.Ports, Log: n.ledger.LogKey(),
		Posture: n.postureKey(), Challenge: challenge, Time: time.Now().UTC()}, n.keys.node)
}

// postureKey is the prober's public key; there is none before its first start.
func (n *Node) postureKey() []byte {
	b, err := os.ReadFile(n.config.PostureKey)
	if err != nil {
		return nil
	}
	k, err := statement.ParseKey(b)
	if err != nil {
		n.config.Log.Warn("the prober's key cannot be read", "error", err)
		return nil
	}
	return k.PKIX()
}

// readHostKeys reads the git server's public keys from a file that the server wrote. The server's folder is the server's:
// what lies there may be a link to something that only root can read, so no link is followed, and nothing goes out but
// what reads as a public key.
func readHostKeys(path string) ([]string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("node: %s is not a file: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, 16<<10))
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	var out []string
	for len(b) > 0 {
		key, _, _, rest, err := ssh.ParseAuthorizedKey(b)
		if err != nil {
			break
		}
		out, b = append(out, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))), rest
	}
	return out, nil
}
