// Package gitssh is the git server: it takes "git push" over SSH, checks the push's form, and hands it to a Gate that
// deploys it. It promises that only known keys get in; that there is nothing behind them but two verbs of git on one
// repository that the Gate named; that no text of a client reaches a shell or another program's arguments; that a
// push which reaches the Gate is one commit of bounded size for the branch that deploys, with the certificate that its
// author's git signed for this very push; and that a client which goes away, or does not read, stops no deploy.
//
// It runs in the unprivileged server process and is not believed: it verifies no signature and decides no right.
// Whoever owns it can delay and refuse pushes, read the code that passes, and send a Gate what it likes; it cannot make
// the node deploy code that nobody signed, because the node verifies the certificate, its nonce (package pushnonce) and
// the tree itself. Whoever owns the git that it starts owns the same user, and has read a client's bytes: that is why
// git runs with bounded memory, processor time and file size, a fixed environment, and no program behind it but the hook.
package gitssh

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
)

// Config says what a Server is made of. The fields without a default must be set; the directories must belong to the
// server's user alone.
type Config struct {
	Listener   net.Listener
	HostKeys   []ssh.Signer // Ed25519, ECDSA, or RSA of at least 3072 bits
	Repos      string       // absolute path of the directory of repositories; made if absent
	Git        string       // absolute path of git, 2.39 or later
	Hook       string       // absolute path of the bulwark-hook binary
	HookSocket string       // absolute path of the Unix socket that hooks call
	Gate       Gate
	Log        *slog.Logger

	MaxPack   int64 // bytes of one push's pack; default 512 MiB
	MaxRepo   int64 // bytes of a repository's packs before it takes no more; default 5 GiB
	MaxTree   int64 // bytes of all files of a commit; default 1 GiB
	MaxFiles  int   // files of a commit; default 100,000
	MaxPath   int   // bytes of a file's path; default 1,024
	MaxMemory int64 // bytes of address space of each git that reads a client's bytes; default 2 GiB

	MaxConns      int // connections in all; default 200, of which half may be without a person yet
	MaxPerAddress int // connections of one address (IPv6: of one /64); default 20
	MaxPerPerson  int // pushes and fetches of one person at once; default 8
	MaxSessions   int // pushes and fetches at once; default 64

	patience, finish time.Duration // the constants, but for tests
}

// Server is an SSH server for git.
type Server struct {
	cfg   Config
	log   *slog.Logger
	store *store
	hooks hooks
	conns *limiter[string]
	fresh *limiter[string] // connections without a person
	work  *limiter[bulwark.PersonID]
	lock  *os.File // held on Repos while the Server is in use
}

// New checks cfg, makes the directories, and brings the repositories into order after a crash. It fails while there is
// another Server with the same Repos, whose pushes it would take for those of a crash.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Log,
		hooks: hooks{open: map[string]*push{}},
		conns: newLimiter[string](cfg.MaxConns, cfg.MaxPerAddress),
		fresh: newLimiter[string](max(1, cfg.MaxConns/2), cfg.MaxPerAddress),
		work:  newLimiter[bulwark.PersonID](cfg.MaxSessions, cfg.MaxPerPerson),
	}
	dir := filepath.Join(cfg.Repos, "hooks")
	s.store = &store{git: cfg.Git, dir: cfg.Repos, hooks: dir, cfg: cfg, heads: map[bulwark.AppID]*head{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if s.lock, err = lockFile(filepath.Join(cfg.Repos, "lock")); err != nil {
		return nil, err
	}
	if err := errors.Join(linkHook(dir, cfg.Hook), s.store.recover()); err != nil {
		s.lock.Close()
		return nil, err
	}
	return s, nil
}

// linkHook makes the directory of hooks hold ours and no other.
func linkHook(dir, hook string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Symlink(hook, filepath.Join(dir, "pre-receive"))
}

// lockFile takes a lock that ends with the process, or with the file's Close.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, bulwark.Fail(bulwark.KindConflict, "The git repositories are in use by another server process.",
			"Stop the other one first.", err)
	}
	return f, nil
}

func (cfg *Config) complete() error {
	for name, path := range map[string]string{"Repos": cfg.Repos, "Git": cfg.Git, "Hook": cfg.Hook, "HookSocket": cfg.HookSocket} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("gitssh: %s must be an absolute path and is %q", name, path)
		}
	}
	if cfg.Listener == nil || cfg.Gate == nil || cfg.Log == nil || len(cfg.HostKeys) == 0 {
		return errors.New("gitssh: Listener, Gate, Log and HostKeys must be set")
	}
	if err := cfg.completeKeys(); err != nil {
		return err
	}
	def(&cfg.MaxPack, 512<<20)
	def(&cfg.MaxRepo, 5<<30)
	def(&cfg.MaxTree, 1<<30)
	def(&cfg.MaxFiles, 100_000)
	def(&cfg.MaxPath, 1024)
	def(&cfg.MaxMemory, 2<<30)
	def(&cfg.MaxConns, 200)
	def(&cfg.MaxPerAddress, 20)
	def(&cfg.MaxPerPerson, 8)
	def(&cfg.MaxSessions, 64)
	def(&cfg.patience, patience)
	def(&cfg.finish, finishTime)
	return nil
}

// completeKeys refuses weak host keys, and keeps RSA keys from being used with SHA-1.
func (cfg *Config) completeKeys() error {
	keys := make([]ssh.Signer, len(cfg.HostKeys))
	for i, k := range cfg.HostKeys {
		if err := strongKey(k.PublicKey()); err != nil {
			return fmt.Errorf("gitssh: a host key is not fit: %w", err)
		}
		keys[i] = k
		if k.PublicKey().Type() != ssh.KeyAlgoRSA {
			continue
		}
		alg, ok := k.(ssh.AlgorithmSigner)
		if !ok {
			return errors.New("gitssh: the RSA host key can sign with SHA-1 only")
		}
		var err error
		if keys[i], err = ssh.NewSignerWithAlgorithms(alg, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}); err != nil {
			return err
		}
	}
	cfg.HostKeys = keys
	return nil
}

func def[T int | int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// strongKey refuses certificates, whose authority nobody named, and RSA keys below 3072 bits.
func strongKey(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		if k, ok := key.(ssh.CryptoPublicKey); ok {
			if pub, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok && pub.N.BitLen() >= 3072 {
				return nil
			}
		}
		return bulwark.Fail(bulwark.KindUnauthorized, "RSA keys need at least 3072 bits.", "Make a key with: ssh-keygen -t ed25519", nil)
	}
	return bulwark.Fail(bulwark.KindUnauthorized, "Keys of this type are not taken.", "Make a key with: ssh-keygen -t ed25519", nil)
}

// Serve serves until ctx ends, then closes the connections, ends ctx for running calls of Gate.Receive, and waits for
// them. It closes the Listener. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	defer s.lock.Close()
	defer s.cfg.Listener.Close()
	hl, err := listenHooks(s.cfg.HookSocket)
	if err != nil {
		return err
	}
	defer hl.Close()
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(run, func() {
		s.cfg.Listener.Close()
		hl.Close()
	})
	var wg sync.WaitGroup
	var hookErr error
	wg.Go(func() {
		hookErr = s.accept(run, hl, &wg, s.serveHook)
		cancel()
	})
	err = s.accept(run, s.cfg.Listener, &wg, s.serveConn)
	cancel()
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, hookErr)
}

// accept serves each connection in its own goroutine until the listener is closed.
func (s *Server) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup, serve func(context.Context, net.Conn)) error {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			wg.Go(func() { serve(ctx, conn) })
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors, most likely: the others go on, and end some day
			s.log.Error("git: cannot accept a connection", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}
