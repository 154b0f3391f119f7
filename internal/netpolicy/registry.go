package netpolicy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// ParseRegistry reads a host that builds may reach beside those of the toolchains. images says that a Dockerfile's FROM
// may name it as a registry, which takes a host in full; else it may be "*.host" as well.
//
// An address must be a single one. What leads to the machine itself or to its link (loopback, cloud metadata) is refused
// whoever asks for it: inside a builder, localhost is the builder.
func ParseRegistry(s string, images bool) (Target, error) {
	const hint = "Give a host such as registry.example.org or registry.internal:5000."
	bad := func(why string) (Target, error) {
		return Target{}, bulwark.Invalid(fmt.Sprintf("%s %s.", quote(s), why), hint)
	}
	t, err := ParseTarget(s)
	if err != nil {
		return bad("is no host with or without a port")
	}
	switch {
	case t.prefix.IsValid() && (!t.prefix.IsSingleIP() || strings.Contains(s, "/")):
		return bad("is a range of addresses")
	case t.prefix.IsValid() && Classify(t.prefix.Addr(), nil) == Local, t.host == "localhost", strings.HasSuffix(string(t.host), ".localhost"):
		return bad("leads to the machine itself; inside a builder that is the builder")
	case images && t.below:
		return bad("names many hosts, and FROM names one")
	case images && t.prefix.IsValid() && t.prefix.Addr().Is6():
		return bad("is an IPv6 address, which no image's name can begin with; give its name")
	}
	if images && t.port == 443 {
		t.port = 0 // what an image's name without a port means
	}
	return t, nil
}

// HostPort returns t as "host" or "host:port": a single address without the length of its prefix.
func (t Target) HostPort() string {
	if !t.prefix.IsSingleIP() {
		return t.String()
	}
	addr := t.prefix.Addr().String()
	switch {
	case t.port == 0:
		return addr
	case t.prefix.Addr().Is6():
		addr = "[" + addr + "]"
	}
	return addr + ":" + strconv.Itoa(int(t.port))
}

// OnPort returns t with port where t has none.
func (t Target) OnPort(port uint16) Target {
	if t.port == 0 {
		t.port = port
	}
	return t
}

// Many reports whether t is about more than one host: a wildcard or a range.
func (t Target) Many() bool { return t.below || t.prefix.IsValid() && !t.prefix.IsSingleIP() }
