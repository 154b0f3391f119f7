package netpolicy

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"Example.ORG":                 "example.org",
		"example.org.":                "example.org",
		"example.org:5432":            "example.org:5432",
		"*.Example.org.:443":          "*.example.org:443",
		"xn--mnchen-3ya.example":      "xn--mnchen-3ya.example",
		"10.0.0.0/8":                  "10.0.0.0/8",
		"10.0.0.0/8:5432":             "10.0.0.0/8:5432",
		"2001:db8::/32":               "2001:db8::/32",
		"2001:db8::/32:443":           "2001:db8::/32:443",
		"203.0.113.9":                 "203.0.113.9/32",
		"203.0.113.9:80":              "203.0.113.9/32:80",
		"2001:db8::1":                 "2001:db8::1/128",
		"[2001:db8::1]:80":            "2001:db8::1/128:80",
		"localhost":                   "localhost",
		"0.0.0.0/0":                   "0.0.0.0/0",
		"a.b.c.d.e.example.org:65535": "a.b.c.d.e.example.org:65535",
	} {
		got, err := ParseTarget(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseTarget(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ":", ":443", "*", "*.", "*.org", "a.*.org", "**.example.org", "*example.org", "example.org:", "example.org:0",
		"example.org:65536", "example.org:0443", "example.org:+443", "example.org:443:1", "exa mple.org", "example..org",
		"münchen.example", "\u212aexample.org", "example.org\x00", "example.org\n", "http://example.org",
		"user@example.org", "example.org/", "example.org/path", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/08", "::ffff:10.0.0.0/104",
		"::ffff:10.0.0.1", "fe80::1%eth0", "[fe80::1%eth0]:1", "[10.0.0.1]:80", "[10.0.0.1]", "[::1", "1.2.3", "0x7f.1", "1.2.3.4.",
		"example.123", strings.Repeat("a.", 200) + "org", "example.org private", "-a.org", "a-.org",
	} {
		if got, err := ParseTarget(in); err == nil {
			t.Errorf("ParseTarget(%q) = %q, want an error", in, got)
		} else if bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("ParseTarget(%q): the kind is %s", in, bulwark.KindOf(err))
		}
	}
}

func TestTargetMatch(t *testing.T) {
	for _, c := range []struct {
		target, name string
		want         bool
	}{
		{"example.org", "example.org", true},
		{"example.org", "www.example.org", false},
		{"example.org", "badexample.org", false},
		{"*.example.org", "www.example.org", true},
		{"*.example.org", "a.b.example.org", true},
		{"*.example.org", "example.org", false},
		{"*.example.org", "badexample.org", false},
		{"*.example.org", "example.org.evil.test", false},
		{"10.0.0.0/8", "example.org", false},
	} {
		to, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if to.Names(bulwark.HostName(c.name)) != c.want {
			t.Errorf("%s names %s: not %v", c.target, c.name, c.want)
		}
	}
	if (Target{}).Names("") || (Target{}).Covers(netip.MustParseAddr("0.0.0.0")) {
		t.Error("the zero target matches something")
	}
	to, _ := ParseTarget("203.0.113.0/24")
	if !to.Covers(netip.MustParseAddr("203.0.113.9")) || !to.Covers(netip.MustParseAddr("::ffff:203.0.113.9")) ||
		to.Covers(netip.MustParseAddr("203.0.114.9")) || to.Covers(netip.MustParseAddr("2001:db8::1")) {
		t.Error("the range does not cover what it says")
	}
}

func TestRuleLeads(t *testing.T) {
	plain, err := Rules("db.example.org")
	if err != nil {
		t.Fatal(err)
	}
	marked := Rule{To: plain[0].To, Private: true}
	for addr, want := range map[string][2]bool{
		"8.8.8.8": {true, true}, "10.0.0.1": {false, true}, "169.254.169.254": {false, false}, "::1": {false, false},
		"::ffff:10.0.0.1": {false, true}, "64:ff9b::127.0.0.1": {false, false},
	} {
		a := netip.MustParseAddr(addr)
		if got := [2]bool{plain[0].Leads(a, nil), marked.Leads(a, nil)}; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

func TestRuleJSON(t *testing.T) {
	var r Rule
	if err := json.Unmarshal([]byte(`{"to":"*.Example.org:443","private":true}`), &r); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil || string(b) != `{"to":"*.example.org:443","private":true}` {
		t.Errorf("%s, %v", b, err)
	}
	if json.Unmarshal([]byte(`{"to":""}`), &r) == nil {
		t.Error("an empty target was taken")
	}
}

func TestParseHost(t *testing.T) {
	if h, err := ParseHost("Example.ORG."); err != nil || h != "example.org" {
		t.Errorf("%q, %v", h, err)
	}
	// U+212A KELVIN SIGN folds to an ASCII k.
	if h, err := ParseHost("\u212a.example.org"); err == nil {
		t.Errorf("took %q", h)
	}
}

// A target that parses is written back in a form that reads as the same target, and matches in one form of names only.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"example.org:443", "*.example.org", "10.0.0.0/8:1", "2001:db8::/32:443", "[::1]:80", "1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := ParseTarget(s)
		if err != nil {
			if bulwark.KindOf(err) != bulwark.KindInvalid {
				t.Errorf("kind %s", bulwark.KindOf(err))
			}
			return
		}
		again, err := ParseTarget(to.String())
		if err != nil || again != to {
			t.Errorf("%q became %q, which reads as %q, %v", s, to, again, err)
		}
		if (to.Host() == "") == (!to.Prefix().IsValid()) {
			t.Errorf("%q is not either a name or a range", s)
		}
		if strings.ToLower(string(to.Host())) != string(to.Host()) || strings.HasSuffix(string(to.Host()), ".") {
			t.Errorf("%q is not in the normal form", to.Host())
		}
	})
}
