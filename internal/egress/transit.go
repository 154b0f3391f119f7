package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// Transit is what instances may reach: the node hands it over whole, and again whenever something of it changes.
type Transit struct {
	// Sources says which app an instance's address belongs to; the router namespace lets no instance send from another.
	Sources map[netip.Addr]bulwark.AppID `json:"sources"`
	Apps    map[bulwark.AppID]TransitApp `json:"apps"`
}

// TransitApp is the policy of one app. What is open on the internet needs no rule.
type TransitApp struct {
	Allow []netpolicy.Rule `json:"allow,omitempty"`
	// Named are the addresses that hosts of Allow were resolved to for this app, with the rule's port, 0 for any.
	Named []netip.AddrPort `json:"named,omitempty"`
}

// Leads tells whether a connection from an instance of the app may go to an address. Public addresses are open; others
// only if a rule covers them, or names a host that has that address. The machine itself, its links and the metadata
// services there are opened by a range alone, never by a name: whoever answers for a name must not choose them.
func (a TransitApp) Leads(to netip.AddrPort, connected []netip.Prefix) bool {
	fits := func(port uint16) bool { return port == 0 || port == to.Port() }
	class := netpolicy.Classify(to.Addr(), connected)
	if class == netpolicy.Open {
		return true
	}
	for _, r := range a.Allow {
		if r.Private && fits(r.To.Port()) && r.To.Covers(to.Addr()) {
			return true
		}
	}
	return class == netpolicy.Private && slices.ContainsFunc(a.Named, func(n netip.AddrPort) bool {
		return n.Addr() == to.Addr() && fits(n.Port())
	})
}

// keeps tells whether a connection that was let begin may go on.
func (a TransitApp) keeps(to netip.AddrPort, connected []netip.Prefix) bool {
	return a.Leads(to, connected) || netpolicy.Classify(to.Addr(), connected) == netpolicy.Private &&
		slices.ContainsFunc(a.Allow, func(r netpolicy.Rule) bool {
			return r.Private && r.To.Host() != "" && (r.To.Port() == 0 || r.To.Port() == to.Port())
		})
}

// Limits of the way out of instances.
const (
	maxTransit       = 16384 // connections in all
	maxTransitSource = 1024  // of one instance
	transitDial      = 10 * time.Second
)

// transit carries TCP connections of instances: the router namespace redirects them to its listener, where each one's
// local address is the one that the instance meant. It dials from the host's own namespace, so the host forwards nothing
// and its rules stay as they are.
type transit struct {
	*settings
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	table  Transit
	ln     net.Listener
	bySrc  map[netip.Addr]int
	open   map[*carried]struct{} // what was let through and lives
	total  int
	closed bool
}

// carried is a connection that was let through.
type carried struct {
	from, to netip.AddrPort
	cut      func()
}

func newTransit(s *settings) *transit {
	t := &transit{settings: s, bySrc: map[netip.Addr]int{}, open: map[*carried]struct{}{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// order takes a table, and a listener if one came along.
func (t *transit) order(files []*os.File) error {
	if len(files) < 1 || len(files) > 2 {
		return bulwark.Failf(bulwark.KindInvalid, "The way out needs a table.")
	}
	b, err := fdpass.ReadSealed(files[0], maxMemory)
	if err != nil {
		return err
	}
	var table Transit
	if err := fdpass.Decode(b, &table); err != nil {
		return err
	}
	var ln net.Listener
	if len(files) == 2 {
		if ln, err = listener(files[1]); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		if ln != nil {
			ln.Close()
		}
		return bulwark.Failf(bulwark.KindUnavailable, "The egress proxy is stopping.")
	}
	t.table = table
	t.revoke()
	if ln == nil {
		if t.ln == nil { // after this process was replaced: the node has the listener
			return bulwark.Failf(bulwark.KindConflict, "The egress proxy has no listener for instances.")
		}
		return nil
	}
	if t.ln != nil {
		t.ln.Close()
	}
	t.ln = ln
	t.work.Go(func() { t.accept(ln) })
	return nil
}

func (t *transit) close() {
	t.mu.Lock()
	t.closed = true
	if t.ln != nil {
		t.ln.Close()
	}
	t.mu.Unlock()
	t.cancel()
	t.work.Wait()
}

func (t *transit) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // descriptors come back when connections end
			select {
			case <-t.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		from, to := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
		if !t.enter(from.Addr()) {
			c.Close()
			continue
		}
		t.work.Go(func() {
			defer t.leave(from.Addr())
			t.carry(c.(*net.TCPConn), from, to)
		})
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

func (t *transit) enter(src netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.total >= maxTransit || t.bySrc[src] >= maxTransitSource {
		return false
	}
	t.total++
	t.bySrc[src]++
	return true
}

func (t *transit) leave(src netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.bySrc[src]--; t.bySrc[src] == 0 {
		delete(t.bySrc, src)
	}
}

// revoke cuts what nobody allows any more. That a name no longer leads to an address ends no connection: what was asked for by name
// when it began is the app's as long as a rule for a name is there. The caller holds mu.
func (t *transit) revoke() {
	connected, err := t.connected()
	if err != nil {
		return // nothing new begins either; the next table comes within seconds
	}
	for c := range t.open {
		if t.over(c, connected) {
			c.cut()
		}
	}
}

// over tells whether nobody allows a connection any more. An instance that the table does not have is gone, and its end with it. The caller
// holds mu.
func (t *transit) over(c *carried, connected []netip.Prefix) bool {
	id, ok := t.table.Sources[c.from.Addr()]
	return ok && !t.table.Apps[id].keeps(c.to, connected)
}

// hold notes a connection until it ends; false means that it is not allowed any more. The table may be another one than when it was let in.
func (t *transit) hold(c *carried, connected []netip.Prefix) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over(c, connected) {
		return false
	}
	t.open[c] = struct{}{}
	return true
}

func (t *transit) release(c *carried) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
}

// policy returns the app of an instance.
func (t *transit) policy(src netip.Addr) (bulwark.AppID, TransitApp, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, ok := t.table.Sources[src]
	return id, t.table.Apps[id], ok
}

// carry checks one connection and copies both ways. What is refused is reset, as a closed port would.
func (t *transit) carry(c *net.TCPConn, from, to netip.AddrPort) {
	defer c.Close()
	refuse := func(why string) {
		t.log.Info("egress: an instance was refused", "from", from, "to", to, "why", why)
		c.SetLinger(0)
	}
	id, policy, ok := t.policy(from.Addr())
	if !ok {
		refuse("unknown source")
		return
	}
	connected, err := t.connected()
	if err != nil || !policy.Leads(to, connected) {
		refuse("closed address")
		return
	}
	d := net.Dialer{Timeout: transitDial, KeepAlive: time.Minute}
	far, err := d.DialContext(t.ctx, "tcp", to.String())
	if err != nil {
		t.log.Debug("egress: not connected", "app", id, "to", to, "error", err)
		c.SetLinger(0)
		return
	}
	defer far.Close()
	stop := context.AfterFunc(t.ctx, func() {
		c.Close()
		far.Close()
	})
	defer stop()
	held := &carried{from: from, to: to, cut: func() {
		c.SetLinger(0)
		c.Close()
		far.Close()
	}}
	if !t.hold(held, connected) {
		refuse("not allowed any more")
		return
	}
	defer t.release(held)
	join(c, far.(*net.TCPConn))
}

// join copies both ways until both directions ended; an end of one is passed on, a failure of one ends both.
func join(a, b *net.TCPConn) {
	var both sync.WaitGroup
	one := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			to.SetLinger(0)
			to.Close()
			from.Close()
			return
		}
		to.CloseWrite() // the other end may be gone already, and then there is nobody to tell
	}
	both.Go(func() { one(a, b) })
	both.Go(func() { one(b, a) })
	both.Wait()
}

// Transit hands over what instances may reach; ln, if not nil, is the listener in the router namespace, which stays the
// caller's.
func (c *Client) Transit(ctx context.Context, table Transit, ln *os.File) error {
	b, err := marshal(table)
	if err != nil {
		return err
	}
	memory, err := fdpass.Sealed("transit", b)
	if err != nil {
		return err
	}
	defer memory.Close()
	files := []*os.File{memory}
	if ln != nil {
		files = append(files, ln)
	}
	_, _, err = c.call(ctx, request{Verb: verbTransit}, files...)
	return err
}
