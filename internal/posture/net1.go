package posture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bulwark-paas/bulwark"
)

func net1() Control {
	return Control{ID: "NET-1", Version: 1, Every: hourly,
		Promise: "App instances cannot be reached from outside, nor from each other: the only way in is the edge.",
		Tries: "Connects to every address and port on which a live instance listens, from another instance; looks for a way to " +
			"them from the host.",
		Probe: probeNET1}
}

// listener is where an instance listens.
type listener struct {
	app bulwark.AppID
	ns  string // the network namespace from which it can be reached
	at  netip.AddrPort
}

// maxListeners bounds how many are tried in one run.
const maxListeners = 200

func probeNET1(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	targets, err := w.listeners(ctx)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("no instance listens")
	}
	args := []string{"network", "--timeout", reachInside}
	tried := map[string]listener{}
	for i, t := range targets[:min(len(targets), maxListeners)] {
		// What cannot be reached must be there to be reached.
		err := dialIn(t.ns, t.at)
		if err != nil {
			continue // it ended, or listens on its loopback alone
		}
		name := fmt.Sprintf("l%d", i)
		tried[name] = t
		args = append(args, "--try", name+"=tcp:"+t.at.String())
	}
	r.Proven("instances listen, as a connection from where it is allowed shows", len(tried) > 0, fmt.Sprintf("%d of %d", len(tried), len(targets)))
	// The resolver on the way out is what an instance may reach: a kit that reaches nothing at all proves nothing.
	args = append(args, "--try", "dns=tcp:"+gateway+":53")
	got, err := report(w.Person.InModel(ctx, app, args...))
	if err != nil {
		return err
	}
	for _, a := range got.Attempts {
		if strings.HasSuffix(a.Name, "dns") {
			r.Proven("the attacker's instance reaches what it may", a.Reached, a.Detail)
			continue
		}
		t, ok := tried[lastWord(a.Name)]
		if !ok {
			continue
		}
		r.Refused(fmt.Sprintf("reach %s from another instance", t.at), !a.Reached, a.Detail)
	}
	return w.fromHost(r, tried)
}

// gateway is the router's address, which every instance sees.
const gateway = "198.19.255.254"

func lastWord(s string) string {
	f := strings.Fields(s)
	if len(f) == 0 {
		return ""
	}
	return f[len(f)-1]
}

// fromHost looks whether the host has a way to instances' addresses. It asks the kernel for the route and sends nothing: where there
// is none to a link of this machine a packet would leave it, for somebody who never asked for it.
func (w *World) fromHost(r *Record, tried map[string]listener) error {
	elsewhere := map[int]bool{0: true}
	if routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1)); err == nil { // where what is nowhere here goes (RFC 5737)
		for _, rt := range routes {
			elsewhere[rt.LinkIndex] = true
		}
	}
	for _, t := range tried {
		routes, err := netlink.RouteGet(t.at.Addr().AsSlice())
		if err != nil {
			r.Refused(fmt.Sprintf("reach %s from the host", t.at), true, "no route: "+err.Error())
			continue
		}
		for _, rt := range routes {
			if elsewhere[rt.LinkIndex] && rt.Gw != nil {
				r.Refused(fmt.Sprintf("reach %s from the host", t.at), true, "the way leads out of the machine")
				continue
			}
			// A link of this machine: then it is tried.
			c, err := net.DialTimeout("tcp", t.at.String(), time.Second)
			if err == nil {
				c.Close()
			}
			r.Refused(fmt.Sprintf("reach %s from the host", t.at), err != nil, fmt.Sprint(err))
		}
	}
	return nil
}

// listeners are all places where live instances listen, as the kernel has them in each one's namespace.
func (w *World) listeners(ctx context.Context) ([]listener, error) {
	all, err := w.instances(ctx)
	if err != nil {
		return nil, err
	}
	var out []listener
	for _, i := range all {
		if i.Isolation == bulwark.IsolationSandbox { // it listens in a kernel of its own, to which the router's namespace leads
			out = append(out, listener{i.App, w.Installation.RouterNamespacePath(), i.At})
			continue
		}
		pid := i.pids[0]
		addrs, err := addressesIn(pid)
		if err != nil {
			continue // it ended
		}
		for _, port := range listening(pid) {
			for _, a := range addrs {
				out = append(out, listener{i.App, netnsOf(pid), netip.AddrPortFrom(a, port)})
			}
		}
	}
	return out, nil
}
