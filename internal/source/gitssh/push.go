package gitssh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh/hook"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
)

const (
	askTime    = 10 * time.Second // for a hook to say what it has to say
	finishTime = 30 * time.Second // for git to end after an answer, and for one git afterwards
)

// push is one run of receive-pack.
type push struct {
	session Session
	person  bulwark.PersonID
	from    string
	app     bulwark.AppName
	log     *slog.Logger

	kill  func()        // ends git
	ended chan struct{} // closed when git has ended
	late  *time.Timer   // kills a git whose client does not finish sending
	asked atomic.Bool   // the hook came
}

// hooks are the pushes whose hook has not come yet, by token.
type hooks struct {
	mu   sync.Mutex
	open map[string]*push
}

func (h *hooks) add(p *push) (token string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	token = rand.Text()
	h.open[token] = p
	return token
}

// take gives the push of a token, once. A map's look-up is not done in constant time; the socket is closed to other
// users, and a token lives for one push.
func (h *hooks) take(token string) *push {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.open[token]
	delete(h.open, token)
	return p
}

func (h *hooks) drop(token string) { h.take(token) }

// listenHooks listens on a socket that this user alone can reach.
func listenHooks(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// serveHook serves one hook: the moment in which a push is decided.
func (s *Server) serveHook(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if err := ownUser(conn); err != nil {
		s.log.Error("git: a stranger called the hook's socket", "error", err)
		return
	}
	conn.SetReadDeadline(time.Now().Add(askTime))
	req, err := hook.ReadRequest(conn)
	out := newProgress(conn, s.cfg.patience)
	var p *push
	if err == nil {
		p = s.hooks.take(req.Token)
	}
	if p == nil {
		s.log.Error("git: a hook came without a push", "error", err)
		out.exit(1)
		return
	}
	p.asked.Store(true)
	p.late.Stop()
	d, err := s.decide(ctx, p, req, out)
	if err != nil {
		p.log.Info("git: push refused", "error", err)
		out.refuse(err)
		out.exit(1)
	} else {
		out.exit(0)
	}
	conn.Close()
	s.settle(ctx, p, d, err == nil)
}

// ownUser refuses callers of another user, should the socket's directory ever be open to them.
func ownUser(conn net.Conn) error {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("gitssh: not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("gitssh: called by user %d", cred.Uid)
	}
	return nil
}

// decision is what became of a push that got as far as its objects.
type decision struct {
	hold *hold
	u    update
	n    int // the how-manieth accepted push to the app since the start
}

// decide checks a push's form and lets the gate deploy it. ctx is the server's, not the connection's.
func (s *Server) decide(ctx context.Context, p *push, req hook.Request, out *progress) (decision, error) {
	u, err := parseUpdate(req.Lines, p.app, p.session.Branch)
	if err != nil {
		return decision{}, err
	}
	if err := checkSigned(req); err != nil {
		return decision{}, err
	}
	h, err := newHold(s.store.path(p.session.App), req.Env["GIT_QUARANTINE_PATH"], rand.Text())
	if err != nil {
		return decision{}, err
	}
	d := decision{hold: h, u: u}
	pu, err := s.describe(ctx, p, req, d)
	if err != nil {
		return d, err
	}
	if err := s.cfg.Gate.Receive(ctx, pu, out); err != nil {
		return d, err
	}
	if err := h.keep(); err != nil {
		// Deployed it is; git moves its own copy of the objects in, unless the client is gone too.
		p.log.Error("git: cannot keep the objects of an accepted push", "error", err)
	}
	head := s.store.head(p.session.App)
	head.mu.Lock()
	defer head.mu.Unlock()
	if head.commit != "" && head.commit != u.old {
		// What is deployed is decided; git moves the branch only from where it stood when this push began.
		io.WriteString(out, mark+"Another push was deployed in between; this one takes its place. Run git fetch to see it.\n")
		if err := s.store.setRef(ctx, p.session.App, u.ref, u.old); err != nil {
			p.log.Error("git: cannot move the branch back", "error", err)
		}
	}
	head.n++
	head.commit = u.new
	d.n = head.n
	return d, nil
}

// describe reads and bounds what a push holds.
func (s *Server) describe(ctx context.Context, p *push, req hook.Request, d decision) (Push, error) {
	app, env := p.session.App, d.hold.env()
	// Three programs at once: each takes a few milliseconds that a person waits for.
	var cert []byte
	var about commitInfo
	var tree treeInfo
	var errs [3]error
	var wg sync.WaitGroup
	wg.Go(func() { cert, about, errs[0] = s.store.readCommit(ctx, app, d.u.new, req.Env["GIT_PUSH_CERT"], env) })
	wg.Go(func() { errs[1] = s.store.checkHistory(ctx, app, d.u.new, env) })
	wg.Go(func() { tree, errs[2] = s.store.checkTree(ctx, app, d.u.new, env) })
	wg.Wait()
	for _, err := range errs { // the first is the most telling
		if err != nil {
			return Push{}, err
		}
	}
	return Push{
		From:    p.from,
		Session: p.session, Person: p.person, AppName: p.app,
		Old: d.u.old, New: d.u.new, Ref: d.u.ref,
		Message: about.subject, Author: about.author, Files: tree.files, TreeSize: tree.bytes,
		Certificate: cert, NonceStatus: req.Env["GIT_PUSH_CERT_NONCE_STATUS"], NoncePath: pushnonce.Path(app),
		Pack: func(ctx context.Context) (io.ReadCloser, error) { return s.store.pack(ctx, app, d.u.new, env) },
	}, nil
}

// settle waits until git has ended, and then has the branch say what was accepted last, whatever git could do itself:
// the client may have gone, and git with it.
func (s *Server) settle(ctx context.Context, p *push, d decision, accepted bool) {
	defer p.log.Debug("git: settled")
	select {
	case <-p.ended:
	case <-time.After(s.cfg.finish): // it waits for a client that does not read
		p.kill()
		<-p.ended
	}
	if d.hold == nil {
		return
	}
	if !accepted && ctx.Err() != nil {
		return // the server stops, and the deploy may go on after the restart: recover keeps the objects
	}
	if accepted {
		if err := s.setHead(ctx, p.session.App, d); err != nil {
			p.log.Error("git: cannot move the branch", "error", err)
		}
	}
	if err := d.hold.drop(); err != nil {
		p.log.Error("git: cannot drop a hold", "error", err)
	}
}

func (s *Server) setHead(ctx context.Context, app bulwark.AppID, d decision) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	head := s.store.head(app)
	head.mu.Lock()
	defer head.mu.Unlock()
	if head.n != d.n {
		return nil // a later push was accepted, and does the same for itself
	}
	return s.store.setRef(ctx, app, d.u.ref, d.u.new)
}

// Pack streams the pack of a commit, as Push.Pack does, for a deploy that goes on after a restart.
func (s *Server) Pack(ctx context.Context, app bulwark.AppID, commit bulwark.Commit) (io.ReadCloser, error) {
	return s.store.pack(ctx, app, commit, nil)
}

// Sweep removes the repositories of apps that are gone for good, as gone says. It is safe to repeat.
func (s *Server) Sweep(gone func(bulwark.AppID) (bool, error)) error { return s.store.sweep(gone) }

// SetRef has an app's branch say what is deployed, for a deploy that ended after a restart. It is safe to repeat.
func (s *Server) SetRef(ctx context.Context, app bulwark.AppID, branch string, commit bulwark.Commit) error {
	if !plainBranch(branch) {
		return bulwark.Invalid(fmt.Sprintf("%+q cannot be the name of a branch.", branch), "")
	}
	if err := s.store.ensure(ctx, app, branch); err != nil {
		return err
	}
	return s.store.setRef(ctx, app, "refs/heads/"+branch, commit)
}

// Tidy packs an app's repository together and deletes what no branch reaches and is older than two weeks. It is safe
// beside pushes; a job calls it.
func (s *Server) Tidy(ctx context.Context, app bulwark.AppID) error {
	return process.Run(ctx, s.store.cmd(app, nil, "gc", "--quiet", "--prune=2.weeks.ago"))
}
