package bulwark

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Shield is what an app's people chose of what protects it at the edge. Its zero value is what every app has by default.
type Shield struct {
	WAF     WAFMode        `json:"waf,omitempty"`
	Exclude []Exclusion    `json:"exclude,omitempty"`
	Limits  []RateLimit    `json:"limits,omitempty"`
	Allow   []netip.Prefix `json:"allow,omitempty"` // neither Deny nor a limit is about them
	Deny    []netip.Prefix `json:"deny,omitempty"`
	DenyAS  []ASN          `json:"denyAS,omitempty"` // all networks of these
	TLS     TLSPolicy      `json:"tls,omitempty"`
	// Challenge has browsers compute something before they are let in; the zero value is ChallengeOff.
	Challenge ChallengeMode `json:"challenge,omitempty"`
	// Maintenance has the edge answer in the app's place, but for networks of Allow; the zero value is MaintenanceOff.
	Maintenance MaintenanceMode `json:"maintenance,omitempty"`
	// Pages are shown in the place of the edge's own, as HTML that can load nothing and run nothing.
	Pages map[PageName]string `json:"pages,omitempty"`
	// Backend is what the app's instances are spoken to by; the zero value is BackendHTTP1.
	Backend Backend `json:"backend,omitempty"`
	// ClientCA has who comes show a certificate of these authorities.
	ClientCA ClientCA `json:"clientCA,omitempty"`
	// HSTS says for how long browsers keep to HTTPS.
	HSTS HSTSPolicy `json:"hsts,omitempty"`
	// Loosened are the headers in which the app has the last word.
	Loosened []SecurityHeader `json:"loosened,omitempty"`
	// CSP is what pages have as content security policy beside the app's own.
	CSP CSPolicy `json:"csp,omitempty"`
	// Trace is how many requests are told of as spans of traces.
	Trace TraceShare `json:"trace,omitempty"`
}

// Backend is the protocol by which the edge speaks to an app's instances.
type Backend string

// The protocols. WebSockets come by HTTP/1.1 in either case.
const (
	BackendHTTP1 Backend = "http1" // HTTP/1.1
	BackendH2C   Backend = "h2c"   // HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3), as gRPC servers want it
)

// ParseBackend checks s.
func ParseBackend(s string) (Backend, error) {
	switch b := Backend(s); b {
	case BackendHTTP1, BackendH2C:
		return b, nil
	}
	return "", Invalid(fmt.Sprintf("An app cannot be spoken to by %s.", quote(s)), "It is http1 or h2c.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseBackend.
func (b *Backend) UnmarshalText(t []byte) error { return parseInto(b, t, ParseBackend) }

// TLSPolicy says what an app is spoken to by; the zero value is TLSIntermediate.
type TLSPolicy string

// The policies, after Mozilla's guideline of 2025 (version 6.0). What they mean moves with releases of Bulwark.
const (
	TLSIntermediate TLSPolicy = "intermediate" // TLS 1.2 with forward secrecy and authenticated encryption, and TLS 1.3
	TLSModern       TLSPolicy = "modern"       // TLS 1.3
)

// ParseTLSPolicy checks s.
func ParseTLSPolicy(s string) (TLSPolicy, error) {
	switch p := TLSPolicy(s); p {
	case TLSIntermediate, TLSModern:
		return p, nil
	}
	return "", Invalid(fmt.Sprintf("There is no policy %s of TLS.", quote(s)), "The policies are intermediate and modern.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseTLSPolicy.
func (p *TLSPolicy) UnmarshalText(b []byte) error { return parseInto(p, b, ParseTLSPolicy) }

// ChallengeMode says whether browsers have to compute something before they are let in.
type ChallengeMode string

// The modes.
const (
	ChallengeOff ChallengeMode = "off"
	ChallengeOn  ChallengeMode = "on"
)

// ParseChallengeMode checks s.
func ParseChallengeMode(s string) (ChallengeMode, error) {
	switch m := ChallengeMode(s); m {
	case ChallengeOff, ChallengeOn:
		return m, nil
	}
	return "", Invalid(fmt.Sprintf("The challenge cannot be %s.", quote(s)), "It is on or off.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseChallengeMode.
func (m *ChallengeMode) UnmarshalText(b []byte) error { return parseInto(m, b, ParseChallengeMode) }

// WAFMode says what the web application firewall does with a request that it takes for an attack; the zero value is WAFDetect.
type WAFMode string

// The modes.
const (
	WAFDetect WAFMode = "detect" // it is noted, and passes
	WAFBlock  WAFMode = "block"  // it is refused
	WAFOff    WAFMode = "off"    // nobody looks
)

// ParseWAFMode checks s.
func ParseWAFMode(s string) (WAFMode, error) {
	switch m := WAFMode(s); m {
	case WAFDetect, WAFBlock, WAFOff:
		return m, nil
	}
	return "", Invalid(fmt.Sprintf("There is no mode %s of the web application firewall.", quote(s)), "The modes are block, detect and off.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseWAFMode.
func (m *WAFMode) UnmarshalText(b []byte) error { return parseInto(m, b, ParseWAFMode) }

// Scope is whose requests a limit counts.
type Scope string

// The scopes.
const (
	PerClient Scope = "client" // those of each client address, an IPv6 one with all others of its /64
	PerApp    Scope = "app"    // all together
)

// ParseScope checks s.
func ParseScope(s string) (Scope, error) {
	switch v := Scope(s); v {
	case PerClient, PerApp:
		return v, nil
	}
	return "", Invalid(fmt.Sprintf("A limit cannot be per %s.", quote(s)), "It is per client or per app.")
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseScope.
func (s *Scope) UnmarshalText(b []byte) error { return parseInto(s, b, ParseScope) }

// RateLimit is how many requests are let through in a time. As many may come at once.
type RateLimit struct {
	Rate Rate   `json:"rate"`
	Per  Scope  `json:"per"`
	Path string `json:"path,omitempty"` // of this path and what is below it; empty: of all
}

// Rate is a number of requests in a second, a minute or an hour. Its text is "50r/s", "300r/m" or "1000r/h".
type Rate struct {
	Requests int
	Window   time.Duration
}

// maxRate bounds the requests of a rate.
const maxRate = 1_000_000

// ParseRate reads "50r/s", "300r/m" or "1000r/h"; the "r" may be left out.
func ParseRate(s string) (Rate, error) {
	wrong := Invalid(fmt.Sprintf("%s is no rate.", quote(s)), "Give it as 50r/s, 300r/m or 1000r/h.")
	n, unit, ok := strings.Cut(s, "/")
	requests, err := strconv.Atoi(strings.TrimSuffix(n, "r"))
	if !ok || err != nil {
		return Rate{}, wrong
	}
	if requests < 1 || requests > maxRate {
		return Rate{}, Invalid(fmt.Sprintf("A rate is of 1 to %d requests.", maxRate), "To let nobody through, use deny.")
	}
	switch unit {
	case "s":
		return Rate{requests, time.Second}, nil
	case "m":
		return Rate{requests, time.Minute}, nil
	case "h":
		return Rate{requests, time.Hour}, nil
	}
	return Rate{}, wrong
}

// String writes the rate as ParseRate reads it.
func (r Rate) String() string {
	unit := "s"
	switch r.Window {
	case time.Minute:
		unit = "m"
	case time.Hour:
		unit = "h"
	}
	return strconv.Itoa(r.Requests) + "r/" + unit
}

// MarshalText implements [encoding.TextMarshaler] by String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseRate.
func (r *Rate) UnmarshalText(b []byte) error { return parseInto(r, b, ParseRate) }

// Exclusion has a rule of the web application firewall leave requests alone.
type Exclusion struct {
	Rule int    `json:"rule"`           // the rule's id
	Path string `json:"path,omitempty"` // at this path and below it; empty: at all
	Arg  string `json:"arg,omitempty"`  // in this argument alone; empty: in all of the request
}

// String writes the exclusion for people.
func (e Exclusion) String() string {
	s := strconv.Itoa(e.Rule)
	if e.Path != "" {
		s += " at " + e.Path
	}
	if e.Arg != "" {
		s += " in " + e.Arg
	}
	return s
}

// LearnedExclusion is an exclusion that would have spared requests which the firewall took for attacks, and passed on. Whether they were some is for people to say.
type LearnedExclusion struct {
	Exclusion
	Message  string `json:"message"`  // the rule's
	Requests int    `json:"requests"` // that met it
	Answered int    `json:"answered"` // of them, those that the app answered with a status of 2xx or 3xx
	Clients  int    `json:"clients"`  // networks that they came from, of 24 bits (IPv6: 48); 16 stands for more, too
	Example  string `json:"example"`  // id of one
}

// Ordinary says that the app took the requests for ordinary ones, and that many clients sent them. An exclusion that holds for the whole app is never ordinary.
func (l LearnedExclusion) Ordinary() bool {
	return l.Path != "/" && l.Clients >= ordinaryClients && l.Answered*10 >= l.Requests*9
}

// ordinaryClients is from how many networks requests come that are the app's own: an attacker has some, too.
const ordinaryClients = 8

// ShieldChange is what somebody wants changed of a Shield; what is not set stays.
type ShieldChange struct {
	WAF       WAFMode        `json:"waf,omitempty"`
	Limit     []RateLimit    `json:"limit,omitempty"` // each takes the place of that for the same scope and path
	Unlimit   []LimitName    `json:"unlimit,omitempty"`
	Allow     []netip.Prefix `json:"allow,omitempty"`
	Deny      []netip.Prefix `json:"deny,omitempty"`
	Forget    []netip.Prefix `json:"forget,omitempty"` // of both lists
	DenyAS    []ASN          `json:"denyAS,omitempty"`
	ForgetAS  []ASN          `json:"forgetAS,omitempty"`
	Exclude   []Exclusion    `json:"exclude,omitempty"`
	Include   []Exclusion    `json:"include,omitempty"` // takes exclusions back
	TLS       TLSPolicy      `json:"tls,omitempty"`
	Challenge ChallengeMode  `json:"challenge,omitempty"`
	Backend   Backend        `json:"backend,omitempty"`
	ClientCA  ClientCA       `json:"clientCA,omitempty"` // ClientCAOff takes them away

	HSTS   HSTSPolicy       `json:"hsts,omitempty"`
	Loosen []SecurityHeader `json:"loosen,omitempty"`
	Keep   []SecurityHeader `json:"keep,omitempty"` // takes that back
	CSP    CSPolicy         `json:"csp,omitempty"`  // CSPOff takes it away
	Trace  TraceShare       `json:"trace,omitempty"`

	Maintenance MaintenanceMode     `json:"maintenance,omitempty"`
	Pages       map[PageName]string `json:"pages,omitempty"` // an empty one goes
}

// LimitName names a limit.
type LimitName struct {
	Per  Scope  `json:"per"`
	Path string `json:"path,omitempty"`
}

// Bounds of a Shield.
const (
	maxLimits     = 20
	maxPrefixes   = 1000 // of each list
	maxASNs       = 100
	maxExclusions = 200
	maxShieldPath = 200 // bytes
)

// With returns the shield after a change, or says what is wrong with the change. s stays as it is.
func (s Shield) With(c ShieldChange) (Shield, error) {
	if c.isZero() {
		return s, Invalid("Nothing of the shield would change.", "Say what shall.")
	}
	var err error
	if c.WAF != "" {
		s.WAF = c.WAF
	}
	if c.TLS != "" {
		s.TLS = c.TLS
	}
	if c.Challenge != "" {
		s.Challenge = c.Challenge
	}
	if c.Backend != "" {
		s.Backend = c.Backend
	}
	if c.ClientCA == ClientCAOff {
		s.ClientCA = ""
	} else if c.ClientCA != "" {
		if s.ClientCA, err = ParseClientCA(string(c.ClientCA)); err != nil {
			return s, err
		}
	}
	if c.HSTS != "" {
		s.HSTS = c.HSTS
	}
	if c.CSP == CSPOff {
		s.CSP = ""
	} else if c.CSP != "" {
		s.CSP = c.CSP
	}
	if c.Trace == TraceOff {
		s.Trace = ""
	} else if c.Trace != "" {
		s.Trace = c.Trace
	}
	s.Loosened = slices.DeleteFunc(slices.Concat(s.Loosened, c.Loosen), func(h SecurityHeader) bool { return slices.Contains(c.Keep, h) })
	slices.Sort(s.Loosened)
	s.Loosened = slices.Compact(s.Loosened)
	if c.Maintenance != "" {
		s.Maintenance = c.Maintenance
	}
	if s.Pages, err = pages(s.Pages, c.Pages); err != nil {
		return s, err
	}
	if s.Limits, err = s.limits(c); err != nil {
		return s, err
	}
	if s.Allow, err = prefixes(s.Allow, c.Allow, slices.Concat(c.Deny, c.Forget)); err != nil {
		return s, err
	}
	if s.Deny, err = prefixes(s.Deny, c.Deny, slices.Concat(c.Allow, c.Forget)); err != nil {
		return s, err
	}
	s.DenyAS = slices.DeleteFunc(slices.Concat(s.DenyAS, c.DenyAS), func(n ASN) bool { return slices.Contains(c.ForgetAS, n) })
	slices.Sort(s.DenyAS)
	if s.DenyAS = slices.Compact(s.DenyAS); len(s.DenyAS) > maxASNs {
		return s, Invalid(fmt.Sprintf("At most %d networks are denied by number.", maxASNs), "Forget one first.")
	}
	exclude := slices.DeleteFunc(slices.Clone(s.Exclude), func(e Exclusion) bool { return slices.Contains(c.Include, e) })
	for _, e := range c.Exclude {
		if e.Rule <= 0 {
			return s, Invalid("The rule that shall leave requests alone has no number.", "Give one that bulwark shield shows.")
		}
		if err := checkShieldPath(e.Path); err != nil {
			return s, err
		}
		if len(e.Arg) > maxShieldPath {
			return s, Invalid("The name of the argument is too long.", "")
		}
		if !slices.Contains(exclude, e) {
			exclude = append(exclude, e)
		}
	}
	if len(exclude) > maxExclusions {
		return s, Invalid(fmt.Sprintf("At most %d exclusions are kept.", maxExclusions), "Exclude a rule at a path above, or altogether.")
	}
	s.Exclude = exclude
	return s, nil
}

func (c ShieldChange) isZero() bool { return says(c) == "" }

// IsDefault says that nothing of the shield was chosen.
func (s Shield) IsDefault() bool { return says(s) == "" }

// says is what v has set, of a struct whose fields are all left out of its JSON where they are not.
func says(v any) string {
	b, err := json.Marshal(v)
	if err != nil || string(b) == "{}" {
		return ""
	}
	return string(b)
}

func (s Shield) limits(c ShieldChange) ([]RateLimit, error) {
	out := slices.Clone(s.Limits)
	drop := func(n LimitName) bool {
		before := len(out)
		out = slices.DeleteFunc(out, func(l RateLimit) bool { return l.Per == n.Per && l.Path == n.Path })
		return len(out) < before
	}
	for _, n := range c.Unlimit {
		if !drop(n) {
			return nil, Fail(KindNotFound, "There is no such limit.", "See bulwark shield.", nil)
		}
	}
	for _, l := range c.Limit {
		if l.Per == "" || l.Rate.Requests == 0 {
			return nil, Invalid("A limit needs a rate, and whose requests it counts.", "")
		}
		if err := checkShieldPath(l.Path); err != nil {
			return nil, err
		}
		drop(LimitName{l.Per, l.Path})
		out = append(out, l)
	}
	if len(out) > maxLimits {
		return nil, Invalid(fmt.Sprintf("An app has at most %d limits.", maxLimits), "Remove one first.")
	}
	slices.SortFunc(out, func(a, b RateLimit) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Per, b.Per)) })
	return out, nil
}

func checkShieldPath(p string) error {
	if p == "" {
		return nil
	}
	if p[0] != '/' || len(p) > maxShieldPath || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`?#%"\`, r) }) {
		return Invalid(fmt.Sprintf("%s is no path.", quote(p)), "Give it as /login, without what stands behind a question mark.")
	}
	return nil
}

func prefixes(have, add, drop []netip.Prefix) ([]netip.Prefix, error) {
	out := slices.DeleteFunc(slices.Clone(have), func(p netip.Prefix) bool { return slices.Contains(drop, p) })
	for _, p := range add {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			return nil, Invalid(fmt.Sprintf("%s is no network.", p), "Give it as 198.51.100.0/24 or 2001:db8::/32.")
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	if len(out) > maxPrefixes {
		return nil, Invalid(fmt.Sprintf("A list holds at most %d networks.", maxPrefixes), "Give larger ones.")
	}
	return out, nil
}

// ParseNetwork reads an address or a network ("198.51.100.7", "2001:db8::/32"), or "all" for everybody, which is two networks.
func ParseNetwork(s string) ([]netip.Prefix, error) {
	if s == "all" {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, Fail(KindInvalid, fmt.Sprintf("%s is no network.", quote(s)), "Give it as 198.51.100.7, 198.51.100.0/24, 2001:db8::/32 or all.", err)
	}
	if p != p.Masked() {
		return nil, Invalid(fmt.Sprintf("%s has bits set behind its length.", quote(s)), fmt.Sprintf("Perhaps %s is meant.", p.Masked()))
	}
	return []netip.Prefix{p}, nil
}

// Shielded is an app's shield with the host names to which it applies, as the edge is told.
type Shielded struct {
	App    AppID      `json:"app"`
	Hosts  []HostName `json:"hosts"`
	Shield Shield     `json:"shield"`
}

// Refusal is why the edge did not pass a request on, or took note of it.
type Refusal string

// The refusals.
const (
	RefusedDeny        Refusal = "deny"        // the client's network is denied
	RefusedCertificate Refusal = "certificate" // the client has shown none that the app asks for
	RefusedLimit       Refusal = "limit"       // more requests than are let through
	RefusedChallenge   Refusal = "challenge"   // it has not computed what it was asked to
	RefusedWAF         Refusal = "waf"         // taken for an attack
	NotedWAF           Refusal = "waf-noted"   // taken for an attack, and passed on
	SkippedWAF         Refusal = "waf-skipped" // not looked at: too much else was to be done
	RefusedBusy        Refusal = "busy"        // the app has more to do than it can
	RefusedFlood       Refusal = "flood"       // the app was sent more than its share of what the edge can do
)

// ShieldStats is what the edge noted for an app in the last hour.
type ShieldStats struct {
	Counts   map[Refusal]int `json:"counts"`
	Examples []ShieldExample `json:"examples"` // the newest first, a few for each reason
	// Learned are the exclusions that the app's traffic would need to pass in WAFBlock, since the edge began.
	Learned []LearnedExclusion `json:"learned,omitempty"`
	// CSP is what pages loaded since CSPReport was chosen, or the edge began; nil without it.
	CSP []CSPSource `json:"csp,omitempty"`
}

// ShieldExample is a request that was refused or noted.
type ShieldExample struct {
	Time   time.Time `json:"time"`
	Reason Refusal   `json:"reason"`
	ID     string    `json:"id"` // of the request, as its answer had it
	Client string    `json:"client"`
	Method string    `json:"method"`
	Path   string    `json:"path"`            // without the query
	Patch  PatchName `json:"patch,omitempty"` // that it met
	Rules  []WAFRule `json:"rules,omitempty"`
}

// WAFRule is a rule of the web application firewall that a request met.
type WAFRule struct {
	ID      int    `json:"id"`
	Message string `json:"message"`
	// Severity is the rule's, by the numbers of syslog (RFC 5424): 2 is critical, 5 a notice.
	Severity int    `json:"severity"`
	Where    string `json:"where,omitempty"` // the variable in which it was found, such as ARGS:q
}

// String writes the change for records.
func (c ShieldChange) String() string {
	var words []string
	if c.WAF != "" {
		words = append(words, "waf "+string(c.WAF))
	}
	if c.TLS != "" {
		words = append(words, "tls "+string(c.TLS))
	}
	if c.Challenge != "" {
		words = append(words, "challenge "+string(c.Challenge))
	}
	if c.Backend != "" {
		words = append(words, "backend "+string(c.Backend))
	}
	if c.ClientCA != "" {
		words = append(words, "client-ca "+c.ClientCA.String())
	}
	if c.HSTS != "" {
		words = append(words, "hsts "+string(c.HSTS))
	}
	for _, h := range c.Loosen {
		words = append(words, "loosen "+string(h))
	}
	for _, h := range c.Keep {
		words = append(words, "keep "+string(h))
	}
	if c.CSP != "" {
		words = append(words, "csp "+string(c.CSP))
	}
	if c.Trace != "" {
		words = append(words, "trace "+string(c.Trace))
	}
	if c.Maintenance != "" {
		words = append(words, "maintenance "+string(c.Maintenance))
	}
	for _, n := range slices.Sorted(maps.Keys(c.Pages)) {
		if c.Pages[n] == "" {
			words = append(words, "no page "+string(n))
		} else {
			words = append(words, "page "+string(n))
		}
	}
	for _, l := range c.Limit {
		words = append(words, "limit "+l.String())
	}
	for _, n := range c.Unlimit {
		words = append(words, "no limit "+n.String())
	}
	for _, list := range []struct {
		word string
		of   []netip.Prefix
	}{{"allow", c.Allow}, {"deny", c.Deny}, {"forget", c.Forget}} {
		for _, p := range list.of {
			words = append(words, list.word+" "+p.String())
		}
	}
	for _, n := range c.DenyAS {
		words = append(words, "deny "+n.String())
	}
	for _, n := range c.ForgetAS {
		words = append(words, "forget "+n.String())
	}
	for _, e := range c.Exclude {
		words = append(words, "exclude "+e.String())
	}
	for _, e := range c.Include {
		words = append(words, "include "+e.String())
	}
	return strings.Join(words, ", ")
}

// String writes the limit for people.
func (l RateLimit) String() string { return l.Rate.String() + " " + LimitName{l.Per, l.Path}.String() }

// String writes the name for people.
func (n LimitName) String() string {
	s := "per " + string(n.Per)
	if n.Path != "" {
		s += " at " + n.Path
	}
	return s
}
