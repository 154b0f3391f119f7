package waf

import (
	_ "embed"
	"encoding/base64"
	"net/url"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/corazawaf/coraza/v3/collection"
	"github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types"
)

// beyond are rules beside the rule set.
//
//go:embed beyond.conf
var beyond string

// doubt is rules of beyond.conf that say when rules of the rule set take prose for an attack. Nobody has to ask them if those are not asked.
type doubt struct {
	first, last int
	about       []int
}

func doubts() []doubt {
	return []doubt{
		{80010, 80011, []int{932125, 932230, 932235, 932250, 932260, 932370, 932380}},
		{80014, 80015, []int{932130}},
		{80016, 80017, []int{941370}},
	}
}

// Apps decode what they get once more than the rule set does: base64 in an argument, percent signs in JSON. And they read paths and headers of
// their own as they read arguments. So what such texts decode to is looked at as arguments too, under the name of the argument or header, by
// which a rule can be told to leave it alone.

// viewRule has the views added, before the rules of the second phase.
const viewRule = "SecRule REQUEST_METHOD \"@bulwarkViews\" \"id:80001,phase:2,pass,nolog,t:none\"\n"

// Bounds of views, of one request.
const (
	mostViews     = 1000
	mostViewBytes = 2 * MaxBody
	viewDepth     = 3 // encodings within one another
	shortestCode  = 8 // characters of base64
)

var registerViews = sync.OnceFunc(func() {
	plugins.RegisterOperator("bulwarkViews", func(plugintypes.OperatorOptions) (plugintypes.Operator, error) { return viewer{}, nil })
})

// viewer is the operator that adds them. It never matches.
type viewer struct{}

// Evaluate implements [plugintypes.Operator].
func (viewer) Evaluate(tx plugintypes.TransactionState, _ string) bool {
	v := tx.Variables()
	args := &addition{to: v.ArgsPost()}
	own := v.Args().FindAll() // before others come to them
	if path := strings.TrimPrefix(v.RequestFilename().Get(), "/"); strange(path) || len(path) >= shortestCode {
		if strange(path) {
			args.add("path", path)
		}
		args.views("path", path, 0)
	}
	for _, m := range v.RequestHeaders().FindAll() {
		if k := strings.ToLower(m.Key()); !usual(k) {
			args.add(k, m.Value())
			args.views(k, m.Value(), 0)
		}
	}
	// Last: of these a client sends as many as it likes, and would leave no room for the others.
	for _, m := range own {
		args.views(m.Key(), m.Value(), 0)
	}
	return false
}

// document has rules look at an XML document as it is: what it says of itself before its first element Coraza keeps nowhere.
func document(tx types.Transaction, q *Request) {
	if t, ok := tx.(plugintypes.TransactionState); ok && len(q.Body) > 0 && strings.Contains(strings.ToLower(q.Header.Get("Content-Type")), "xml") {
		t.Variables().Geo().Add("xml", string(q.Body[:min(len(q.Body), MaxBody)]))
	}
}

// addition adds views to a request's arguments.
type addition struct {
	to    collection.Map
	count int
	bytes int
}

func (a *addition) add(key, text string) {
	if a.count >= mostViews || a.bytes+len(text) > mostViewBytes {
		return
	}
	a.count++
	a.bytes += len(text)
	a.to.Add(strings.Clone(key), text) // Coraza tells values apart by where their keys lie in memory
}

// views adds what a text decodes to.
func (a *addition) views(key, text string, depth int) {
	if depth >= viewDepth {
		return
	}
	for _, s := range []string{fromBase64(text), fromPercent(text), tagless(text)} {
		if s != "" {
			a.add(key, s)
			a.views(key, s, depth+1)
		}
	}
}

// fromBase64 is what base64 stands for, if that is text; else "".
func fromBase64(s string) string {
	s = strings.ReplaceAll(strings.TrimRight(s, "="), " ", "+") // as a form writes it
	if len(s) < shortestCode || len(s)%4 == 1 {
		return ""
	}
	code := base64.RawStdEncoding
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '+', c == '/':
		case c == '-', c == '_':
			code = base64.RawURLEncoding
		default:
			return ""
		}
	}
	b, err := code.DecodeString(s)
	if err != nil || !utf8.Valid(b) {
		return ""
	}
	for _, r := range string(b) {
		if r != '\r' && r != '\n' && r != '\t' && r != 0 && !unicode.IsPrint(r) {
			return ""
		}
	}
	return string(b)
}

// fromPercent is a text with its percent signs decoded; "" if there is nothing to decode.
func fromPercent(s string) string {
	if !strings.Contains(s, "%") {
		return ""
	}
	if d, err := url.PathUnescape(s); err == nil && d != s {
		return d
	}
	return ""
}

// tagless is a text without the tags that stand within its words; "" if there are none.
func tagless(s string) string {
	var b strings.Builder
	from := 0
	for i := 1; i+2 < len(s); i++ {
		if s[i] != '<' || !letter(s[i-1]) {
			continue
		}
		end := i + 1
		for end < len(s) && end-i < 12 && letter(s[end]) {
			end++
		}
		if end > i+1 && end+1 < len(s) && s[end] == '>' {
			b.WriteString(s[from:i])
			from = end + 1
			i = end
		}
	}
	if from == 0 {
		return ""
	}
	b.WriteString(s[from:])
	return b.String()
}

func letter(c byte) bool { return lower(c) >= 'a' && lower(c) <= 'z' }

// strange tells whether a path has what paths of pages do not have.
func strange(path string) bool { return strings.ContainsAny(path, "\r\n\t ;'\"`|&$<>(){}[]\\^*!") }

// usual tells whether a header, in small letters, is one that browsers, proxies and clients send, which apps do not read as they read arguments.
func usual(name string) bool {
	for _, p := range []string{"accept", "content-", "if-", "sec-", "x-forwarded-", "access-control-", "proxy-", "cf-"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	switch name {
	case "host", "connection", "user-agent", "cookie", "referer", "origin", "authorization", "cache-control", "pragma", "range", "date", "via", "te",
		"upgrade", "upgrade-insecure-requests", "keep-alive", "transfer-encoding", "expect", "from", "dnt", "priority", "forwarded", "traceparent", "tracestate",
		"baggage", "x-real-ip", "x-request-id", "x-requested-with", "x-csrf-token", "x-api-key", "soapaction", "idempotency-key", "early-data", "trailer", "last-event-id",
		"save-data", "purpose", "x-hub-signature", "x-hub-signature-256", "stripe-signature":
		return true
	}
	return false
}
