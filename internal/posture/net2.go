package posture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

func net2() Control {
	return Control{ID: "NET-2", Version: 2, Every: hourly,
		Promise: "The platform's own parts are in separated segments, and nothing flows but what the matrix of zones has.",
		Tries: "Every cell of the matrix that begins at an instance or outside, and every closed one that begins at edge, server, egress or resolver and leads to " +
			"this machine, with a real connection; every user of the platform, and a stranger, on every socket of the platform. A surprise either way is a failure.",
		Probe: probeNET2}
}

// cell is a way from a zone to another that can be tried.
type cell struct {
	from, to netpolicy.Zone
	at       netip.AddrPort
}

// expected tells what the matrix says of a cell, for TCP.
func (c cell) expected() bool {
	return slices.ContainsFunc(netpolicy.Between(c.from, c.to), func(f netpolicy.Flow) bool {
		return f.Proto == netpolicy.TCP && (f.Port == 0 || f.Port == c.at.Port())
	})
}

// surprise notes what came of a cell: as expected or not.
func (r *Record) surprise(c cell, reached bool, detail string) {
	want := c.expected()
	what := fmt.Sprintf("%s to %s at %s, which the matrix has closed", c.from, c.to, c.at)
	if want {
		what = fmt.Sprintf("be refused %s to %s at %s, which the matrix has open", c.from, c.to, c.at)
	}
	r.Refused(what, reached == want, detail)
}

// tried notes what came of a connection that was tried; what could not be is an error.
func (r *Record) tried(c cell, err error) error {
	if errors.Is(err, errUntried) {
		return fmt.Errorf("%s to %s: %w", c.from, c.to, err)
	}
	r.surprise(c, err == nil, fmt.Sprint(err))
	return nil
}

func probeNET2(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	if err := w.fromRun(ctx, r, app); err != nil {
		return err
	}
	if err := w.fromOutside(r); err != nil {
		return err
	}
	if err := w.fromProcesses(ctx, r); err != nil {
		return err
	}
	return w.betweenProcesses(r)
}

// fromRun tries the row of an instance.
func (w *World) fromRun(ctx context.Context, r *Record, app string) error {
	router := netip.MustParseAddr(gateway)
	cells := map[string]cell{"names": {netpolicy.Run, netpolicy.Names, netip.AddrPortFrom(router, 53)},
		// Its own port, as an address: what is carried arrives there without being asked for it.
		"egress": {netpolicy.Run, "egress, addressed by itself", netip.AddrPortFrom(router, 15001)}}
	own, err := hostAddresses()
	if err != nil {
		return err
	}
	for i, a := range append([]netip.Addr{router}, own...) {
		for name, p := range w.Installation.Declared() {
			to := netpolicy.Control
			if name == "http" || name == "https" {
				to = netpolicy.Edge
			}
			cells[fmt.Sprintf("%s-%d", name, i)] = cell{netpolicy.Run, to, netip.AddrPortFrom(a, p)}
		}
	}
	others, err := w.listeners(ctx)
	if err != nil {
		return err
	}
	alive := 0
	for i, t := range others[:min(len(others), maxListeners)] {
		if dialIn(t.ns, t.at) == nil {
			alive++
			cells[fmt.Sprintf("run-%d", i)] = cell{netpolicy.Run, netpolicy.Run, t.at}
		}
	}
	r.Proven("instances listen, as a connection from where it is allowed shows", alive > 0, fmt.Sprint(alive))
	args := []string{"network", "--timeout", reachInside}
	for name, c := range cells {
		args = append(args, "--try", name+"=tcp:"+c.at.String())
	}
	got, err := report(w.Person.InModel(ctx, app, args...))
	if err != nil {
		return err
	}
	for _, a := range got.Attempts {
		if c, ok := cells[lastWord(a.Name)]; ok && !a.Untried {
			r.surprise(c, a.Reached, a.Detail)
		}
	}
	// By UDP a question is answered, or not. That there is no such name is an answer; the installation's own names are asked of nobody else.
	host := app + "." + string(w.Installation.Domain)
	named, err := report(w.Person.InModel(ctx, app, "resolve", host))
	if err != nil {
		return err
	}
	for _, a := range named.Attempts {
		r.Refused("be refused run to names by UDP, which the matrix has open", a.Reached || strings.Contains(a.Detail, "no such host"), a.Detail)
	}
	return nil
}

// fromOutside tries the row of who reaches this machine's addresses, as a user of nobody's.
func (w *World) fromOutside(r *Record) error {
	host, err := netip.ParseAddr(publicHost(w.Installation))
	if err != nil {
		return err
	}
	for name, p := range w.Installation.Declared() {
		to := netpolicy.Control
		if name == "http" || name == "https" {
			to = netpolicy.Edge
		}
		c := cell{netpolicy.Outside, to, netip.AddrPortFrom(host, p)}
		if err := r.tried(c, as(stranger, func() error { return reach(c.at) })); err != nil {
			return err
		}
	}
	return nil
}

// service is where a program of somebody else's would listen on this machine.
const service netpolicy.Zone = "a service on the host"

// fromProcesses tries the rows of the platform's own processes: who connects for others does so from the host's network as a user whom the
// host's rules are about, the others have a network in which there is nothing. What is open to the internet is not tried, because a
// probe sends nothing off the machine; everything here stays on it.
func (w *World) fromProcesses(ctx context.Context, r *Record) error {
	own, err := hostAddresses()
	if err != nil {
		return err
	}
	var cells []cell
	for _, a := range append([]netip.Addr{loopback}, own...) {
		at, stop, err := hold("/proc/thread-self/ns/net", a)
		if err != nil {
			continue // the address is going away
		}
		defer stop()
		cells = append(cells, cell{to: service, at: at})
		for name, p := range w.Installation.Declared() {
			to := netpolicy.Control
			if name == "http" || name == "https" {
				to = netpolicy.Edge
			}
			// Where the installation listens is the operator's choice; there anybody comes in.
			if at := netip.AddrPortFrom(a, p); as(stranger, func() error { return reach(at) }) == nil {
				cells = append(cells, cell{to: to, at: at})
			}
		}
	}
	for _, c := range cells {
		if c.to == service {
			err := as(stranger, func() error { return reach(c.at) })
			r.Proven("a service on the host answers others at "+c.at.Addr().String(), err == nil, fmt.Sprint(err))
		}
	}
	pids, err := w.named()
	if err != nil {
		return err
	}
	var opened opened
	if err := w.Node.Call(ctx, "opened", struct{}{}, &opened); err != nil {
		return err
	}
	i := w.Installation
	rows := map[netpolicy.Zone]func(f func() error) error{
		netpolicy.Egress: func(f func() error) error { return as(i.User(install.Egress), f) },
		netpolicy.Names:  func(f func() error) error { return as(i.User(install.Resolver), f) },
		netpolicy.Certs:  func(f func() error) error { return as(i.User(install.Certs), f) },
	}
	for zone, process := range map[netpolicy.Zone]string{netpolicy.Edge: "edge", netpolicy.Control: "server"} {
		ns, err := os.Open(netnsOf(pids[process])) // held: a process that ends meanwhile must not look like one that reaches nothing
		if err != nil {
			return fmt.Errorf("%s has no network to look from: %w", process, err)
		}
		defer ns.Close()
		rows[zone] = func(f func() error) error { return within(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), f) }
	}
	for from, do := range rows {
		tried := 0
		for _, c := range cells {
			c.from = from
			if from == netpolicy.Egress && opened.holds(c.at) {
				continue // somebody signed for it
			}
			if err := r.tried(c, do(func() error { return reach(c.at) })); err != nil {
				return err
			}
			tried++
		}
		r.Proven("not all of the machine was opened to "+string(from)+" by somebody", tried > 0, fmt.Sprint(tried))
		err := do(func() error { return datagramTo(cells[0].at) })
		if errors.Is(err, errUntried) {
			return err
		}
		r.Refused(string(from)+" to a service on the host by UDP, which the matrix has closed", err != nil, fmt.Sprint(err))
	}
	return nil
}

// opened is what was opened to what connects for apps and builds.
type opened nodeapi.Opened

// holds tells whether an address is among it: as an address, or because a name on that port may lead to any inner one.
func (o opened) holds(at netip.AddrPort) bool {
	for _, r := range o.Ranges {
		if r.To.Contains(at.Addr()) && (r.Port == 0 || r.Port == at.Port()) {
			return true
		}
	}
	return !at.Addr().IsLoopback() && (slices.Contains(o.Ports, at.Port()) || slices.Contains(o.Ports, 0))
}

func reach(at netip.AddrPort) error {
	c, err := dialOnce(at)
	if err == nil {
		c.Close()
	}
	return err
}

// datagramTo sends one, to whom is not there to read it: what is refused is refused to the sender.
func datagramTo(at netip.AddrPort) error {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte{'?'})
	return err
}

// stranger is a user id that is nobody's on any machine (nobody, Debian policy 9.2.2).
const stranger = 65534

// betweenProcesses tries every user of the platform's on every socket. Who may connect is in the table of the layout; that it cannot
// be had otherwise is what is tried.
func (w *World) betweenProcesses(r *Record) error {
	i := w.Installation
	users := map[string]uint32{"server": i.User(install.Server), "edge": i.User(install.Edge), "dial": i.User(install.Dial), "egress": i.User(install.Egress),
		"resolver": i.User(install.Resolver), "certs": i.User(install.Certs), "a stranger": stranger}
	allowed := 0
	for _, e := range i.Layout() {
		if e.Mode&fs.ModeSocket == 0 {
			continue
		}
		for who, uid := range users {
			err := as(uid, func() error { return knock(e.Path) })
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the socket %s is not there", e.Path)
			}
			reached := !errors.Is(err, fs.ErrPermission)
			if uid == e.Owner {
				allowed++
				r.Proven(who+" reaches "+e.Path, reached, fmt.Sprint(err))
				continue
			}
			r.Refused(who+" to "+e.Path, !reached, fmt.Sprint(err))
		}
	}
	r.Proven("sockets can be reached by who may", allowed > 0, fmt.Sprint(allowed))
	return nil
}

// knock asks the kernel for a socket of a kind that no process of the platform listens with: whether one may connect is decided
// before the kinds are compared (net/unix/af_unix.c, unix_find_bsd), so nothing of it reaches who listens.
func knock(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// as runs f on a thread of its own as a user of no rights, and throws the thread away.
func as(uid uint32, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// The calls themselves, which count for this thread; the library's would change all of them.
		for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)},
			{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)}} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				done <- fmt.Errorf("%w as user %d: %w", errUntried, uid, errno)
				return
			}
		}
		done <- f()
	}()
	return <-done
}
