package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/dial"
	"github.com/bulwark-paas/bulwark/internal/instance/driver"
	"github.com/bulwark-paas/bulwark/internal/node/applogs"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/network"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The labels that the engine keeps for an instance, so that a restarted node knows what runs.
const (
	labelApp        = "bulwark.app"
	labelProcess    = "bulwark.process"
	labelGeneration = "bulwark.generation"
	labelRelease    = "bulwark.release"
	labelImage      = "bulwark.image"
	labelAddress    = "bulwark.address"
	labelPort       = "bulwark.port"
	labelHealth     = "bulwark.health"
	labelName       = "bulwark.name"
	labelIsolation  = "bulwark.isolation"
)

// Instances runs instances: it verifies, puts together, starts, watches and stops them.
type instances struct {
	ledger  *ledger.Ledger
	images  *images.Store
	applogs *applogs.Store
	driver  driver.Driver
	router  *network.Router
	dial    *dialer
	dirs    dirs
	uid     func(block uint32) (uint32, error) // first host id of an app's own range
	log     *slog.Logger
	mu      sync.Mutex // guards all and watch
	all     map[bulwark.InstanceID]*instance
	halting atomic.Bool // the platform is being stopped: nothing starts any more, and events are silent
	// starting counts the starts under way by release; guarded by mu.
	starting map[string]int
	settled  broadcast // nothing is being started any more
	// turns are the instances that are being started, each with what is closed when that is over; guarded by mu.
	turns map[bulwark.InstanceID]chan struct{}
	// early holds the ends that were told of before the start was through; guarded by mu.
	early map[life]driver.Exit
	// coming are the addresses of instances that are being started; guarded by mu.
	coming map[netip.Addr]bulwark.AppID
	// openWay tells who carries what instances send whose each address is, and returns when they know.
	openWay func(context.Context) error
	// numbers are those of the one-off instances that are being started or are attached; guarded by mu.
	numbers map[bulwark.AppID]map[int]bool
	mounts  sync.Mutex // one image is put together at a time
	changed broadcast
}

// instance is what the node knows of one.
type instance struct {
	nodeapi.Instance
	labels  map[string]string
	name    string // "web.1", for people
	address netip.Addr
	port    uint16
	health  string
	netns   *os.File           // where a socket is made that leads to it
	pid     int                // as the host counts; 0 if it was over when a restarted node found it
	until   time.Time          // when it is ended at the latest; zero for a service
	amend   func(*driver.Spec) // what is special about how it starts; may be nil
	stop    context.CancelFunc // ends the watch
	gone    chan struct{}      // closed when the process ended
	// collected is closed when all of its output is in the app's log.
	collected chan struct{}
	announced chan struct{} // closed when those who carry what it sends know of it
	watched   chan struct{} // closed when the watch has ended
	settling  bool          // the engine told of its end; guarded by instances.mu
	ending    *ending       // set while somebody ends it; guarded by instances.mu
}

// dirs are the node's places.
type dirs struct {
	rootfs string // mounted images, one directory per release
	init   string // config sockets
	fifos  string // the engine's ends of terminals
	bin    string // bulwark-init
	logs   string // one log per instance
}

// start starts an instance of a release: nothing is taken from the caller but the bundle, which is verified in whole.
func (n *instances) start(ctx context.Context, in nodeapi.Start) (*nodeapi.Instance, error) {
	if in.Instance == "" || in.Process == "" {
		return nil, bulwark.Invalid("An instance needs an id and a process type.", "")
	}
	over, err := n.turn(ctx, in.Instance)
	if err != nil {
		return nil, err
	}
	defer over()
	if have, ok := n.get(in.Instance); ok {
		return &have, nil // asked again after an answer that was lost
	}
	launch, err := n.ledger.Launch(ctx, in.Bundle)
	if err != nil {
		return nil, err
	}
	r := launch.Release
	command, ok := r.Plan.Processes[in.Process]
	if in.Job {
		command, ok = job(r, in.Process)
	}
	if !ok {
		return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("Release v%d of %s has no process type %s.", r.Generation, r.Name, in.Process),
			"See bulwark ps for those it has.", nil)
	}
	if err := n.room(r.App); err != nil {
		return nil, err
	}
	if _, err := n.bring(ctx, in, launch, command, nil); err != nil {
		return nil, err
	}
	out, _ := n.get(in.Instance)
	return &out, nil
}

// bring starts a command in an instance of a verified release; special, if not nil, has the last word on the instance.
func (n *instances) bring(ctx context.Context, in nodeapi.Start, launch *ledger.Launch, command bulwark.Command, special func(*instance)) (*instance, error) {
	r := launch.Release
	if _, err := bulwark.ParseIsolation(string(r.Plan.Isolation)); err != nil {
		return nil, err // of a later version: nothing of it is run with less than it asks for
	}
	layers, config, err := n.images.Verify(ctx, r.Image)
	if err != nil {
		return nil, err
	}
	defer n.begin(r)()
	if n.halting.Load() { // looked at once this start counts: who halts waits for those that do
		return nil, bulwark.Failf(bulwark.KindUnavailable, "The platform is being stopped.")
	}
	rootfs, err := n.mount(ctx, launch, layers)
	if err != nil {
		return nil, err
	}
	address, err := n.router.Address()
	if err != nil {
		return nil, err
	}
	i := newInstance(in, launch, address)
	if special != nil {
		special(i)
	}
	defer n.announce(ctx, i)()
	if err := n.run(ctx, i, launch, command, config, rootfs); err != nil {
		n.router.Release(address)
		return nil, err
	}
	n.adopt(i)
	return i, nil
}

// announce tells whose the address of an instance is while the instance is being made, so that its first question and its first
// connection are answered: an app that asks at once would be a stranger otherwise. What it returns ends that; the instance is among
// the others then, or it never came.
func (n *instances) announce(ctx context.Context, i *instance) (end func()) {
	n.mu.Lock()
	n.coming[i.address] = i.App
	n.mu.Unlock()
	i.announced = make(chan struct{})
	go func() {
		defer close(i.announced)
		if n.openWay == nil {
			return
		}
		if err := n.openWay(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("an instance may find no way out at first", "instance", i.Instance.Instance, "error", err)
		}
	}()
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.coming, i.address)
	}
}

// announceTime is how long an instance waits for its way out before it starts without.
const announceTime = 2 * time.Second

func newInstance(in nodeapi.Start, launch *ledger.Launch, address netip.Addr) *instance {
	r := launch.Release
	i := &instance{address: address, port: r.Plan.Port, health: r.Plan.Health, gone: make(chan struct{}),
		name: fmt.Sprintf("%s.%d", in.Process, in.Index)}
	if i.port == 0 {
		i.port = bulwark.EdgePort
	}
	i.Instance = nodeapi.Instance{Instance: in.Instance, App: r.App, Process: in.Process, Generation: r.Generation,
		Phase: nodeapi.PhaseStarting, Since: time.Now(), Isolation: r.Plan.Isolation}
	i.labels = map[string]string{
		labelApp: string(r.App), labelProcess: string(in.Process), labelGeneration: strconv.FormatUint(r.Generation, 10),
		labelRelease: string(launch.Digest), labelImage: string(r.Image),
		labelAddress: address.String(), labelPort: strconv.Itoa(int(i.port)), labelHealth: i.health, labelName: i.name,
		labelIsolation: string(r.Plan.Isolation),
	}
	if in.Job {
		command, _ := job(r, in.Process) // start has looked it up
		i.once(nodeapi.KindJob, string(in.Process), strings.Join(command.Argv, " "), r.Sizes[in.Process])
	}
	return i
}

// run has the engine start the instance while the node serves its config to its init.
func (n *instances) run(ctx context.Context, i *instance, launch *ledger.Launch, command bulwark.Command, config ledger.ImageConfig, rootfs string) error {
	r := launch.Release
	uid, err := n.uid(launch.App.Block)
	if err != nil {
		return err
	}
	values := map[string]string{"PORT": strconv.Itoa(int(i.port))}
	for name, v := range launch.Values {
		values[string(name)] = string(v)
	}
	offer, err := n.offerConfig(i.Instance.Instance, int(uid)+1000, values)
	if err != nil {
		return err
	}
	defer offer.close()
	args := []string{"/.bulwark/init"}
	if command.Expand {
		args = append(args, "--expand")
	}
	dir := command.Dir
	if dir == "" {
		dir = config.Dir
	}
	spec := driver.Spec{
		Instance: i.Instance.Instance, Labels: i.labels, Rootfs: rootfs, Dir: dir, UIDBase: uid,
		Args:     append(append(args, "--"), command.Argv...),
		Env:      append(append([]string{}, config.Env...), environment(r, i)...),
		Limits:   r.Sizes[i.Process].Limits(),
		Writable: r.Plan.Writable,
		Mounts:   []driver.Mount{{Source: offer.path, Target: "/.bulwark/socket"}},
		Hostname: string(r.Name),
		LogFile:  n.logFile(i.Instance.Instance),
		Sandbox:  i.sandboxed(),
		Network:  func(pid int) error { return n.link(ctx, i, pid) },
	}
	if i.amend != nil {
		i.amend(&spec)
	}
	if spec.Streams == nil {
		spec.Args = slices.Insert(spec.Args, 1, "--merge")
	}
	if i.pid, err = n.driver.Start(ctx, spec); err != nil {
		if i.netns != nil {
			i.netns.Close()
		}
		return err
	}
	if err := offer.await(configTime); err != nil {
		n.log.Error("config was not fetched", "instance", i.Instance.Instance, "error", err)
	}
	return nil
}

// environment is what every instance is told about itself; no secret is in it.
func environment(r *statement.Release, i *instance) []string {
	return []string{
		"HOME=/app", "LANG=C.UTF-8",
		"BULWARK_APP=" + string(r.Name),
		"BULWARK_RELEASE=v" + strconv.FormatUint(r.Generation, 10),
		"BULWARK_INSTANCE=" + string(i.Instance.Instance),
		"BULWARK_PROCESS=" + string(i.Process),
	}
}

// configTime is how long an instance that was started has until it asks for its config. How long its start takes does not count:
// on a machine that starts all its instances at once, after a boot, that can be longer.
const configTime = 20 * time.Second

// configOffer is an instance's config on a socket, for who asks first.
type configOffer struct {
	path string
	l    *net.UnixListener
	done chan error
}

// offerConfig offers an instance its config once, on a socket that only the app's user can connect to.
func (n *instances) offerConfig(id bulwark.InstanceID, owner int, values map[string]string) (_ *configOffer, err error) {
	if _, err := bulwark.ParseInstanceID(string(id)); err != nil {
		return nil, err // an empty one would name the folder of all sockets
	}
	b, err := json.Marshal(values)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(n.dirs.init, string(id))
	_ = os.Remove(path) // of an attempt that was cut off
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chown(path, owner, owner); err != nil {
		l.Close()
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	o := &configOffer{path: path, l: l, done: make(chan error, 1)}
	go func() {
		defer l.Close()
		c, err := l.Accept()
		if err == nil {
			c.SetDeadline(time.Now().Add(10 * time.Second))
			_, err = c.Write(b)
			c.Close()
		}
		o.done <- err
	}()
	return o, nil
}

// await waits until the config was fetched, for a time.
func (o *configOffer) await(wait time.Duration) error {
	o.l.SetDeadline(time.Now().Add(wait))
	return <-o.done
}

func (o *configOffer) close() {
	o.l.Close()
	os.Remove(o.path)
}

// begin notes that an instance of a release is being started, so that its root file system is not taken away meanwhile.
func (n *instances) begin(r *statement.Release) (end func()) {
	name := rootfsName(r.App, r.Generation)
	n.mu.Lock()
	n.starting[name]++
	n.mu.Unlock()
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.starting[name]--; n.starting[name] == 0 {
			delete(n.starting, name)
		}
		if len(n.starting) == 0 {
			clear(n.early) // of what was forgotten, or of nobody's
			n.settled.send()
		}
	}
}

// mount puts the release's image together for the app's id range, once.
func (n *instances) mount(ctx context.Context, launch *ledger.Launch, layers []ledger.Layer) (string, error) {
	n.mounts.Lock()
	defer n.mounts.Unlock()
	r := launch.Release
	target := filepath.Join(n.dirs.rootfs, rootfsName(r.App, r.Generation))
	if images.Mounted(target) {
		return target, nil
	}
	p := images.Platform{Init: n.dirs.bin, Dirs: r.Plan.Writable, Files: map[string]string{
		"etc/resolv.conf": "nameserver " + network.Gateway.String() + "\noptions edns0\n",
		"etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
		"etc/hostname":    string(r.Name) + "\n",
	}}
	uid, err := n.uid(launch.App.Block)
	if err != nil {
		return "", err
	}
	return target, n.images.Mount(ctx, layers, p, uid, target)
}

func (n *instances) logFile(id bulwark.InstanceID) string {
	return filepath.Join(n.dirs.logs, string(id)+".log")
}

// adopt makes an instance known and watches it.
func (n *instances) adopt(i *instance) {
	ctx, cancel := context.WithCancel(context.Background())
	i.stop = cancel
	i.collected, i.watched = make(chan struct{}), make(chan struct{})
	n.mu.Lock()
	n.all[i.Instance.Instance] = i
	end, early := n.early[life{i.Instance.Instance, i.pid}]
	n.mu.Unlock()
	if early {
		n.ended(end)
	}
	n.changed.send()
	go func() {
		defer close(i.watched)
		n.watch(ctx, i)
	}()
	go func() {
		defer close(i.collected)
		n.collect(context.WithoutCancel(ctx), i)
	}()
}

// over tells that an instance has ended or is not known.
func (n *instances) over(id bulwark.InstanceID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok := n.all[id]
	return !ok || i.Phase.Over()
}

// list returns a copy of all that is known.
func (n *instances) list() []nodeapi.Instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]nodeapi.Instance, 0, len(n.all))
	for _, i := range n.all {
		of := i.Instance
		of.At = netip.AddrPortFrom(i.address, i.port)
		out = append(out, of)
	}
	return out
}

// rootfsName is the name of the directory where a release is mounted.
func rootfsName(app bulwark.AppID, generation uint64) string {
	return fmt.Sprintf("%s-%d", app, generation)
}

// registration is what dial is told of an instance.
func (n *instances) registration(ctx context.Context, i *instance) (dial.Entry, error) {
	hosts, err := n.ledger.Hosts(ctx, i.App)
	if err != nil {
		return dial.Entry{}, err
	}
	return dial.Entry{NetNS: i.netns, Registration: bulwark.Registration{Instance: i.Instance.Instance, App: i.App,
		Address: i.address.String(), Port: i.port, Hosts: hosts}}, nil
}

// addresses returns whose each address is, of all instances that are not over.
func (n *instances) addresses() map[netip.Addr]bulwark.AppID {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[netip.Addr]bulwark.AppID{}
	for _, i := range n.all {
		if !i.Phase.Over() {
			out[i.address] = i.App
		}
	}
	maps.Copy(out, n.coming)
	return out
}

// hostAddresses are the machine's own, which on a machine with a single routed address stand in no route.
func hostAddresses() ([]netip.Prefix, error) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	return out, nil
}
