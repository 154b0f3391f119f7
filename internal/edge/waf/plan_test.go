package waf

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"testing"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
	crstests "github.com/corazawaf/coraza-coreruleset/v4/tests"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/goccy/go-yaml"
	"github.com/wasilibs/go-re2/experimental"
)

// patterns are all regular expressions of the rule set.
func patterns(t testing.TB) (out []string) {
	names, err := fs.Glob(coreruleset.FS, "@owasp_crs/*.conf")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		b, _ := fs.ReadFile(coreruleset.FS, name)
		statements, err := split(string(b))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range statements {
			_, rest, ok := strings.Cut(s.text, `@rx `)
			for end := 0; ok && end < len(rest); end++ {
				if rest[end] == '\\' {
					end++
				} else if rest[end] == '"' {
					out = append(out, "(?s)"+strings.ReplaceAll(rest[:end], `\"`, `"`))
					break
				}
			}
		}
	}
	if len(out) < 300 {
		t.Fatalf("only %d patterns", len(out))
	}
	return out
}

// meets tells whether a text has what a pattern requires.
func meets(all []clause, text string) bool {
	low := make([]byte, len(text))
	for i := range len(text) {
		low[i] = lower(text[i])
	}
	for _, c := range all {
		if !slices.ContainsFunc(c, func(l string) bool { return strings.Contains(string(low), l) }) {
			return false
		}
	}
	return true
}

// grow writes a text that a part of a pattern matches, but for what stands between two characters.
func grow(re *syntax.Regexp, r *rand.Rand, b *strings.Builder) {
	times := func(least, most int) {
		if most < 0 || most > least+3 {
			most = least + 3
		}
		for range least + r.IntN(most-least+1) {
			grow(re.Sub[0], r, b)
		}
	}
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			s := string([]byte{byte(c)})
			if re.Flags&syntax.FoldCase != 0 && r.IntN(2) == 0 {
				s = strings.ToUpper(s)
			}
			b.WriteString(s)
		}
	case syntax.OpCharClass:
		if len(re.Rune) > 0 {
			i := r.IntN(len(re.Rune)/2) * 2
			b.WriteByte(byte(min(re.Rune[i]+rune(r.IntN(int(min(re.Rune[i+1], 0xFF+re.Rune[i])-re.Rune[i])+1)), 0xFF)))
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte("a<= \xe9'1/"[r.IntN(8)])
	case syntax.OpCapture:
		grow(re.Sub[0], r, b)
	case syntax.OpStar:
		times(0, 2)
	case syntax.OpPlus:
		times(1, 3)
	case syntax.OpQuest:
		times(0, 1)
	case syntax.OpRepeat:
		times(re.Min, re.Max)
	case syntax.OpConcat:
		for _, s := range re.Sub {
			grow(s, r, b)
		}
	case syntax.OpAlternate:
		grow(re.Sub[r.IntN(len(re.Sub))], r, b)
	}
}

// What a pattern of the rule set matches has what is required of it: a plan leaves out no rule that could match.
func TestRequired(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	derived, matched := 0, 0
	for _, p := range patterns(t) {
		need := required(p)
		if len(need) == 0 {
			continue
		}
		re, err := experimental.CompileLatin1(p)
		if err != nil {
			continue // never left out: see literals
		}
		derived++
		tree, err := syntax.Parse(p, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			var b strings.Builder
			if r.IntN(4) == 0 {
				b.WriteString("; x=")
			}
			grow(tree, r, &b)
			text := b.String()
			if len(text) > 0 && r.IntN(3) == 0 { // a text like it
				cut := r.IntN(len(text))
				text = text[:cut] + string([]byte{byte(r.IntN(256))}) + text[cut+1:]
			}
			if r.IntN(3) == 0 {
				text = strings.ToUpper(text)
			}
			if re.MatchString(text) {
				if matched++; !meets(need, text) {
					t.Fatalf("%q matches %q, but has none of %q", p, text, need)
				}
			}
		}
	}
	t.Logf("%d patterns require something; %d texts matched", derived, matched)
	if derived < 150 || matched < 5000 {
		t.Error("too few to say anything")
	}
}

func TestRequiredOf(t *testing.T) {
	for pattern, want := range map[string]string{
		`(?i)union\s+select`: "[[select] [union]]", `a|bc`: "[[a bc]]", `a*`: "[]", `(?:ab)?c`: "[[c]]", `[^a]`: "[]", `x[ab]y`: "[[xay xby]]",
		`^foo$`: "[[foo]]", `a{2,}b`: "[[a] [b]]", `é`: "[]", `(?i)[k]x`: "[[kx]]", `(`: "[]", `\bx\b`: "[[x]]", `(?:foo|b.*ar)`: "[[ar foo]]", `longliteral`: "[[longli]]",
	} {
		got := required(pattern)
		slices.SortFunc(got, func(a, b clause) int { return strings.Compare(a[0], b[0]) })
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, not %s", pattern, got, want)
		}
	}
}

func FuzzRequired(f *testing.F) {
	for _, p := range patterns(f) {
		f.Add(p, "x=1 union select <script>alert(1)</script>")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		need := required(pattern)
		if len(need) == 0 || len(pattern) > 1000 {
			return
		}
		if re, err := experimental.CompileLatin1(pattern); err == nil && re.MatchString(text) && !meets(need, text) {
			t.Errorf("%q matches %q, but has none of %q", pattern, text, need)
		}
		a, err := newAutomaton(need)
		if err != nil {
			t.Fatal(err)
		}
		found := map[uint16]bool{}
		a.scan(text, func(_ uint16, clauses []uint16) {
			for _, c := range clauses {
				found[c] = true
			}
		})
		for i, c := range need {
			if meets([]clause{c}, text) != found[uint16(i)] {
				t.Errorf("the automaton finds %v of %q in %q", found, need, text)
			}
		}
	})
}

var (
	oracleOnce sync.Once
	oracleGot  string
)

// byCoraza is a text after Coraza's transformations.
func byCoraza(t testing.TB, names []string) func(string) string {
	oracleOnce.Do(func() {
		plugins.RegisterOperator("testTake", func(plugintypes.OperatorOptions) (plugintypes.Operator, error) { return taker{}, nil })
	})
	w, err := coraza.NewWAF(coraza.NewWAFConfig().WithDirectives("SecRuleEngine On\nSecRule REQUEST_HEADERS:X \"@testTake x\" \"id:1,phase:1,pass,nolog,t:none,t:" + strings.Join(names, ",t:") + "\""))
	if err != nil {
		t.Fatal(err)
	}
	return func(s string) string {
		tx := w.NewTransaction()
		defer tx.Close()
		tx.AddRequestHeader("X", s)
		tx.ProcessRequestHeaders()
		return oracleGot
	}
}

type taker struct{}

func (taker) Evaluate(_ plugintypes.TransactionState, s string) bool { oracleGot = s; return false }

// FuzzChange compares what a plan takes transformations to do with what Coraza does.
func FuzzChange(f *testing.F) {
	p, err := newPlan(coreruleset.FS, ruleFiles, highestLevel, beyond)
	if err != nil {
		f.Fatal(err)
	}
	var does []func(string) string
	for _, c := range p.chains {
		if len(c.names) == 0 {
			does = append(does, func(s string) string { return s })
			continue
		}
		does = append(does, byCoraza(f, c.names))
	}
	for _, s := range []string{"a", "A  b\t\nc", `"quo'ted" ^ \ , ; ( / x`, "a/./b/../c/", "..", ".", "a.", "é K", "%41+%u0041", "&lt;", `\x41`, "/* x */", "-- #", "a\x00b", "\xa0 \x85 x", "C:\\x\\..\\y. ", "a:b", "\v\f", "ſ", "//a//"} {
		f.Add(s)
	}
	fold := func(s string) string {
		b := []byte(s)
		for i := range b {
			b[i] = lower(b[i])
		}
		return string(b)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return
		}
		o := p.changes[marksOf(s)]
		for i, c := range p.chains {
			if how := o.by[i]; how != unknown {
				if got, want := fold(how.of(s)), fold(does[i](s)); got != want {
					t.Errorf("%q by %v is %q, not %q", s, c.names, got, want)
				}
			}
		}
	})
}

// both are a firewall with a plan and one without.
func both(t testing.TB, before string) (planned, thorough *Firewall) {
	planned, err := New(Config{Before: before, Stock: true})
	if err != nil {
		t.Fatal(err)
	}
	if thorough, err = New(Config{Before: before, Stock: true, Thorough: true}); err != nil {
		t.Fatal(err)
	}
	sure := 0
	for _, r := range planned.plan.rules {
		if r.sure {
			sure++
		}
	}
	if sure < 90 || sure < len(planned.plan.rules)*9/10 {
		t.Errorf("of %d rules %d are read as Coraza reads them", len(planned.plan.rules), sure)
	}
	return planned, thorough
}

// same compares the rules that both meet.
func (f *Firewall) differs(other *Firewall, q *Request) string {
	met := func(f *Firewall) map[int]bool {
		out := map[int]bool{}
		for _, r := range f.Look(q, nil).Rules {
			out[r.ID] = true
		}
		return out
	}
	a, b := met(f), met(other)
	if maps.Equal(a, b) {
		return ""
	}
	return fmt.Sprintf("%v with a plan, %v without", slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)))
}

// everyLevel has all rules look, and none end the look.
const everyLevel = `
SecRuleEngine DetectionOnly
SecAction "id:900000,phase:1,pass,t:none,nolog,setvar:tx.blocking_paranoia_level=4"
SecAction "id:900001,phase:1,pass,t:none,nolog,setvar:tx.detection_paranoia_level=4"
`

// corpus are requests of the rule set's own tests: their texts as arguments, in a form, in JSON, in a path and in headers.
func corpus(t testing.TB) (out []*Request) {
	err := fs.WalkDir(crstests.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		b, err := fs.ReadFile(crstests.FS, path)
		if err != nil {
			return err
		}
		var file struct {
			Tests []struct {
				Stages []struct {
					Input struct {
						Method  string            `yaml:"method"`
						URI     string            `yaml:"uri"`
						Headers map[string]string `yaml:"headers"`
						Data    string            `yaml:"data"`
					} `yaml:"input"`
				} `yaml:"stages"`
			} `yaml:"tests"`
		}
		if err := yaml.Unmarshal(b, &file); err != nil {
			return err
		}
		for _, test := range file.Tests {
			for _, s := range test.Stages {
				h := http.Header{}
				for k, v := range s.Input.Headers {
					h.Set(k, v)
				}
				out = append(out, &Request{ID: "x", Client: "192.0.2.1", Method: s.Input.Method, Target: s.Input.URI, Proto: "HTTP/1.1", Host: "localhost", Header: h, Body: []byte(s.Input.Data)})
			}
		}
		return nil
	})
	if err != nil || len(out) < 4000 {
		t.Fatal(len(out), err)
	}
	return out
}

// A firewall with a plan meets the same rules as one that asks all.
func TestPlan(t *testing.T) {
	every := 60
	if *everything {
		every = 1
	}
	planned, thorough := both(t, everyLevel)
	left := 0
	for i, q := range corpus(t) {
		if i%every != 0 {
			continue
		}
		left++
		if d := planned.differs(thorough, q); d != "" {
			t.Errorf("%s %.300q %.300q: %s", q.Method, q.Target, q.Body, d)
		}
		// The same text elsewhere.
		text, err := url.QueryUnescape(q.Target + string(q.Body))
		if err != nil || i%(2*every) != 0 {
			continue
		}
		for _, q := range wrapped(text) {
			if d := planned.differs(thorough, q); d != "" {
				t.Errorf("%s %.300q %.300q: %s", q.Method, q.Target, q.Body, d)
			}
		}
	}
	t.Logf("%d requests", left)
}

// What is beside the rule set loses none of the attacks that the rule set's own tests are.
func TestBeyondKeeps(t *testing.T) {
	alone, err := New(Config{Stock: true})
	if err != nil {
		t.Fatal(err)
	}
	beside, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	n, lost := 0, 0
	for i, q := range corpus(t) {
		if i%15 != 0 && !*everything {
			continue
		}
		a := alone.Look(q, nil)
		if !a.Attack {
			continue
		}
		n++
		if v := beside.Look(q, nil); !v.Attack {
			var ids []int
			for _, r := range a.Rules {
				ids = append(ids, r.ID)
			}
			if slices.ContainsFunc(ids, func(id int) bool { return id/1000 == 911 || id == 920420 }) {
				continue // see allowances
			}
			lost++
			t.Logf("%v: %.200q %.200q", ids, q.Target, q.Body)
		}
	}
	t.Logf("%d of %d are lost", lost, n)
	if lost > 6 { // what is told from prose by nothing: "ls foo bar"
		t.Error("too many")
	}
}

// wrapped are requests with a text in several places.
func wrapped(text string) []*Request {
	make := func(method, target, kind, body string) *Request {
		return &Request{ID: "x", Client: "192.0.2.1", Method: method, Target: target, Proto: "HTTP/1.1", Host: "localhost",
			Header: http.Header{"Content-Type": {kind}, "Content-Length": {fmt.Sprint(len(body))}, "User-Agent": {"x"}, "Cookie": {"a=" + url.QueryEscape(text)}}, Body: []byte(body)}
	}
	b, _ := yaml.MarshalWithOptions(map[string]any{"a": text, "list": []string{text, "b"}}, yaml.JSON())
	return []*Request{
		make("POST", "/x/"+url.PathEscape(text), "application/json", string(b)),
		make("POST", "/?q="+url.QueryEscape(text), "application/x-www-form-urlencoded", "a="+url.QueryEscape(text)+"&b=é"),
		make("POST", "/", "text/xml", "<a b=\""+strings.NewReplacer("<", "&lt;", "&", "&amp;", `"`, "&quot;").Replace(text)+"\">x</a>"),
	}
}

func FuzzPlan(f *testing.F) {
	planned, thorough := both(f, everyLevel)
	for i, q := range corpus(f) {
		if i%200 == 0 {
			f.Add(q.Target + string(q.Body))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, q := range wrapped(text) {
			if d := planned.differs(thorough, q); d != "" {
				t.Errorf("%q: %s", text, d)
			}
		}
	})
}
