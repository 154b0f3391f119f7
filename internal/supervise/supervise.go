// Package supervise is what `bulwark up` does: it makes every listening socket of an installation once, starts the
// processes, each as its own user with the least that it needs, hands them their sockets, keeps for them what they store,
// and starts again what ends.
//
// It promises that a socket, once open, stays open: while a process restarts, connections wait; while the edge is
// replaced, the new one accepts before the old one stops; and if the supervisor itself is killed, the processes live
// on and the next supervisor takes sockets and stored descriptors back out of them. It promises that nobody but a
// process itself can speak for it (the kernel says who sent a message), and that a process gets nothing of another's.
//
// It runs as root and interprets nothing that comes from outside the machine. An attacker who owns a process can make
// it restart, fill its own log and its own store, both bounded. One who owns the supervisor owns the machine.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"golang.org/x/sys/unix"
)

// Config is what Run needs.
type Config struct {
	Installation *install.Installation
	// Processes in the order of their start; see Table.
	Processes []Spec
	// Binary is started for every process that names no other; empty means the running executable.
	Binary string
	Log    *slog.Logger
	// BeforeDown is called before `bulwark down` stops the first process: it has the node stop the instances. A stop
	// of another kind leaves instances alone. Its context ends with Run.
	BeforeDown func(context.Context) error
	// Open is called once, when all sockets are open and the processes are being started: connections are taken from now
	// on. It is the moment to tell systemd.
	Open func()
	// Ready is called once, when all processes have said for the first time that they are ready.
	Ready func()
	// Backoff is how long to wait before a restart; the zero value means the default.
	Backoff Backoff
	// LogLimit is how large a log may grow before it is rotated; default 10 MB. Two older ones are kept.
	LogLimit int64
}

// supervisor is a running Run.
type supervisor struct {
	cfg   Config
	log   *slog.Logger
	units []*unit // in the order of start
	boot  string

	stateMu sync.Mutex // held while the state file is written; taken before a unit's mu

	ctx     context.Context         // done when Run is to end
	end     context.CancelCauseFunc // ends Run; the cause says how
	stopped chan struct{}           // closed when all processes have been stopped

	lastMu sync.Mutex
	last   []net.Conn // callers who wait for the end of Run
}

// The ways in which Run ends early.
var (
	errDown  = errors.New("down")  // stop everything
	errLeave = errors.New("leave") // stop nothing: the next supervisor adopts
)

// Run supervises until ctx ends or somebody asks for the end over the control socket; it then stops the processes in
// reverse order and returns nil. It takes over what an earlier supervisor left. It changes limits of the calling
// process (descriptors up, core files off), which children inherit.
func Run(ctx context.Context, cfg Config) error {
	s, err := newSupervisor(cfg)
	if err != nil {
		return err
	}
	defer s.goodbye() // after the lock is free
	unlock, err := lock(cfg.Installation)
	if err != nil {
		return err
	}
	defer unlock()
	if err := cfg.Installation.Check(); err != nil {
		return err
	}
	if err := cfg.Installation.Booted(s.boot); err != nil {
		return err
	}
	if err := raiseLimits(); err != nil {
		return err
	}
	if err := s.takeOver(); err != nil {
		return err
	}
	if err := s.open(); err != nil {
		s.close(false)
		return err
	}
	ctx, s.end = context.WithCancelCause(ctx)
	s.ctx = ctx
	defer s.end(nil)
	control, err := s.serveControl()
	if err != nil {
		s.close(false)
		return err
	}
	rotated := s.rotateLogs(ctx)
	for i, u := range s.units {
		if i > 0 {
			u.after = s.units[i-1]
		}
	}
	for _, u := range s.units {
		u.begin()
	}
	if cfg.Open != nil {
		cfg.Open()
	}
	go s.announce(ctx)
	<-ctx.Done()
	leave := errors.Is(context.Cause(ctx), errLeave)
	s.finish(leave)
	<-rotated
	close(s.stopped)
	control.Close() // waits for the answer to `down`
	s.close(!leave)
	return nil
}

func newSupervisor(cfg Config) (*supervisor, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Binary == "" {
		path, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("supervise: %w", err)
		}
		cfg.Binary = path
	}
	if cfg.LogLimit == 0 {
		cfg.LogLimit = 10 << 20
	}
	cfg.Backoff = cfg.Backoff.orDefault()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	s := &supervisor{cfg: cfg, log: cfg.Log, boot: string(boot), stopped: make(chan struct{})}
	for _, spec := range cfg.Processes {
		if err := spec.valid(); err != nil {
			return nil, err
		}
		s.units = append(s.units, newUnit(s, spec))
	}
	return s, nil
}

// lock makes this the only supervisor of the installation. The kernel lets go of it when the process ends, however it ends.
func lock(inst *install.Installation) (func(), error) {
	// Check, which makes the directory, runs later: it must not repair below a supervisor that lives.
	if err := os.Mkdir(inst.RunDir(), 0o711); err != nil && !os.IsExist(err) {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	f, err := os.OpenFile(inst.LockFile(), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The installation at %s is running already.", inst.Root),
			"See it with `bulwark status`, stop it with `bulwark down`, or choose another root with --root.", err)
	}
	return func() { f.Close() }, nil
}

// open binds what was not taken over, and the notify sockets.
func (s *supervisor) open() error {
	for _, u := range s.units {
		if err := u.open(); err != nil {
			return err
		}
	}
	return s.save()
}

// announce calls Ready when all are.
func (s *supervisor) announce(ctx context.Context) {
	for _, u := range s.units {
		select {
		case <-u.firstReady:
		case <-ctx.Done():
			return
		}
	}
	s.log.Info("all processes are ready")
	if s.cfg.Ready != nil {
		s.cfg.Ready()
	}
}

// finish ends the units in reverse order: who asks stops before who answers.
func (s *supervisor) finish(leave bool) {
	for _, u := range slices.Backward(s.units) {
		u.finish(leave)
	}
}

// close lets go of all descriptors; with tidy, of the sockets' paths and the state file too.
func (s *supervisor) close(tidy bool) {
	for _, u := range s.units {
		u.close(tidy)
	}
	if tidy {
		os.Remove(s.cfg.Installation.StateFile())
	}
}

func (s *supervisor) unit(name string) (*unit, error) {
	for _, u := range s.units {
		if u.spec.Name == name {
			return u, nil
		}
	}
	return nil, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There is no process %q.", name), "See the names with `bulwark status`.", nil)
}

// Backoff says how long to wait before a process that ended is started again: not at all the first time, then First,
// doubling up to Most. A life of Reset or longer makes the next end a first one.
type Backoff struct {
	First, Most, Reset time.Duration
}

func (b Backoff) orDefault() Backoff {
	if b == (Backoff{}) {
		return Backoff{First: 100 * time.Millisecond, Most: 10 * time.Second, Reset: 30 * time.Second}
	}
	return b
}

// wait returns the delay before the restart that follows n short lives in a row.
func (b Backoff) wait(n int) time.Duration {
	if n <= 1 {
		return 0
	}
	d := b.First
	for range n - 2 {
		if d *= 2; d >= b.Most {
			return b.Most
		}
	}
	return min(d, b.Most)
}
