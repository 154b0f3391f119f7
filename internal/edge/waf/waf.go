// Package waf looks at requests for known attacks, by Coraza with the OWASP Core Rule Set.
//
// It promises that one look takes memory and time in proportion to what it is given, of a body at most [MaxBody], and of what that decodes to
// twice as much; that it opens no file and keeps nothing of a request; that it asks each rule that could match; and that what it says of a
// request is made of the rules' own words. It parses what strangers send: who found a hole in it
// would own the edge, and no more than that.
package waf

import (
	"fmt"
	"net/http"
	"strings"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/types"
	"github.com/corazawaf/coraza/v3/types/variables"

	"github.com/bulwark-paas/bulwark"
)

// MaxBody is how many bytes of a body are looked at, from its beginning.
const MaxBody = 128 << 10

// setup configures the rule set, before its own rules are read. Apps that speak REST use more methods and content types than it takes for usual.
const setup = `
SecRuleEngine On
SecRequestBodyAccess On
SecRequestBodyLimit %[1]d
SecRequestBodyInMemoryLimit %[1]d
SecRequestBodyLimitAction ProcessPartial
SecRequestBodyJsonDepthLimit 64
SecResponseBodyAccess On
SecResponseBodyMimeType text/plain text/html text/xml
SecResponseBodyLimit %[1]d
SecResponseBodyLimitAction ProcessPartial
SecAuditEngine Off
SecArgumentsLimit 1000
SecRule REQUEST_HEADERS:Content-Type "^(?:application(?:/soap\+|/)|text/)xml" "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "^application/(?:[a-z0-9.-]+[+])?json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQBODY_ERROR "!@eq 0" "id:200002,phase:2,t:none,log,deny,status:400,msg:'The body does not parse',logdata:'%%{reqbody_error_msg}',severity:2"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:200004,phase:1,t:none,log,deny,status:400,msg:'More arguments than are looked at',severity:2"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:200005,phase:2,t:none,log,deny,status:400,msg:'More arguments than are looked at',severity:2"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "id:200003,phase:2,t:none,log,deny,status:400,msg:'The multipart body is not well formed'"
`

// allowances are what apps of today send beside what the rule set takes for usual.
const allowances = `
SecAction "id:900200,phase:1,pass,t:none,nolog,setvar:'tx.allowed_methods=GET HEAD POST OPTIONS PUT PATCH DELETE'"
SecAction "id:900220,phase:1,pass,t:none,nolog,setvar:'tx.allowed_request_content_type=|application/x-www-form-urlencoded| |multipart/form-data| |text/xml| |application/xml| |application/soap+xml| |application/json| |application/reports+json| |application/csp-report| |application/cloudevents+json| |application/cloudevents-batch+json| |application/ld+json| |application/merge-patch+json| |application/json-patch+json| |application/problem+json| |application/vnd.api+json| |application/graphql+json| |application/grpc| |application/grpc-web| |application/grpc-web+proto| |application/x-protobuf| |application/octet-stream| |text/plain| |application/x-ndjson| |application/dns-message|'"
`

// ruleFiles are those with the rules about requests.
const ruleFiles = "@owasp_crs/REQUEST-*.conf"

// highestLevel is the highest of the rule set's paranoia levels.
const highestLevel = 4

// Firewall looks at requests. Its methods may be called by several goroutines.
type Firewall struct {
	waf  coraza.WAF
	plan *plan // nil: each rule is asked about each request
	// views has what texts decode to looked at too.
	views bool
}

// Config is what New may be told.
type Config struct {
	// Before and After are directives in SecLang that are read before and after the rule set. Those after it must not have its rules look at
	// more: a plan takes the rules as they stand in their files.
	Before, After string
	// Stock leaves the rule set as it comes, without what apps of today send beside what it takes for usual.
	Stock bool
	// Thorough asks each rule about each request, also where it cannot match: tests compare with it.
	Thorough bool
}

// New reads the rules, which takes some tenths of a second. An error says what is wrong with the directives of the Config.
func New(c Config) (*Firewall, error) {
	fastRegexps()
	before := fmt.Sprintf(setup, MaxBody) + c.Before
	if !c.Stock {
		before += allowances
	}
	f := &Firewall{}
	own := "" // rules, beside those of the rule set
	if !c.Stock {
		f.views, own = true, beyond
		registerViews()
		before += viewRule
	}
	config := coraza.NewWAFConfig()
	if !c.Thorough {
		level := 1
		if c.Stock {
			level = highestLevel
		}
		var err error
		if f.plan, err = newPlan(coreruleset.FS, ruleFiles, level, own); err != nil {
			return nil, bulwark.Fail(bulwark.KindInvalid, "The rules of the firewall cannot be read.", "", err)
		}
		before += f.plan.directives(registerPlan(f.plan))
		config = experimental.WAFConfigWithRuleObserver(config, f.plan.read)
	}
	before += own
	// A line at a time is read: what comes from elsewhere must not continue ours.
	var err error
	f.waf, err = coraza.NewWAF(config.WithRootFS(coreruleset.FS).
		WithDirectives(before).WithDirectives("Include @crs-setup.conf.example\nInclude @owasp_crs/*.conf\n").WithDirectives(c.After))
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The rules of the firewall cannot be read.", "", err)
	}
	return f, nil
}

// Request is what is looked at. It is only read.
type Request struct {
	ID      string
	Client  string // address
	Method  string
	Target  string // as it was sent, in origin form
	Proto   string // such as HTTP/1.1
	Host    string // as it was sent, with a port if there was one
	Header  http.Header
	Body    []byte   // its beginning
	Framing []string // transfer encodings
	// Exclude are rules that leave this request alone.
	Exclude []bulwark.Exclusion
}

// Reply is the answer to a request. It is only read.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte // its beginning; none if Inspects says no
}

// Inspects tells whether a body is looked at that comes with a header: text that nobody has compressed.
func Inspects(h http.Header) bool {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return false
	}
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "text/plain", "text/html", "text/xml":
		return true
	}
	return false
}

// Verdict is what a look found.
type Verdict struct {
	Attack bool
	Rules  []bulwark.WAFRule // those that it met, the deciding one last
}

// Look says what a request is, and what the answer to it gives away; reply may be nil.
func (f *Firewall) Look(q *Request, reply *Reply) Verdict {
	l := f.Begin(q)
	defer l.End()
	if reply != nil {
		l.Reply(q, reply)
	}
	return l.Verdict()
}

// Look is a look at a request that goes on with its answer.
type Look struct{ tx types.Transaction }

// Begin looks at a request. Call End in the end.
func (f *Firewall) Begin(q *Request) *Look {
	tx := f.waf.NewTransactionWithID(q.ID)
	defer f.plan.drop(tx)
	if len(q.Exclude) > 0 {
		exclude(tx, q)
	}
	tx.ProcessConnection(q.Client, 0, "", 0)
	tx.ProcessURI(q.Target, q.Method, q.Proto)
	for k, values := range q.Header {
		for _, s := range values {
			tx.AddRequestHeader(k, s)
		}
	}
	if q.Header["Host"] == nil && q.Host != "" {
		tx.AddRequestHeader("Host", q.Host)
	}
	for _, e := range q.Framing {
		tx.AddRequestHeader("Transfer-Encoding", e)
	}
	tx.SetServerName(q.Host)
	if f.views {
		document(tx, q)
	}
	it := tx.ProcessRequestHeaders()
	if it == nil && len(q.Body) > 0 {
		it, _, _ = tx.WriteRequestBody(q.Body[:min(len(q.Body), MaxBody)]) // into memory, which does not fail
	}
	if it == nil {
		_, _ = tx.ProcessRequestBody() // a body that does not parse is a match of a rule
	}
	return &Look{tx}
}

// Reply goes on with the answer. An attack that was seen before ends the look: there is nothing more to say.
func (l *Look) Reply(q *Request, r *Reply) {
	if l.tx.IsInterrupted() {
		return
	}
	for k, values := range r.Header {
		for _, s := range values {
			l.tx.AddResponseHeader(k, s)
		}
	}
	it := l.tx.ProcessResponseHeaders(r.Status, q.Proto)
	if it == nil && len(r.Body) > 0 && l.tx.IsResponseBodyProcessable() {
		it, _, _ = l.tx.WriteResponseBody(r.Body[:min(len(r.Body), MaxBody)])
	}
	if it == nil {
		_, _ = l.tx.ProcessResponseBody()
	}
}

// Verdict is what was found until now.
func (l *Look) Verdict() Verdict {
	return Verdict{Attack: l.tx.IsInterrupted(), Rules: rules(l.tx)}
}

// Attack tells whether one was found until now.
func (l *Look) Attack() bool { return l.tx.IsInterrupted() }

// End gives back what the look took.
func (l *Look) End() { _ = l.tx.Close() }

// rules are those that were met and have something to say.
func rules(tx types.Transaction) (out []bulwark.WAFRule) {
	for _, m := range tx.MatchedRules() {
		r := m.Rule()
		if m.Message() == "" || r.ID() == 0 {
			continue
		}
		w := bulwark.WAFRule{ID: r.ID(), Message: brief(m.Message()), Severity: r.Severity().Int()}
		for _, d := range m.MatchedDatas() {
			if w.Where = d.Variable().Name(); d.Key() != "" {
				w.Where += ":" + brief(d.Key())
			}
			break
		}
		out = append(out, w)
	}
	return out
}

// brief shortens what may hold a part of the request.
func brief(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// remover is what Coraza's transactions can beside what their interface says.
type remover interface {
	RemoveRuleByID(id int)
	RemoveRuleByIDRange(first, last int)
}

// targets are where an argument is looked for.
func targets() []variables.RuleVariable {
	return []variables.RuleVariable{variables.Args, variables.ArgsGet, variables.ArgsPost, variables.ArgsNames, variables.ArgsGetNames,
		variables.ArgsPostNames, variables.RequestCookies, variables.RequestCookiesNames}
}

// exclude has rules leave the request alone.
func exclude(tx types.Transaction, q *Request) {
	path, _, _ := strings.Cut(q.Target, "?")
	for _, e := range q.Exclude {
		if e.Path != "" && !Below(path, e.Path) {
			continue
		}
		if e.Arg == "" {
			if t, ok := tx.(remover); ok {
				t.RemoveRuleByID(e.Rule)
			}
			continue
		}
		if t, ok := tx.(targetRemover); ok {
			for _, v := range targets() {
				t.RemoveRuleTargetByID(e.Rule, v, strings.ToLower(e.Arg), nil)
			}
		}
	}
}

// Below tells whether a request's path is a path or below it. Spellings by which the app might understand the same path are not
// resolved: "/a" is not below "/b/../a".
func Below(path, prefix string) bool {
	if !strings.HasPrefix(path, prefix) {
		return false
	}
	return len(path) == len(prefix) || prefix[len(prefix)-1] == '/' || path[len(prefix)] == '/'
}
