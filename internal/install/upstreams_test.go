package install

import (
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func TestParseUpstreams(t *testing.T) {
	for text, want := range map[string]int{"": 0, "none": 0, "192.0.2.0/24": 1, "192.0.2.7, 2001:db8::/32": 2, "cloudflare": 22, "Cloudflare,192.0.2.0/24": 23} {
		if got, err := ParseUpstreams(text); err != nil || len(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"192.0.2.1/24", "0.0.0.0/0", "::/0", "example.org", "192.0.2.0/24,", "fe80::1%eth0", "::ffff:192.0.2.0/120", strings.Repeat("192.0.2.1,", 200) + "192.0.2.1"} {
		if got, err := ParseUpstreams(text); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, u := range []Upstreams{{Only: On}, {Proxy: On, From: NoUpstreams}, {From: "192.0.2.0/24", Header: "X-Real-Ip"}} {
		if err := u.check(); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("%+v: %v", u, err)
		}
	}
	if err := (Upstreams{From: Cloudflare, Header: "Cf-Connecting-Ip", Proxy: Off, Only: On}).check(); err != nil {
		t.Error(err)
	}
}
