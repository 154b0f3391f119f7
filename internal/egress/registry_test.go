package egress

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/netpolicy"
)

// A registry that an operator named in full may lie at an inner address: on its port, by its name, and nothing else there.
func TestPrivateRegistry(t *testing.T) {
	w := newWorld(t, nil)
	w.raw("0.0.0.0:5000")
	w.raw("0.0.0.0:5001")
	w.names.set("registry.example.org", "10.99.0.1")
	w.names.set("alias.example.org", "10.99.0.1")
	w.names.set("self.example.org", "127.0.0.1")
	w.names.set("metadata.example.org", "169.254.169.254")
	w.names.set("any.cdn.example.org", "10.99.0.1")
	w.names.set("split.example.org", "10.99.0.1 127.0.0.1")
	var rules []netpolicy.Rule
	for _, s := range []string{"registry.example.org:5000", "self.example.org:5000", "metadata.example.org:5000", "split.example.org:5000"} {
		rules = append(rules, netpolicy.Rule{To: w.allow(s)[0].To, Private: true})
	}
	rules = append(rules, w.allow("*.cdn.example.org:5000")...)
	w.register(Policy{Allow: rules})
	for to, want := range map[string]string{
		"registry.example.org:5000": "",
		"registry.example.org:5001": "bulwark registries allow --packages registry.example.org:5001",
		"registry.example.org:443":  "may not reach",
		"10.99.0.1:5000":            "bulwark registries allow --packages 10.99.0.1:5000",
		"10.99.0.2:5000":            "may not reach",
		"alias.example.org:5000":    "may not reach",
		"self.example.org:5000":     "No rule opens the machine itself",
		"metadata.example.org:5000": "No rule opens the machine itself",
		"split.example.org:5000":    "No rule opens the machine itself",
		"any.cdn.example.org:5000":  "bulwark registries allow --packages any.cdn.example.org:5000",
	} {
		status, body, conn, _ := w.connect(to)
		if conn != nil {
			conn.Close()
		}
		if (status == 200) != (want == "") || !strings.Contains(body, want) {
			t.Errorf("CONNECT %s: %d %q; want %q", to, status, body, want)
		}
	}
	for _, e := range w.settled().Entries {
		if (e.Verdict == Reached) != (e.Host == "registry.example.org" && e.Port == 5000) {
			t.Errorf("%+v", e)
		}
		if e.Verdict == Reached && e.Addresses[0] != netip.MustParseAddr("10.99.0.1") {
			t.Errorf("%+v", e)
		}
	}
}
