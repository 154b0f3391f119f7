package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"golang.org/x/sys/unix"
)

// forceTime is what the node has to stop the instances when the platform is to stop in any case: a little more than the
// grace of an instance that ignores SIGTERM.
const forceTime = 40 * time.Second

// Status is what the supervisor knows of one process.
type Status struct {
	Name     string    `json:"name"`
	State    string    `json:"state"` // "running", "starting" or "waiting" (to be started again)
	PID      int       `json:"pid,omitempty"`
	Since    time.Time `json:"since,omitzero"` // for an adopted process: since the adoption
	Adopted  bool      `json:"adopted,omitempty"`
	Restarts int       `json:"restarts"`
	LastExit string    `json:"last_exit,omitempty"`
	Listens  []string  `json:"listens,omitempty"` // "name=address"
	Stored   []string  `json:"stored,omitempty"`
	Refused  int       `json:"refused,omitempty"` // messages that were not its own, or above its limit
}

// call is one request on the control socket; answer is the answer. Each connection carries one of both.
type call struct {
	Verb    string `json:"verb"` // "status", "restart", "down" or "leave"
	Process string `json:"process,omitempty"`
	Force   bool   `json:"force,omitempty"`
}

type answer struct {
	Status []Status       `json:"status,omitempty"`
	Error  *bulwark.Error `json:"error,omitempty"`
}

// controlServer answers root.
type controlServer struct {
	s     *supervisor
	l     *net.UnixListener
	calls sync.WaitGroup
}

func (s *supervisor) serveControl() (*controlServer, error) {
	e := s.cfg.Installation.SocketEntry(install.SupervisorSocket)
	fd, err := bindUnix(e.Path, unix.SOCK_STREAM, e.Owner, e.Mode, listenOn)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), e.Path)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	c := &controlServer{s: s, l: l.(*net.UnixListener)}
	c.calls.Go(c.accept)
	return c, nil
}

// Close takes no more calls and waits for the answers to those that came.
func (c *controlServer) Close() {
	c.l.Close()
	c.calls.Wait()
	os.Remove(c.s.cfg.Installation.Socket(install.SupervisorSocket))
}

func (c *controlServer) accept() {
	for {
		conn, err := c.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			c.s.log.Error("control socket", "error", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		c.calls.Go(func() {
			if c.serve(conn); closed(c.s.stopped) {
				c.s.leaveOpen(conn)
			} else {
				conn.Close()
			}
		})
	}
}

func (c *controlServer) serve(conn *net.UnixConn) {
	if uid, err := peerUser(conn); err != nil || uid != 0 { // the mode says so already; this holds if it was changed
		return
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	var r call
	if err := json.NewDecoder(io.LimitReader(conn, 4096)).Decode(&r); err != nil {
		return
	}
	var a answer
	status, err := c.do(r)
	if err != nil {
		e, ok := errors.AsType[*bulwark.Error](err)
		if !ok {
			e = &bulwark.Error{Kind: bulwark.KindInternal, Message: err.Error()} // root asks: it may see
		}
		a.Error = e
	}
	a.Status = status
	conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_ = json.NewEncoder(conn).Encode(a) // the caller is gone: nobody to tell
}

// leaveOpen keeps a caller's connection until Run ends: its end tells the caller that the installation is free again.
func (s *supervisor) leaveOpen(conn net.Conn) {
	s.lastMu.Lock()
	defer s.lastMu.Unlock()
	s.last = append(s.last, conn)
}

// goodbye closes these connections, when nothing is held any more.
func (s *supervisor) goodbye() {
	s.lastMu.Lock()
	defer s.lastMu.Unlock()
	for _, conn := range s.last {
		conn.Close()
	}
}

func (c *controlServer) do(r call) ([]Status, error) {
	switch r.Verb {
	case "status":
		return c.s.status(), nil
	case "restart":
		u, err := c.s.unit(r.Process)
		if err != nil {
			return nil, err
		}
		return nil, u.restart()
	case "leave":
		c.s.end(errLeave)
		<-c.s.stopped
		return nil, nil
	case "down":
		return nil, c.s.down(r.Force)
	}
	return nil, bulwark.Invalid(fmt.Sprintf("The supervisor has no verb %q.", r.Verb), "")
}

// restart has the loop replace the process.
func (u *unit) restart() error {
	r := request{reply: make(chan error, 1)}
	select {
	case u.requests <- r:
		return <-r.reply
	case <-u.quit:
		return bulwark.Failf(bulwark.KindUnavailable, "The installation is stopping.")
	}
}

// down lets the node stop the instances and then ends everything. With force the node has a bounded time. Whatever else ends
// Run, such as a signal or a second `down --force`, is not kept waiting by a node that does not answer.
func (s *supervisor) down(force bool) error {
	if s.cfg.BeforeDown != nil {
		ctx, cancel := s.ctx, context.CancelFunc(func() {})
		if force {
			ctx, cancel = context.WithTimeout(ctx, forceTime)
		}
		err := s.cfg.BeforeDown(ctx)
		cancel()
		if err != nil && !force && s.ctx.Err() == nil {
			return bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The instances could not be stopped, so everything still runs: %v", err),
				"Look at the node's log, or stop without it by `bulwark down --force`; instances may live on then.", err)
		}
	}
	s.end(errDown)
	<-s.stopped
	return nil
}

func (s *supervisor) status() []Status {
	var all []Status
	for _, u := range s.units {
		all = append(all, u.status())
	}
	return all
}

func (u *unit) status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	st := Status{Name: u.spec.Name, State: "waiting", Restarts: u.restarts, LastExit: u.lastExit, Refused: u.refused}
	if c := u.currentLocked(); c != nil {
		st.State, st.PID, st.Since, st.Adopted = "starting", c.pid, c.since, c.adopted
		if c.isReady() {
			st.State = "running"
		}
	}
	for _, l := range u.listeners {
		st.Listens = append(st.Listens, l.name+"="+l.bound)
	}
	for _, d := range u.store.held {
		st.Stored = append(st.Stored, d.name)
	}
	return st
}

func peerUser(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) { cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, serr
	}
	return cred.Uid, nil
}
