package bulwark

import (
	"fmt"
	"slices"
	"strings"
)

// HSTSPolicy says for how long browsers keep to HTTPS for an app's hosts (RFC 6797); the zero value is HSTSOn.
type HSTSPolicy string

// The policies.
const (
	HSTSOn      HSTSPolicy = "on"      // for two years, their subdomains too
	HSTSPreload HSTSPolicy = "preload" // and they may be built into browsers, which cannot be taken back for months
	HSTSOff     HSTSPolicy = "off"     // they are told to forget it
)

// ParseHSTSPolicy checks s.
func ParseHSTSPolicy(s string) (HSTSPolicy, error) {
	switch p := HSTSPolicy(s); p {
	case HSTSOn, HSTSPreload, HSTSOff:
		return p, nil
	}
	return "", Invalid(fmt.Sprintf("HSTS cannot be %s.", quote(s)), "It is on, preload or off.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseHSTSPolicy.
func (p *HSTSPolicy) UnmarshalText(b []byte) error { return parseInto(p, b, ParseHSTSPolicy) }

// SecurityHeader is a header of answers that an app may make stricter, and looser only where its people say so.
type SecurityHeader string

// The headers.
const (
	HeaderHSTS        SecurityHeader = "strict-transport-security"
	HeaderSniff       SecurityHeader = "x-content-type-options"
	HeaderFrame       SecurityHeader = "x-frame-options" // with what a content security policy says of frame-ancestors
	HeaderReferrer    SecurityHeader = "referrer-policy"
	HeaderPermissions SecurityHeader = "permissions-policy"
)

// SecurityHeaders lists them.
func SecurityHeaders() []SecurityHeader {
	return []SecurityHeader{HeaderHSTS, HeaderSniff, HeaderFrame, HeaderReferrer, HeaderPermissions}
}

// ParseSecurityHeader checks s, in which case does not matter.
func ParseSecurityHeader(s string) (SecurityHeader, error) {
	h := SecurityHeader(strings.ToLower(s))
	if slices.Contains(SecurityHeaders(), h) {
		return h, nil
	}
	var names []string
	for _, n := range SecurityHeaders() {
		names = append(names, string(n))
	}
	return "", Invalid(fmt.Sprintf("%s is no header that an app could loosen.", quote(s)), "There are "+strings.Join(names, ", ")+".")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseSecurityHeader.
func (h *SecurityHeader) UnmarshalText(b []byte) error { return parseInto(h, b, ParseSecurityHeader) }

// String is the name.
func (h SecurityHeader) String() string { return string(h) }

// CSPolicy is what pages of an app have as content security policy beside the app's own (CSP level 3): CSPReport, or a policy; the zero value is none.
type CSPolicy string

// What there is beside policies.
const (
	CSPReport CSPolicy = "report" // browsers tell what a strict one would refuse, and refuse nothing
	CSPOff    CSPolicy = "off"    // in a ShieldChange: none any more
)

// maxCSP bounds a policy, in bytes.
const maxCSP = 4 << 10

// ParseCSPolicy checks s.
func ParseCSPolicy(s string) (CSPolicy, error) {
	p := CSPolicy(strings.TrimSpace(s))
	if p == CSPReport || p == CSPOff {
		return p, nil
	}
	if len(p) > maxCSP {
		return "", Fail(KindTooLarge, fmt.Sprintf("The content security policy takes more than %d KB.", maxCSP>>10), "", nil)
	}
	if strings.ContainsFunc(string(p), func(r rune) bool { return r < ' ' || r >= 0x7f || r == ',' }) {
		return "", Invalid("The content security policy has a character that none can have.", "It is written in ASCII on one line, without commas.")
	}
	some := false
	for _, d := range strings.Split(string(p), ";") {
		name, _, _ := strings.Cut(strings.TrimSpace(d), " ")
		if name == "" {
			continue
		}
		if !slices.Contains(cspDirectives(), strings.ToLower(name)) {
			return "", Invalid(fmt.Sprintf("A content security policy has no directive %s.", quote(name)), `Give one such as "default-src 'self'; img-src *", or report, or off.`)
		}
		some = true
	}
	if !some {
		return "", Invalid("The content security policy says nothing.", `Give one such as "default-src 'self'; img-src *", or report, or off.`)
	}
	return p, nil
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseCSPolicy.
func (p *CSPolicy) UnmarshalText(b []byte) error { return parseInto(p, b, ParseCSPolicy) }

// cspDirectives are those that browsers know, without those that send reports elsewhere.
func cspDirectives() []string {
	return append(CSPFetchDirectives(), "default-src", "base-uri", "form-action", "frame-ancestors", "sandbox", "upgrade-insecure-requests", "require-trusted-types-for", "trusted-types")
}

// CSPFetchDirectives are the directives that say what a page may load.
func CSPFetchDirectives() []string {
	return []string{"child-src", "connect-src", "font-src", "frame-src", "img-src", "manifest-src", "media-src", "object-src", "script-src", "script-src-attr",
		"script-src-elem", "style-src", "style-src-attr", "style-src-elem", "worker-src"}
}

// CSPSource is something that pages of an app loaded, as browsers have told while CSPReport was chosen. Anybody can send such reports.
type CSPSource struct {
	Directive string `json:"directive"`
	Source    string `json:"source"` // as a policy names it
	Count     int    `json:"count"`
}

// ProposeCSP is the policy that allows those sources, and nothing else.
func ProposeCSP(seen []CSPSource) CSPolicy {
	by := map[string][]string{}
	for _, s := range seen {
		if !slices.Contains(by[s.Directive], s.Source) {
			by[s.Directive] = append(by[s.Directive], s.Source)
		}
	}
	words := []string{"default-src 'none'"}
	for _, d := range append(CSPFetchDirectives(), "form-action", "base-uri") {
		if list := by[d]; len(list) > 0 {
			slices.Sort(list)
			words = append(words, d+" "+strings.Join(list, " "))
		} else if d == "form-action" || d == "base-uri" {
			words = append(words, d+" 'none'")
		}
	}
	return CSPolicy(strings.Join(append(words, "frame-ancestors 'self'"), "; "))
}
