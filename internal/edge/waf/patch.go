package waf

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/types"

	"github.com/bulwark-paas/bulwark"
)

// patchSetup is what stands before a patch's rules: a rule that matches refuses, unless it says otherwise.
const patchSetup = `
SecRuleEngine On
SecRequestBodyAccess On
SecRequestBodyLimit %[1]d
SecRequestBodyInMemoryLimit %[1]d
SecRequestBodyLimitAction ProcessPartial
SecRequestBodyJsonDepthLimit 64
SecResponseBodyAccess Off
SecAuditEngine Off
SecArgumentsLimit 1000
SecRule REQUEST_HEADERS:Content-Type "^(?:application(?:/soap\+|/)|text/)xml" "id:1,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "^application/(?:[a-z0-9.-]+[+])?json" "id:2,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:3,phase:2,t:none,log,deny,status:400,msg:'More arguments than are looked at'"
SecRule REQBODY_ERROR "!@eq 0" "id:4,phase:2,t:none,log,deny,status:400,msg:'The body does not parse'"
SecRule REQUEST_HEADERS:Content-Encoding "!@rx ^(?:identity)?$" "id:5,phase:2,t:none,t:lowercase,log,deny,status:400,msg:'The body cannot be looked at'"
SecDefaultAction "phase:1,log,deny,status:403"
SecDefaultAction "phase:2,log,deny,status:403"
`

// reservedIDs are the ids of patchSetup's own rules.
const reservedIDs = 5

// Patch is the rules of a virtual patch.
type Patch struct {
	Name bulwark.PatchName
	fw   *Firewall
	// Body tells that it looks at bodies: so a request with one waits until the beginning of that is there.
	Body bool
}

// forbidden are words of SecLang that a patch has no use for: they would read files, ask a name server, or change how others are looked at.
func forbidden() []string {
	return []string{"@inspectfile", "@ipmatchfromfile", "@ipmatchf", "@pmfromfile", "@pmf", "@rbl", "@geolookup", "@validateschema", "@fuzzyhash", "exec:", "ctl:ruleengine", "ctl:debug",
		"ctl:audit", "setenv:", "ctl:requestbodyaccess", "ctl:requestbodylimit", "redirect:", "proxy:"}
}

// ParsePatch reads the rules of a patch. An error says what is wrong with them, and where.
func ParsePatch(name bulwark.PatchName, rules string) (*Patch, error) {
	statements, err := split(rules)
	if err != nil {
		return nil, err
	}
	p := &Patch{Name: name}
	chained := false // the rule before goes on with the next
	for _, s := range statements {
		lower := strings.ToLower(s.text)
		directive, _, _ := strings.Cut(lower, " ")
		if directive != "secrule" && directive != "secaction" && directive != "secmarker" {
			return nil, bulwark.Invalid(fmt.Sprintf("Line %d: %.40q may not stand in a patch.", s.line, s.text), "A patch has SecRule, SecAction and SecMarker, and comments.")
		}
		if i := slices.IndexFunc(forbidden(), func(w string) bool { return strings.Contains(lower, w) }); i >= 0 {
			return nil, bulwark.Invalid(fmt.Sprintf("Line %d: %s may not stand in a patch.", s.line, strings.TrimSuffix(forbidden()[i], ":")), "")
		}
		m := ruleID.FindStringSubmatch(lower)
		if m == nil && directive != "secmarker" && !chained {
			return nil, bulwark.Invalid(fmt.Sprintf("Line %d: the rule has no id.", s.line), "Give it one from 1000 on.")
		}
		chained = chain.MatchString(lower)
		if m != nil && (len(m[1]) > 9 || len(m[1]) == 1 && m[1][0] <= '0'+reservedIDs) {
			return nil, bulwark.Invalid(fmt.Sprintf("Line %d: a rule cannot have the id %s.", s.line, m[1]), "Take one from 1000 on.")
		}
	}
	if len(statements) == 0 {
		return nil, bulwark.Invalid("The patch has no rules.", "Give a file of rules in SecLang.")
	}
	fastRegexps()
	observed := func(r types.RuleMetadata) {
		if r.ID() > reservedIDs && r.Phase() >= types.PhaseRequestBody {
			p.Body = true
		}
	}
	w, err := coraza.NewWAF(experimental.WAFConfigWithRuleObserver(coraza.NewWAFConfig(), observed).WithDirectives(fmt.Sprintf(patchSetup, MaxBody)).WithDirectives(rules))
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The rules cannot be read: "+reason(err)+".", "Look at the line that is named; it counts from the patch's first.", nil)
	}
	p.fw = &Firewall{waf: w}
	return p, nil
}

// reason is Coraza's own word on what is wrong.
func reason(err error) string {
	return brief(strings.TrimPrefix(strings.TrimSuffix(err.Error(), "."), "invalid WAF config from string: "))
}

var chain = regexp.MustCompile(`[",]\s*chain\s*[",]`)

var ruleID = regexp.MustCompile(`[",]\s*id:'?([0-9]+)`)

// parsed is a directive with the line on which it begins.
type parsed struct {
	line int
	text string
}

// split takes rules apart into directives: lines that end with a backslash go on.
func split(rules string) (out []parsed, err error) {
	if strings.ContainsRune(rules, 0) {
		return nil, bulwark.Invalid("The rules have a NUL in them.", "")
	}
	begun := 0
	text := ""
	for i, line := range strings.Split(rules, "\n") {
		line = strings.TrimSpace(line)
		if text == "" && (line == "" || line[0] == '#') {
			continue
		}
		if text == "" {
			begun = i + 1
		}
		if more, ok := strings.CutSuffix(line, `\`); ok {
			text += more + " "
			continue
		}
		out = append(out, parsed{begun, text + line})
		text = ""
	}
	if text != "" {
		return nil, bulwark.Invalid(fmt.Sprintf("Line %d: the rule goes on behind the last line.", begun), "Take the backslash at its end away.")
	}
	return out, nil
}

// Look says whether a request meets the patch.
func (p *Patch) Look(q *Request) Verdict { return p.fw.Look(q, nil) }
