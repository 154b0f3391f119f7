// Package dial is the tiny process that makes sockets inside the instances' network namespaces and hands them to the
// edge. It promises: a socket leads to the address and port of a registered instance and nowhere else; only the node
// registers (the kernel says who it is); the edge gets a socket only for a host name that was registered for that
// instance; its own namespace stays what it was. It carries no traffic itself and opens no file by a name it was told.
//
// An attacker who owned it could enter any network namespace of the machine and connect from there, so it is kept this
// small, runs as a user of its own with CAP_SYS_ADMIN as its only capability, and gives up the rest (see Harden).
package dial

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// Config is what Run needs.
type Config struct {
	// Node is the unixpacket listener for the node. Run closes it.
	Node *net.UnixListener
	// NodeUID is who may connect there, normally 0.
	NodeUID uint32
	// EdgePath is the edge's unixpacket socket, to which dial connects again and again.
	EdgePath string
	// Home is dial's own network namespace; see [Home]. Needed when Harden was called before Run, else optional.
	Home *os.File
	// Timeout bounds a connection attempt; default 2 s.
	Timeout time.Duration
	// Workers is how many threads enter namespaces; default 2.
	Workers int
	// Logger is for the operator; default: nothing is logged.
	Logger *slog.Logger
}

// Home opens the network namespace that the process is in: that of the calling thread. The process's first one may have been left
// elsewhere, since Go keeps it when a goroutine that was locked to it ends, and lends it to nobody any more.
func Home() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindUnavailable, "The process cannot open its own network namespace.", "Mount /proc for it.", err)
	}
	return f, nil
}

func (c *Config) complete() error {
	if c.Node == nil || c.EdgePath == "" {
		return bulwark.Fail(bulwark.KindInvalid, "Dial needs the node's listener and the path of the edge's socket.", "Start it by the supervisor.", nil)
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Workers == 0 {
		c.Workers = 2
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Home == nil {
		home, err := Home()
		if err != nil {
			return err
		}
		c.Home = home
	}
	return nil
}

// server is one running dial.
type server struct {
	cfg      Config
	registry *registry
	jobs     chan job
	attempts chan struct{} // one token per connection attempt under way
	fatal    chan error    // a thread did not find home, or the socket failed
	wg       sync.WaitGroup
}

// Run serves until ctx ends (then it returns nil) or until it cannot be trusted any more. It owns Config's listener
// and Home.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	defer cfg.Home.Close()
	reg, err := newRegistry(cfg.Home)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{cfg: cfg, registry: reg, jobs: make(chan job), attempts: make(chan struct{}, 2048), fatal: make(chan error, cfg.Workers+1)}
	for range cfg.Workers {
		s.wg.Go(func() { s.work(ctx) })
	}
	s.wg.Go(func() { s.acceptNodes(ctx) })
	s.wg.Go(func() { s.followEdge(ctx) })
	stop := context.AfterFunc(ctx, func() { cfg.Node.Close() })
	defer stop()
	select {
	case <-ctx.Done():
	case err = <-s.fatal:
	}
	cancel()
	cfg.Node.Close()
	s.wg.Wait()
	reg.replace(nil)
	return err
}

// maxNodes is how many connections the node may hold at once: one, that of its predecessor, and those of who looks.
const maxNodes = 8

// acceptNodes serves the node's connections.
func (s *server) acceptNodes(ctx context.Context) {
	node := fdpass.Server{Listener: s.cfg.Node, User: s.cfg.NodeUID, Most: maxNodes, Log: s.cfg.Logger, Serve: s.serveNode}
	if err := node.Run(ctx); err != nil {
		s.fatal <- bulwark.Fail(bulwark.KindInternal, "Dial's socket for the node failed.", "", err)
	}
}

// pause waits for d and says whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
