package egress

import (
	"net/netip"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// What an instance may reach, and what a rule of its owner opens and does not.
func TestTransitLeads(t *testing.T) {
	rules := func(targets ...string) []netpolicy.Rule {
		rs, err := netpolicy.Rules(targets...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rs {
			rs[i].Private = true
		}
		return rs
	}
	connected := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/25")}
	named := []netip.AddrPort{netip.MustParseAddrPort("10.1.2.3:5432"), netip.MustParseAddrPort("127.0.0.1:0")}
	for _, c := range []struct {
		name string
		app  TransitApp
		to   string
		want bool
	}{
		{"the internet", TransitApp{}, "198.51.100.7:443", true},
		{"a private range", TransitApp{}, "10.0.0.1:5432", false},
		{"cloud metadata", TransitApp{}, "169.254.169.254:80", false},
		{"the machine itself", TransitApp{}, "127.0.0.1:22", false},
		{"the host's neighbours", TransitApp{}, "203.0.113.5:80", false},
		{"beside the host's neighbours", TransitApp{}, "203.0.113.200:80", true},
		{"a range that a rule opens", TransitApp{Allow: rules("10.1.0.0/16:5432")}, "10.1.2.3:5432", true},
		{"the same range on another port", TransitApp{Allow: rules("10.1.0.0/16:5432")}, "10.1.2.3:22", false},
		{"a named host's address", TransitApp{Named: named}, "10.1.2.3:5432", true},
		{"a named host's address on another port", TransitApp{Named: named}, "10.1.2.3:22", false},
		{"a name that leads to the machine itself", TransitApp{Named: named}, "127.0.0.1:6379", false},
	} {
		if got := c.app.Leads(netip.MustParseAddrPort(c.to), connected); got != c.want {
			t.Errorf("%s (%s): %v, want %v", c.name, c.to, got, c.want)
		}
	}
}
