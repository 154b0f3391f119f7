// Package server wires the unprivileged control plane together: API, git, store, operations, and the reconcilers that keep
// instances and routes in agreement with it. It is read from top to bottom; pipeline.go is where a push becomes a route.
//
// Whoever owns this process can delay, refuse, and read logs and traffic metadata. It opens no secret and signs nothing
// that anybody must believe; see docs/security.md.
package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/audit/translog"
	"github.com/bulwark-paas/bulwark/internal/build"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/edge/edgecontrol"
	"github.com/bulwark-paas/bulwark/internal/instance"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/posture/postureapi"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/registry"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/route"
	"github.com/bulwark-paas/bulwark/internal/source"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
	"github.com/bulwark-paas/bulwark/internal/statement"
	"github.com/bulwark-paas/bulwark/internal/tenant"
)

// Config is all that a server is told.
type Config struct {
	API, SSH    net.Listener
	Dir         string // the server's own
	NodeSocket  string
	EdgeSocket  string
	Hook        string // path of bulwark-hook
	Domain      bulwark.HostName
	HTTPS, Git  uint16 // ports, for the addresses that users are shown
	Version     string
	Policy      string // file of the operator's own policies, which need not be there
	Posture     string // the prober's socket
	HostKeyFile string // where the git server's public host key goes, for the node to vouch for
	Log         *slog.Logger
}

// Server is a running server.
type Server struct {
	config    Config
	db        *db.DB
	node      *nodeapi.Client
	posture   *postureapi.Client
	jobs      *job.Engine
	instances *instance.Manager
	cron      *instance.Cron
	routes    *route.Pusher
	edge      *edgecontrol.Client
	gate      *source.Gate
	uploads   *source.Uploads
	inbox     *inbox
	audit     *translog.Log
	refusals  *audit.Refusals
	chain     *chainWatch
	repos     *gitssh.Server
	policy    *access.Policy
	used      *lastUse
	strangers *attempts // requests of whom nobody knows
	failures  *attempts // sign-ins that failed
	log       *slog.Logger
}

// Run runs a server until ctx ends; ready is called when it serves.
func Run(ctx context.Context, c Config, ready func()) error {
	s, err := open(ctx, c)
	if err != nil {
		return err
	}
	defer s.db.Close()
	if s.repos, err = s.git(); err != nil {
		return err
	}
	if err := s.gate.Tidy(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { s.instances.Run(ctx, s.routes) })
	wg.Go(func() { s.routes.Run(ctx) })
	wg.Go(func() { s.cron.Run(ctx) })
	wg.Go(func() { s.uploads.Run(ctx) })
	wg.Go(func() { s.audit.Run(ctx) })
	wg.Go(func() { s.chain.run(ctx) })
	wg.Go(func() { s.refusals.Run(ctx, func(err error) { s.log.Error("the audit log", "error", err) }) })
	// Before anything is served: who comes next must see what was taken.
	if err := s.inbox.settle(ctx); err != nil {
		s.log.Warn("it is not known yet what became of a statement", "error", err)
	}
	wg.Go(func() { s.inbox.run(ctx) })
	wg.Go(func() { s.keepGraces(ctx) })
	if err := s.jobs.Start(ctx); err != nil {
		return err
	}
	defer s.jobs.Wait()
	failed := make(chan error, 2)
	wg.Go(func() { failed <- s.repos.Serve(ctx) })
	wg.Go(func() { failed <- s.serveAPI(ctx) })
	ready()
	err = <-failed
	cancel()
	return err
}

func open(ctx context.Context, c Config) (*Server, error) {
	var migrations []db.Migration
	for _, m := range [][]db.Migration{audit.Migrations(), tenant.Migrations(), job.Migrations(), app.Migrations(), source.Migrations(), build.Migrations(),
		release.Migrations(), instance.Migrations(), registry.Migrations(), inboxMigrations} {
		migrations = append(migrations, m...)
	}
	d, err := db.Open(ctx, filepath.Join(c.Dir, "bulwark.db"), migrations)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, db: d, node: nodeapi.NewClient(c.NodeSocket), posture: postureapi.NewClient(c.Posture), used: &lastUse{at: map[bulwark.TokenID]time.Time{}},
		strangers: newAttempts(strangerEvery, strangerBurst), failures: newAttempts(failureEvery, failureBurst), log: c.Log}
	if s.policy, err = loadPolicy(c.Policy); err != nil {
		return nil, err
	}
	if s.jobs, err = job.New(d, filepath.Join(c.Dir, "operations"), c.Log, s.perform); err != nil {
		return nil, err
	}
	s.instances = instance.New(d, s.node, s.jobs.Open, c.Log)
	s.cron = instance.NewCron(s.instances, c.Log)
	s.edge = edgecontrol.New(c.EdgeSocket)
	s.routes = route.New(d, s.edge, s.instances, c.Domain, c.Log)
	s.inbox = &inbox{db: d, node: s.node, effect: s.settled, log: c.Log, done: func() {
		s.jobs.Wake()
		s.instances.Kick()
	}}
	s.audit = translog.New(translog.Config{DB: d, Dir: filepath.Join(c.Dir, "audit-log"), Node: signedLog{s.node}, Log: c.Log})
	s.refusals = audit.NewRefusals(d, nil)
	s.chain = &chainWatch{db: d, node: s.node, log: c.Log, now: time.Now}
	s.gate = &source.Gate{Decide: s.decide, DB: d, Node: s.node, Jobs: s.jobs, Dir: filepath.Join(c.Dir, "sources"), Log: c.Log, Refused: s.refusals.Note}
	s.uploads = &source.Uploads{DB: d, Jobs: s.jobs, Dir: filepath.Join(c.Dir, "uploads"), Log: c.Log}
	return s, errors.Join(os.MkdirAll(s.gate.Dir, 0o700), s.uploads.Open())
}

// git makes the SSH git server.
func (s *Server) git() (*gitssh.Server, error) {
	key, err := hostKey(filepath.Join(s.config.Dir, "ssh_host_ed25519_key"))
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(s.config.HostKeyFile, ssh.MarshalAuthorizedKey(key.PublicKey()), 0o644); err != nil {
		return nil, err
	}
	git, err := process.Look("git", "git")
	if err != nil {
		return nil, err
	}
	return gitssh.New(gitssh.Config{Listener: s.config.SSH, HostKeys: []ssh.Signer{key}, Repos: filepath.Join(s.config.Dir, "git"),
		Git: git, Hook: s.config.Hook, HookSocket: filepath.Join(s.config.Dir, "hook.sock"), Gate: s.gate, Log: s.log})
}

// hostKey reads the git server's host key, or makes it at the first start.
func hostKey(path string) (ssh.Signer, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, "bulwark")
		if err != nil {
			return nil, err
		}
		b = pem.EncodeToMemory(block)
		if err := atomicfile.Write(path, b, 0o600); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(b)
}

// serveAPI serves the API over TLS, with the certificate that the node issued.
func (s *Server) serveAPI(ctx context.Context) error {
	api.Shape()
	a := api.New(s.config.Version, s.log, s.who, s.decide)
	a.Record(s.record)
	s.endpoints(a)
	certs := &certificates{node: s.node}
	srv := &http.Server{Handler: withOrigin(a.Handler()), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certs.get,
			// Any key may sign the handshake; whose it is, and whether it is anybody's, the node's ledger says.
			ClientAuth: tls.RequestClientCert}}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.ServeTLS(s.config.API, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// who finds out who makes a request, by the key of the TLS client certificate: there is no secret that could be stolen.
func (s *Server) who(r *http.Request) (access.Actor, error) {
	stranger := access.Actor{From: r.RemoteAddr}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return stranger, s.strangers.take(r.RemoteAddr)
	}
	key, ok := r.TLS.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return stranger, s.strangers.take(r.RemoteAddr)
	}
	fingerprint := statement.NewKey(key).Fingerprint
	audit.OriginOf(r.Context()).Key = fingerprint
	var out nodeapi.KeyOwner
	err := s.node.Call(r.Context(), "keyowner", nodeapi.KeyOwner{Kind: "device", Fingerprint: fingerprint}, &out)
	if bulwark.KindOf(err) == bulwark.KindForbidden {
		return stranger, s.strangers.take(r.RemoteAddr) // or somebody who is about to sign in
	}
	if err != nil {
		return access.Actor{}, err
	}
	s.used.now(out.Token)
	actor := actorOf(out)
	actor.From = r.RemoteAddr
	return actor, nil
}

// loadPolicy reads the operator's own policies, if there are any.
func loadPolicy(path string) (*access.Policy, error) {
	var extra []byte
	if path != "" {
		var err error
		if extra, err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return access.Load(path, extra)
}

// certificates keeps the API's certificate, fetched from the node and again before it ends.
type certificates struct {
	node *nodeapi.Client
	mu   sync.Mutex // guards what follows
	cert *tls.Certificate
	at   time.Time
}

func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// By the clock and not by the time that has passed: when it was set, the node has another one within seconds.
	if age := time.Now().Round(0).Sub(c.at); c.cert != nil && age > -time.Minute && age < time.Minute {
		return c.cert, nil
	}
	var out bulwark.Certificate
	if err := c.node.Call(hello.Context(), "certificate", struct{}{}, &out); err != nil {
		if c.cert != nil {
			return c.cert, nil // the old one is good for weeks
		}
		return nil, err
	}
	cert, err := tls.X509KeyPair(out.Chain, out.Key)
	if err != nil {
		return nil, fmt.Errorf("server: the node's certificate: %w", err)
	}
	c.cert, c.at = &cert, time.Now().Round(0)
	return c.cert, nil
}

// url is the address of an app for people.
func (s *Server) url(a *app.App) string {
	host := string(a.Name) + "." + string(s.config.Domain)
	if s.config.HTTPS != 443 {
		host = fmt.Sprintf("%s:%d", host, s.config.HTTPS)
	}
	return "https://" + host
}
