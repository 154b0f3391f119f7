package edge

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// What answers have by default, beside what the app makes stricter.
const (
	hstsOn      = "max-age=63072000; includeSubDomains"
	hstsLeast   = 63072000
	hstsPreload = hstsOn + "; preload"
	hstsOff     = "max-age=0"
	frameOwn    = "frame-ancestors 'self'"
	// dataPolicy is for answers that are no pages: nothing in them is ever to be loaded or run.
	dataPolicy = "default-src 'none'; " + frameOwn
	// strictest is what a policy is proposed from: browsers tell of all that it would refuse.
	strictest = "default-src 'none'; form-action 'none'; base-uri 'none'; report-uri " + reportPath
)

// headerPolicy is what an app's answers have of security headers. It is immutable.
type headerPolicy struct {
	own     defaultHeaders // of the edge's own pages
	loose   map[bulwark.SecurityHeader]bool
	chosen  []string // a content security policy, for pages
	report  bool
	hstsSet bool // by the app's people: theirs is the last word
}

func newHeaderPolicy(s bulwark.Shield) *headerPolicy {
	if s.HSTS == "" && s.CSP == "" && len(s.Loosened) == 0 {
		return usualHeaders
	}
	p := &headerPolicy{own: newDefaultHeaders(), report: s.CSP == bulwark.CSPReport, hstsSet: s.HSTS != "" && s.HSTS != bulwark.HSTSOn}
	switch s.HSTS {
	case bulwark.HSTSPreload:
		p.own.values[0] = []string{hstsPreload}
	case bulwark.HSTSOff:
		p.own.values[0] = []string{hstsOff}
	}
	if s.CSP != "" && !p.report {
		p.chosen = []string{string(s.CSP)}
	}
	if len(s.Loosened) > 0 {
		p.loose = map[bulwark.SecurityHeader]bool{}
		for _, h := range s.Loosened {
			p.loose[h] = true
		}
	}
	return p
}

// usualHeaders are those of apps whose people chose nothing of them.
var usualHeaders = &headerPolicy{own: newDefaultHeaders()}

// The values that a header map holds, made once.
var (
	frameOnly  = []string{frameOwn}
	dataOnly   = []string{dataPolicy}
	strictOnly = []string{strictest}
	sameOrigin = []string{"same-origin"}
)

// addTo sets the headers in an answer: the app's own where they are as strict, ours in the place of those that are not, unless the app's people gave
// it the last word.
//
// scriptless is asked whether a page has no script; nil: that is not known.
func (p *headerPolicy) addTo(h http.Header, r *http.Request, scriptless func() bool) {
	for i, name := range p.own.names {
		app, set := h[name]
		if !set {
			h[name] = p.own.values[i]
			continue
		}
		if p.loose[bulwark.SecurityHeader(strings.ToLower(name))] {
			continue
		}
		switch name {
		case "Strict-Transport-Security":
			if p.hstsSet || len(app) != 1 || !strictTransport(app[0]) {
				h[name] = p.own.values[i]
			}
		case "X-Frame-Options":
			if len(app) != 1 || !strings.EqualFold(app[0], "DENY") {
				h[name] = p.own.values[i]
			}
		case "Referrer-Policy":
			if !discreet(app) {
				h[name] = p.own.values[i]
			}
		case "Permissions-Policy":
			if !slices.ContainsFunc(app, func(v string) bool { return !permissions.MatchString(v) }) {
				h[name] = append(app[:len(app):len(app)], p.own.values[i]...) // of two words on the same thing the last one counts (RFC 9651 §4.2.2)
			} else {
				h[name] = p.own.values[i] // one that does not parse would take ours with it
			}
		default:
			h[name] = p.own.values[i]
		}
	}
	p.addPolicies(h, r, scriptless)
}

// addPolicies adds to the app's content security policy: of several, browsers keep to all.
func (p *headerPolicy) addPolicies(h http.Header, r *http.Request, scriptless func() bool) {
	const name = "Content-Security-Policy"
	app := h[name]
	page, data := kindOf(h["Content-Type"])
	switch {
	case data && app == nil:
		h[name] = dataOnly
		if p.loose[bulwark.HeaderFrame] {
			h[name] = []string{"default-src 'none'"}
		}
	case p.loose[bulwark.HeaderFrame]:
		if page && p.chosen != nil {
			h[name] = append(app[:len(app):len(app)], p.chosen...)
		}
	case page && p.chosen != nil:
		h[name] = append(append(app[:len(app):len(app)], p.chosen...), frameOwn)
	case app == nil && page && !p.report && scriptless != nil && scriptless():
		h[name] = scriptlessOnly
	case app == nil:
		h[name] = frameOnly
	default:
		h[name] = append(app[:len(app):len(app)], frameOwn)
	}
	if page && p.report && h["Content-Security-Policy-Report-Only"] == nil {
		h["Content-Security-Policy-Report-Only"] = strictOnly
	}
	// Pages and data that are somebody's are for pages of the same origin, whatever loads them. Where nobody is signed in, some load them across sites and
	// only want to know that it worked.
	if (page || data) && h["Cross-Origin-Resource-Policy"] == nil && h["Access-Control-Allow-Origin"] == nil && !(anonymous(r) && r.Header.Get("Sec-Fetch-Site") == "cross-site") {
		h["Cross-Origin-Resource-Policy"] = sameOrigin
	}
}

// kindOf tells pages, and data that is none; others are neither.
func kindOf(types []string) (page, data bool) {
	if len(types) != 1 {
		return false, false
	}
	kind, _, _ := strings.Cut(types[0], ";")
	kind = strings.TrimSpace(kind)
	is := func(s string) bool { return strings.EqualFold(kind, s) }
	return is("text/html") || is("application/xhtml+xml"), is("text/plain") || is("application/json")
}

// anonymous says that a request comes without credentials.
func anonymous(r *http.Request) bool {
	_, signed := r.Header["Authorization"]
	return !signed && !hasCookie(r.Header["Cookie"]) && (r.TLS == nil || len(r.TLS.PeerCertificates) == 0)
}

// strictTransport says that a value of the app's binds browsers as long as ours (RFC 6797 §6.1).
func strictTransport(v string) bool {
	age, all := -1, false
	for _, d := range strings.Split(v, ";") {
		k, val, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "max-age":
			n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(val), `"`))
			if err != nil || age >= 0 {
				return false
			}
			age = n
		case "includesubdomains":
			all = true
		}
	}
	return all && age >= hstsLeast
}

// discreet says that none of the words of a referrer policy tells more than ours; of several a browser takes the last that it knows.
func discreet(values []string) bool {
	for _, v := range values {
		for _, w := range strings.Split(v, ",") {
			switch strings.ToLower(strings.TrimSpace(w)) {
			case "no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin":
			default:
				return false
			}
		}
	}
	return true
}

// permissions are values of Permissions-Policy that certainly parse: keys with *, self, or a list of those and of quoted origins.
var permissions = regexp.MustCompile(`^ *[a-z][a-z0-9-]*=(\*|self|\((self|src|\*|"[!#-\[\]-~]*"| )*\))( *, *[a-z][a-z0-9-]*=(\*|self|\((self|src|\*|"[!#-\[\]-~]*"| )*\)))* *$`)
