package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// The operator opened one port of a private host, or of a private range, for a tenant's app. What the tenant opens by themselves makes
// no more of it: neither a rule for the same name without a port, nor a name of their own that leads there.
func TestTenantWidensNothingPrivate(t *testing.T) {
	now := time.Now()
	inner := netip.MustParseAddr("10.0.0.5")
	named := func(host string) map[netip.Addr]namedAddress {
		return map[netip.Addr]namedAddress{inner: {host: bulwark.HostName(host), until: now.Add(time.Minute)}}
	}
	for name, c := range map[string]struct {
		rules []ledger.EgressRule
		host  string
		want  []netip.AddrPort
	}{
		"the operator's name":     {[]ledger.EgressRule{{Rule: "db.inner.example:5432", Private: true}}, "db.inner.example", []netip.AddrPort{netip.AddrPortFrom(inner, 5432)}},
		"the tenant's, too":       {[]ledger.EgressRule{{Rule: "db.inner.example:5432", Private: true}, {Rule: "db.inner.example"}}, "db.inner.example", []netip.AddrPort{netip.AddrPortFrom(inner, 5432)}},
		"another port of it":      {[]ledger.EgressRule{{Rule: "db.inner.example:5432", Private: true}, {Rule: "db.inner.example:22"}}, "db.inner.example", []netip.AddrPort{netip.AddrPortFrom(inner, 5432)}},
		"a name that leads there": {[]ledger.EgressRule{{Rule: "10.0.0.0/24:5432", Private: true}, {Rule: "x.evil.example"}}, "x.evil.example", nil},
		"the tenant's alone":      {[]ledger.EgressRule{{Rule: "db.inner.example:5432"}}, "db.inner.example", nil},
	} {
		got, err := allowed("app_x", c.rules, named(c.host), now)
		must(t, err)
		if !slices.Equal(got.Named, c.want) {
			t.Errorf("%s: %v is open, want %v", name, got.Named, c.want)
		}
	}
}
