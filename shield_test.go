package bulwark_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func TestShieldWith(t *testing.T) {
	net := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	limit := func(rate string, per bulwark.Scope, path string) bulwark.RateLimit {
		r, err := bulwark.ParseRate(rate)
		if err != nil {
			t.Fatal(err)
		}
		return bulwark.RateLimit{Rate: r, Per: per, Path: path}
	}
	var s bulwark.Shield
	step := func(c bulwark.ShieldChange, want bulwark.Shield) {
		t.Helper()
		before, _ := json.Marshal(s)
		next, err := s.With(c)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(next)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Errorf("%s:\n%s, want\n%s", c, a, b)
		}
		if after, _ := json.Marshal(s); string(after) != string(before) {
			t.Errorf("%s changed what it was made of", c)
		}
		var back bulwark.Shield
		if err := json.Unmarshal(a, &back); err != nil || !reflect.DeepEqual(back.Limits, next.Limits) && len(next.Limits) > 0 {
			t.Errorf("it does not come back from JSON: %v %+v", err, back)
		}
		s = next
	}
	step(bulwark.ShieldChange{WAF: bulwark.WAFBlock}, bulwark.Shield{WAF: bulwark.WAFBlock})
	step(bulwark.ShieldChange{Limit: []bulwark.RateLimit{limit("50r/s", bulwark.PerClient, ""), limit("3/h", bulwark.PerClient, "/login")}},
		bulwark.Shield{WAF: bulwark.WAFBlock, Limits: []bulwark.RateLimit{limit("50r/s", bulwark.PerClient, ""), limit("3r/h", bulwark.PerClient, "/login")}})
	step(bulwark.ShieldChange{Limit: []bulwark.RateLimit{limit("9r/m", bulwark.PerClient, "")}, Unlimit: []bulwark.LimitName{{Per: bulwark.PerClient, Path: "/login"}}, Deny: net("10.0.0.0/8")},
		bulwark.Shield{WAF: bulwark.WAFBlock, Limits: []bulwark.RateLimit{limit("9r/m", bulwark.PerClient, "")}, Deny: net("10.0.0.0/8")})
	step(bulwark.ShieldChange{Allow: net("10.0.0.0/8"), Exclude: []bulwark.Exclusion{{Rule: 1}, {Rule: 1}, {Rule: 2, Arg: "q"}}},
		bulwark.Shield{WAF: bulwark.WAFBlock, Limits: s.Limits, Allow: net("10.0.0.0/8"), Exclude: []bulwark.Exclusion{{Rule: 1}, {Rule: 2, Arg: "q"}}})
	step(bulwark.ShieldChange{Forget: net("10.0.0.0/8"), Include: []bulwark.Exclusion{{Rule: 1}}},
		bulwark.Shield{WAF: bulwark.WAFBlock, Limits: s.Limits, Exclude: []bulwark.Exclusion{{Rule: 2, Arg: "q"}}})

	step(bulwark.ShieldChange{HSTS: bulwark.HSTSPreload, Loosen: []bulwark.SecurityHeader{bulwark.HeaderReferrer, bulwark.HeaderFrame, bulwark.HeaderFrame}, CSP: "img-src *", Backend: bulwark.BackendH2C},
		bulwark.Shield{WAF: bulwark.WAFBlock, Limits: s.Limits, Exclude: s.Exclude, HSTS: bulwark.HSTSPreload, Loosened: []bulwark.SecurityHeader{bulwark.HeaderReferrer, bulwark.HeaderFrame},
			CSP: "img-src *", Backend: bulwark.BackendH2C})
	step(bulwark.ShieldChange{Keep: []bulwark.SecurityHeader{bulwark.HeaderReferrer}, CSP: bulwark.CSPOff},
		bulwark.Shield{WAF: bulwark.WAFBlock, Limits: s.Limits, Exclude: s.Exclude, HSTS: bulwark.HSTSPreload, Loosened: []bulwark.SecurityHeader{bulwark.HeaderFrame}, Backend: bulwark.BackendH2C})

	many := make([]netip.Prefix, 0, 2000)
	for i := range 2000 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
	}
	for name, c := range map[string]bulwark.ShieldChange{
		"nothing":               {},
		"a limit of nobody":     {Limit: []bulwark.RateLimit{{Rate: s.Limits[0].Rate}}},
		"a limit of nothing":    {Limit: []bulwark.RateLimit{{Per: bulwark.PerApp}}},
		"a limit at no path":    {Limit: []bulwark.RateLimit{limit("1r/s", bulwark.PerApp, "login")}},
		"a limit with a query":  {Limit: []bulwark.RateLimit{limit("1r/s", bulwark.PerApp, "/a?b")}},
		"no such limit":         {Unlimit: []bulwark.LimitName{{Per: bulwark.PerApp}}},
		"a network with a rest": {Deny: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}},
		"no network":            {Deny: []netip.Prefix{{}}},
		"too many networks":     {Allow: many},
		"no rule":               {Exclude: []bulwark.Exclusion{{Path: "/"}}},
		"a long argument":       {Exclude: []bulwark.Exclusion{{Rule: 1, Arg: strings.Repeat("x", 300)}}},
	} {
		if _, err := s.With(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("50r/s")
	f.Add("1/h")
	f.Add("-1r/m")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := bulwark.ParseRate(s)
		if err != nil {
			return
		}
		if again, err := bulwark.ParseRate(r.String()); err != nil || again != r || r.Requests < 1 {
			t.Errorf("%q is %v, and that is %v (%v)", s, r, again, err)
		}
	})
}

func FuzzParseNetwork(f *testing.F) {
	for _, s := range []string{"all", "10.0.0.0/8", "::1", "2001:db8::/32", "::ffff:10.0.0.1", "fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		nets, err := bulwark.ParseNetwork(s)
		if err != nil {
			return
		}
		if _, err := (bulwark.Shield{}).With(bulwark.ShieldChange{Deny: nets}); err != nil && !nets[0].Addr().Is4In6() {
			t.Errorf("%q is %v, which no shield takes: %v", s, nets, err)
		}
	})
}

func TestPages(t *testing.T) {
	page := func(n bulwark.PageName, text string) bulwark.ShieldChange {
		return bulwark.ShieldChange{Pages: map[bulwark.PageName]string{n: text}}
	}
	s, err := bulwark.Shield{}.With(page(bulwark.PageError, "sorry"))
	if err != nil {
		t.Fatal(err)
	}
	both, err := s.With(page(bulwark.PageMaintenance, "soon"))
	if err != nil || len(both.Pages) != 2 || len(s.Pages) != 1 {
		t.Fatal(both, s, err)
	}
	none, err := s.With(page(bulwark.PageError, ""))
	if err != nil || none.Pages != nil {
		t.Fatal(none, err)
	}
	if got := page(bulwark.PageError, "x").String() + page(bulwark.PageError, "").String(); got != "page error"+"no page error" {
		t.Error(got)
	}
	for _, text := range []string{strings.Repeat("x", bulwark.MaxPage+1), "\xff", "a\x00b"} {
		if _, err := s.With(page(bulwark.PageError, text)); err == nil {
			t.Errorf("%.10q is taken", text)
		}
	}
	var c bulwark.ShieldChange
	if err := json.Unmarshal([]byte(`{"pages":{"404":"x"}}`), &c); err == nil {
		t.Error("a page that there is not is taken")
	}
	if err := json.Unmarshal([]byte(`{"maintenance":"maybe"}`), &c); err == nil {
		t.Error("maintenance is on or off")
	}
}

func TestParseCSPolicy(t *testing.T) {
	for _, s := range []string{"report", "off", "default-src 'self'", "default-src 'none'; ; img-src *;", "Upgrade-Insecure-Requests"} {
		if _, err := bulwark.ParseCSPolicy(s); err != nil {
			t.Error(s, err)
		}
	}
	for _, s := range []string{"", ";", "none", "default-src 'self', script-src *", "default-src\r\nX: y", "img-src é", "report-uri https://example.org", strings.Repeat("img-src *; ", 500)} {
		if _, err := bulwark.ParseCSPolicy(s); err == nil {
			t.Errorf("%.40q is taken", s)
		}
	}
}

func TestASN(t *testing.T) {
	for text, want := range map[string]bulwark.ASN{"AS64500": 64500, "as1": 1, "AS4294967295": 4294967295} {
		if n, err := bulwark.ParseASN(text); n != want || err != nil || !strings.EqualFold(n.String(), text) {
			t.Error(text, n, err)
		}
	}
	for _, text := range []string{"", "AS", "AS0", "AS01", "AS-1", "AS4294967296", "64500", "AS1.5", "ASN1", "AS1 "} {
		if n, err := bulwark.ParseASN(text); err == nil {
			t.Error(text, "is", n)
		}
	}
	s, err := bulwark.Shield{}.With(bulwark.ShieldChange{DenyAS: []bulwark.ASN{3, 1, 3}})
	if err != nil || !slices.Equal(s.DenyAS, []bulwark.ASN{1, 3}) || s.IsDefault() {
		t.Error(s, err)
	}
	if s, err = s.With(bulwark.ShieldChange{ForgetAS: []bulwark.ASN{1, 3}}); err != nil || !s.IsDefault() {
		t.Error(s, err)
	}
}
