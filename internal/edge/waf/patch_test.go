package waf_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// log4shell is a patch as somebody writes it in a hurry.
const log4shell = `
# CVE-2021-44228
SecRule REQUEST_HEADERS|ARGS|REQUEST_URI "@rx (?i)\$\{\s*jndi:" \
    "id:1001,phase:2,t:urlDecodeUni,msg:'jndi lookup'"
`

func TestPatch(t *testing.T) {
	p, err := waf.ParsePatch("cve-2021-44228", log4shell)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Body {
		t.Error("it does not look at bodies")
	}
	ask := func(target, agent, body string) waf.Verdict {
		return p.Look(&waf.Request{ID: "x", Client: "192.0.2.1", Method: "POST", Target: target, Proto: "HTTP/1.1", Host: "a.example",
			Header: http.Header{"User-Agent": {agent}, "Content-Type": {"application/x-www-form-urlencoded"}}, Body: []byte(body)})
	}
	for _, v := range []waf.Verdict{ask("/", "${jndi:ldap://x}", ""), ask("/?q=%24%7Bjndi:x", "curl", ""), ask("/", "curl", "a=$%7bJNDI:x}")} {
		if !v.Attack || len(v.Rules) == 0 || v.Rules[0].ID != 1001 {
			t.Errorf("%+v", v)
		}
	}
	if v := ask("/?q=jndi", "curl", "a=b"); v.Attack || len(v.Rules) > 0 {
		t.Errorf("what is harmless: %+v", v)
	}
	head, err := waf.ParsePatch("head", `SecRule REQUEST_HEADERS:X-Old "@streq 1" "id:1001,phase:1,deny"`)
	if err != nil || head.Body {
		t.Errorf("a patch of heads alone looks at bodies: %v", err)
	}
}

func TestPatchRefuses(t *testing.T) {
	for rules, want := range map[string]string{
		"":                                    "no rules",
		"# nothing":                           "no rules",
		"SecRule ARGS":                        "no id",
		`SecRule ARGS "@rx (" "id:1000,deny"`: "cannot be read",
		`SecRule ARGS "@rx x" "deny"`:         "no id",
		`SecRule ARGS "@rx x" "id:1,deny"`:    "Line 1",
		"\n\nSecRuleEngine Off":               "Line 3",
		"Include /etc/passwd":                 "Line 1",
		"SecDataDir /tmp":                     "Line 1",
		`SecRule ARGS "@rx x" "id:1000,exec:/bin/sh"`:                                      "exec",
		`SecRule ARGS "@pmFromFile /etc/passwd" "id:1000,deny"`:                            "@pmfromfile",
		`SecRule ARGS "@rbl example.org" "id:1000,deny"`:                                   "@rbl",
		`SecAction "id:1000,phase:1,ctl:ruleEngine=Off"`:                                   "ctl:ruleengine",
		"SecRule ARGS \"@rx x\" \\":                                                        "goes on behind the last line",
		"SecRule ARGS \"@rx x\" \"id:1000,deny\"\nSecRule ARGS \"@rx y\" \"id:1000,deny\"": "cannot be read",
		"SecRule ARGS \"@rx \x00\" \"id:1000\"":                                            "NUL",
	} {
		_, err := waf.ParsePatch("p", rules)
		if bulwark.KindOf(err) != bulwark.KindInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", rules, err)
		}
	}
}

func FuzzParsePatch(f *testing.F) {
	f.Add(log4shell)
	f.Add(`SecAction "id:1000,phase:1,pass"`)
	f.Fuzz(func(t *testing.T, rules string) {
		p, err := waf.ParsePatch("p", rules)
		if err != nil {
			if bulwark.KindOf(err) != bulwark.KindInvalid {
				t.Errorf("%v", err)
			}
			return
		}
		p.Look(&waf.Request{ID: "x", Client: "192.0.2.1", Method: "GET", Target: "/", Proto: "HTTP/1.1", Host: "a"})
	})
}

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		path, prefix string
		want         bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/", "/a", false}, {"/a/b", "/a/", true}, {"/x", "/", true}} {
		if got := waf.Below(c.path, c.prefix); got != c.want {
			t.Errorf("%s below %s: %t", c.path, c.prefix, got)
		}
	}
}
