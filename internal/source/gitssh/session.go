package gitssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh/hook"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
)

const (
	beginTime = 30 * time.Second // for Gate.Begin and the repository
	sendTime  = 30 * time.Minute // for a client to send its pack
	fetchTime = time.Hour
	closeTime = 10 * time.Second // for a client to close its end after git's last word
)

// run does what a command line asks for and returns its exit code.
func (s *Server) run(ctx context.Context, c client, ch ssh.Channel, line string) uint32 {
	cmd, err := parseCommand(line)
	if err != nil {
		return c.refuse(ch, err)
	}
	leave := s.work.enter(c.person)
	if leave == nil {
		return c.refuse(ch, bulwark.Fail(bulwark.KindBusy, "Too many pushes and fetches are under way.", "Try again in a moment.", nil))
	}
	defer leave()
	log := s.log.With("verb", string(cmd.verb), "app", string(cmd.app), "person", string(c.person), "addr", c.addr)
	session, err := s.begin(ctx, c.person, cmd)
	if err != nil {
		log.Info("git: refused", "error", err)
		return c.refuse(ch, err)
	}
	start := time.Now()
	if cmd.verb == verbUpload {
		err = s.upload(ctx, c, ch, session)
	} else {
		err = s.receive(ctx, c, ch, &push{session: session, person: c.person, from: c.addr, app: cmd.app, log: log})
	}
	log.Info("git: ended", "took", time.Since(start), "error", err)
	return exitCode(err)
}

// begin asks the gate and prepares the repository.
func (s *Server) begin(ctx context.Context, person bulwark.PersonID, cmd command) (Session, error) {
	ctx, cancel := context.WithTimeout(ctx, beginTime)
	defer cancel()
	session, err := s.cfg.Gate.Begin(ctx, person, cmd.app)
	if err != nil {
		return Session{}, err
	}
	// What the gate says becomes a path, a ref and a line of configuration: the last look at it.
	if _, err := bulwark.ParseAppID(string(session.App)); err != nil {
		return Session{}, fmt.Errorf("gitssh: the gate answered %q", session.App)
	}
	if !plainBranch(session.Branch) {
		return Session{}, fmt.Errorf("gitssh: the gate's branch is %q", session.Branch)
	}
	if cmd.verb == verbReceive && (len(session.NonceSeed) < 16 || strings.ContainsAny(session.NonceSeed, "\x00\n")) {
		return Session{}, errors.New("gitssh: the gate's nonce seed is not fit")
	}
	if err := s.store.ensure(ctx, session.App, session.Branch); err != nil {
		return Session{}, err
	}
	if cmd.verb == verbReceive {
		return session, s.store.room(session.App, cmd.app)
	}
	return session, nil
}

// upload serves a clone or a fetch.
func (s *Server) upload(ctx context.Context, c client, ch ssh.Channel, session Session) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	defer context.AfterFunc(ctx, c.hangUp)()
	return s.connect(ctx, ch, process.Cmd{Path: s.store.git, Dir: s.store.dir, Env: environment(s.store.common()),
		Args: []string{"upload-pack", "--strict", "--timeout=120", pushnonce.Path(session.App)}}, func(int64) {})
}

// receive serves a push. Git's hook calls serveHook meanwhile, which decides.
func (s *Server) receive(ctx context.Context, c client, ch ssh.Channel, p *push) error {
	ctx, p.kill = context.WithCancel(ctx)
	defer p.kill()
	defer context.AfterFunc(ctx, c.hangUp)() // runs before kill: only a kill from elsewhere hangs up
	p.ended = make(chan struct{})
	defer close(p.ended)
	p.late = time.AfterFunc(sendTime, p.kill)
	defer p.late.Stop()
	token := s.hooks.add(p)
	defer s.hooks.drop(token)
	settings := append(s.store.common(), s.store.receiving(p.session.NonceSeed)...)
	return s.connect(ctx, ch, process.Cmd{
		Path: s.store.git, Dir: s.store.dir,
		Args: []string{"receive-pack", pushnonce.Path(p.session.App)}, // this very string is what the nonce covers
		Env:  environment(settings, hook.EnvSocket+"="+s.cfg.HookSocket, hook.EnvToken+"="+token),
	}, func(got int64) {
		// More than the flush of a push of nothing came, and git gave up before it asked: say what is known.
		if !p.asked.Load() && got > 4 {
			c.refuse(ch, s.notAsked(got))
		}
	})
}

func (s *Server) notAsked(got int64) error {
	if got > s.cfg.MaxPack {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The push is larger than %s.", size(s.cfg.MaxPack)),
			"Large files belong into storage of their own; they must leave the history too: git filter-repo does it.", nil)
	}
	return bulwark.Invalid("Git could not take this push; its own reason stands beside this line.",
		"If an object is bad, \"git fsck\" finds it in your clone, and git filter-repo mends the history.")
}

// connect runs git with the session as its standard input and output, and tells after, when git has ended, how much
// the client has sent. When the client goes away, git's input ends and its output is thrown away: git can finish what it
// is in the middle of.
func (s *Server) connect(ctx context.Context, ch ssh.Channel, c process.Cmd, after func(got int64)) error {
	git, inW, outR, err := s.startPiped(ctx, c)
	if err != nil {
		return err
	}
	defer outR.Close()
	in := &counter{w: inW}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, err := io.Copy(in, ch)
		inW.Close()
		if err != nil { // git takes no more: let the client finish its sentence, so that it reads ours
			_, _ = io.Copy(in.only(), ch)
		}
	}()
	if _, err := io.Copy(ch, outR); err != nil {
		_, _ = io.Copy(io.Discard, outR)
	}
	err = git.Wait()
	after(in.n.Load())
	ch.CloseWrite()
	select {
	case <-drained:
	case <-time.After(closeTime):
	}
	return err
}

// startPiped starts a confined git with pipes of ours, not the process package's: waiting for git must not wait for a
// client that does not close its end.
func (s *Server) startPiped(ctx context.Context, c process.Cmd) (git *process.Process, inW, outR *os.File, err error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return nil, nil, nil, err
	}
	defer outW.Close()
	c.Stdin, c.Stdout = inR, outW
	if git, err = process.Start(ctx, c); err == nil {
		if err = s.store.confine(git.PID()); err == nil {
			return git, inW, outR, nil
		}
		_ = git.Signal(os.Kill)
		_ = git.Wait()
	}
	inW.Close()
	outR.Close()
	return nil, nil, nil, err
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.w.Write(b)
}

// only counts on, and writes nowhere.
func (c *counter) only() io.Writer {
	c.w = io.Discard
	return c
}

func exitCode(err error) uint32 {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*process.ExitError](err); ok && e.Code > 0 && e.Code < 256 {
		return uint32(e.Code)
	}
	return 128
}
