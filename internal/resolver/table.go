package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// Table is all that the resolver needs to know of an installation. It is immutable; a new one replaces the old as a
// whole.
type Table struct {
	// Domain is the installation's own domain: it and what is below it is never asked for outside.
	Domain bulwark.HostName `json:"domain,omitzero"`
	// Sources says which app an instance's address belongs to. An address that is not here is refused.
	Sources map[netip.Addr]bulwark.AppID `json:"sources"`
	// Apps says what each app may look up.
	Apps map[bulwark.AppID]App `json:"apps"`
}

// App is the policy of one app.
type App struct {
	// Allow is the app's egress allow-list. Addresses of hosts that it names are told to the node.
	Allow []netpolicy.Rule `json:"allow,omitempty"`
	// Restricted lets the app look up names on Allow and in Names only.
	Restricted bool `json:"restricted,omitempty"`
	// Names are local answers, such as an app's own data services. They go before everything else, and as the node gave
	// them: no address in them is checked.
	Names map[bulwark.HostName][]netip.Addr `json:"names,omitempty"`
}

// check returns t with its addresses in one form, or what is wrong with it.
func (t Table) check() (*Table, error) {
	out := Table{Domain: t.Domain, Sources: make(map[netip.Addr]bulwark.AppID, len(t.Sources)), Apps: t.Apps}
	for a, app := range t.Sources {
		if !a.IsValid() {
			return nil, bulwark.Failf(bulwark.KindInvalid, "A source of the table is no address.")
		}
		if _, ok := t.Apps[app]; !ok {
			return nil, bulwark.Failf(bulwark.KindInvalid, "The table gives %s to an app that is not in it.", a)
		}
		out.Sources[plainAddr(a)] = app
	}
	for id, app := range t.Apps {
		for name, addrs := range app.Names {
			if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !a.IsValid() }) {
				return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The name %s of %s has no address.", name, id), "", nil)
			}
		}
	}
	return &out, nil
}

// plainAddr is the one form in which addresses are compared.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// outside are names that have a meaning on this machine or its link only (RFC 6761, RFC 6762, RFC 7686, ICANN's
// "internal").
func outside() []string { return []string{"internal", "localhost", "local", "onion", "invalid"} }

// local reports whether a name is never asked for outside. A name of one label is somebody's search domain gone wrong.
func (t *Table) local(name string) bool {
	if !strings.Contains(name, ".") {
		return true
	}
	for _, d := range append(outside(), string(t.Domain)) {
		if d != "" && (name == d || strings.HasSuffix(name, "."+d)) {
			return true
		}
	}
	return false
}

// rules returns the rules of a that name the host, and whether one of them was marked private by an operator.
func (a *App) rules(host bulwark.HostName) (named, private bool) {
	for _, r := range a.Allow {
		if r.To.Names(host) {
			named, private = true, private || r.Private
		}
	}
	return named, private
}

// leads reports whether an answer for host may hold addr: an address on the internet always, one of an inner network if
// an operator allowed the host or the range for this app, the machine's own only by such a range. A rule that an app's
// owner wrote opens nothing here, or whoever owns an app would own the way into the host's network.
func (a *App) leads(host bulwark.HostName, addr netip.Addr, connected []netip.Prefix) bool {
	class := netpolicy.Classify(addr, connected)
	if class == netpolicy.Open {
		return true
	}
	if _, private := a.rules(host); private && class == netpolicy.Private {
		return true
	}
	return slices.ContainsFunc(a.Allow, func(r netpolicy.Rule) bool { return r.Private && r.To.Covers(addr) })
}
