package netpolicy

import "testing"

func TestParseRegistry(t *testing.T) {
	for _, c := range []struct {
		in     string
		images bool
		want   string // empty: refused
	}{
		{"Registry.Internal:5000", true, "registry.internal:5000"},
		{"registry.example.org", true, "registry.example.org"},
		{"registry.example.org:443", true, "registry.example.org"},
		{"registry.example.org:443", false, "registry.example.org:443"},
		{"10.1.2.3:5000", true, "10.1.2.3:5000"},
		{"198.51.100.2", true, "198.51.100.2"},
		{"*.cdn.example.org", false, "*.cdn.example.org"},
		{"*.cdn.example.org", true, ""},
		{"[2001:db8::1]:5000", false, "[2001:db8::1]:5000"},
		{"2001:db8::1", false, "2001:db8::1"},
		{"[2001:db8::1]:5000", true, ""},
		{"10.0.0.0/8", false, ""},
		{"10.1.2.3/32:5000", true, ""},
		{"localhost:5000", true, ""},
		{"a.localhost", false, ""},
		{"127.0.0.1:5000", true, ""},
		{"169.254.169.254", false, ""},
		{"[::1]:5000", false, ""},
		{"0.0.0.0:5000", true, ""},
		{"https://registry.example.org", true, ""},
		{"registry.example.org/team", true, ""},
		{"", true, ""},
	} {
		got, err := ParseRegistry(c.in, c.images)
		if (err == nil) != (c.want != "") || got.HostPort() != c.want && c.want != "" {
			t.Errorf("ParseRegistry(%q, %v) = %q, %v; want %q", c.in, c.images, got.HostPort(), err, c.want)
		}
		if c.want == "" {
			continue
		}
		if again, err := ParseRegistry(got.HostPort(), c.images); err != nil || again != got {
			t.Errorf("%q reads as %q, %v", got.HostPort(), again.HostPort(), err)
		}
	}
}
