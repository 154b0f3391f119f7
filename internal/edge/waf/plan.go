package waf

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/corazawaf/coraza/v3/collection"
	"github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types"
)

// Most rules meet none of a request's texts, and asking each about each of them is what a look's time goes into. So before the rules are
// asked, a plan finds out which of them could meet anything: a rule's pattern says what a text has in it at least (see required), one pass over
// a text tells which patterns' needs it has (see automaton), and rules whose needs no text of theirs has are left out of the look. What a text
// looks like after a rule's transformations is not guessed at: where they would change it, Coraza's own transform it (the hooks below). A rule
// about which the plan is not certain is never left out.

// Groups of variables that rules look at. Texts of one group count for each rule that looks at any of the group.
const (
	inArgs = iota
	inHead
	inBody
	groups
)

// group says in which group a variable is; what is not here is of rules that are never left out.
func group(variable string) (int, bool) {
	name, _, _ := strings.Cut(variable, ":")
	switch name {
	case "ARGS", "ARGS_NAMES", "ARGS_GET", "ARGS_GET_NAMES", "ARGS_POST", "ARGS_POST_NAMES", "REQUEST_COOKIES", "REQUEST_COOKIES_NAMES", "REQUEST_FILENAME", "XML", "FILES", "FILES_NAMES":
		return inArgs, true
	case "REQUEST_HEADERS", "REQUEST_HEADERS_NAMES", "REQUEST_LINE", "REQUEST_URI", "REQUEST_URI_RAW", "QUERY_STRING", "REQUEST_BASENAME":
		return inHead, true
	case "REQUEST_BODY":
		return inBody, true
	}
	return 0, false
}

// texts are all texts of a group.
func texts(v plugintypes.TransactionVariables, group int) []collection.Collection {
	switch group {
	case inArgs:
		return []collection.Collection{v.Args(), v.ArgsNames(), v.RequestCookies(), v.RequestCookiesNames(), v.RequestFilename(), v.XML(), v.RequestXML(), v.Files(), v.FilesNames()}
	case inHead:
		return []collection.Collection{v.RequestHeaders(), v.RequestHeadersNames(), v.RequestLine(), v.RequestURI(), v.RequestURIRaw(), v.QueryString(), v.RequestBasename()}
	}
	return []collection.Collection{v.RequestBody()}
}

// The hooks' rules: those that transform look at a collection that nobody else uses, into which the plan puts what is to be transformed.
const (
	firstHook = 90000
	lastHook  = 98999
	transient = "GEO"
)

// planned is a rule that may be left out.
type planned struct {
	id     int
	text   string // as it stands in the rule set
	groups uint8  // that it looks at
	chain  int    // of transformations
	needs  int    // clauses
	sure   bool   // Coraza has read it as it was understood here
}

// plan says for requests which rules may be left out.
type plan struct {
	rules  []planned
	chains []chainOf
	of     [][]uint16 // which rules have a clause
	find   *automaton
	// changes says what the chains do to a text with some marks.
	changes [allMarks]outcome
	// scopes are what is known of the looks that are going on, by transaction.
	scopes sync.Map
	spare  sync.Pool
}

// chainOf is a row of transformations that rules share.
type chainOf struct {
	names  []string
	groups uint8 // of texts that any of its rules looks at
}

// outcome is what becomes of a text by each chain.
type outcome struct {
	by      []change
	some    [unknown]bool // by any
	unknown [groups]bool  // by any that looks at the group
}

// scope is what is known of one look.
type scope struct {
	plan   *plan
	asked  []bool   // rules
	hits   []uint8  // how many of a rule's clauses the text at hand has
	seen   []uint32 // the text in which an end of a literal was last seen
	text   uint32   // the number of the text at hand
	rules  []uint16 // whose needs the text at hand has
	clause []uint32 // the text in which a clause was last met
	memory [remembered]scanned
	at     int // in memory
}

// scanned is a text with what came of it: most transformations leave most texts as they are.
type scanned struct {
	text  string
	rules []uint16 // whose needs it has
}

// remembered is how many long texts are kept in mind for a look.
const (
	remembered = 8
	longText   = 512
)

// newPlan reads the rules of a rule set's files, those of a paranoia level and below, and more of them.
func newPlan(files fs.FS, pattern string, level int, more string) (*plan, error) {
	names, err := fs.Glob(files, pattern)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	d := draft{chains: map[string]int{}}
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		if err := p.take(&d, files, name, string(b), level); err != nil {
			return nil, err
		}
	}
	if err := p.take(&d, files, "", more, level); err != nil {
		return nil, err
	}
	for m := range p.changes {
		o := &p.changes[m]
		for _, c := range p.chains {
			how := changeOf(c.names, marks(m)) //nolint:gosec // there are fewer than 65536
			o.by = append(o.by, how)
			if how < unknown {
				o.some[how] = true
				continue
			}
			for g := range groups {
				o.unknown[g] = o.unknown[g] || c.groups&(1<<g) != 0
			}
		}
	}
	p.find, err = newAutomaton(d.clauses)
	return p, err
}

// draft is what is known while rules are read.
type draft struct {
	clauses []clause
	chains  map[string]int
}

// take reads the rules of a file.
func (p *plan) take(d *draft, files fs.FS, name, text string, level int) error {
	statements, err := split(text)
	if err != nil {
		return err
	}
	chained := false
	for _, s := range statements {
		r, goesOn := readRule(s.text)
		continues := chained
		chained = goesOn
		if r == nil || continues || r.level > level {
			continue
		}
		r.file = name
		literals := r.literals(files)
		if len(literals) == 0 {
			continue
		}
		key := strings.Join(r.transforms, "+")
		chain, ok := d.chains[key]
		if !ok {
			chain = len(p.chains)
			d.chains[key] = chain
			p.chains = append(p.chains, chainOf{names: r.transforms})
		}
		p.chains[chain].groups |= r.groups
		for _, c := range literals {
			d.clauses = append(d.clauses, c)
			p.of = append(p.of, []uint16{uint16(len(p.rules))}) //nolint:gosec // some hundreds
		}
		p.rules = append(p.rules, planned{id: r.id, text: s.text, groups: r.groups, chain: chain, needs: len(literals)})
	}
	return nil
}

// hookID is the id of the rule that has Coraza do a chain's transformations of a group's texts.
func hookID(chain, group int) int { return firstHook + 10 + chain*groups + group }

// directives are the rules that ask the plan, to be read before all others of the second phase.
func (p *plan) directives(name string) string {
	var b strings.Builder
	rule := func(id int, variable, ask, transforms string) {
		fmt.Fprintf(&b, "SecRule %s \"@bulwarkPlan %s %s\" \"id:%d,phase:2,pass,nolog,t:none%s\"\n", variable, name, ask, id, transforms)
	}
	rule(firstHook, "REQUEST_METHOD", "begin", "")
	for i, c := range p.chains {
		t := ""
		for _, n := range c.names {
			t += ",t:" + n
		}
		for g := range groups {
			if c.groups&(1<<g) == 0 {
				continue
			}
			rule(hookID(i, g), fmt.Sprintf("%s:g%d", transient, g), fmt.Sprintf("%d %d", i, g), t)
		}
	}
	rule(lastHook, "REQUEST_METHOD", "end", "")
	return b.String()
}

// read is told of each rule as Coraza has read it: one that is not as it was understood here is not left out.
func (p *plan) read(r types.RuleMetadata) {
	for i := range p.rules {
		x := &p.rules[i]
		if x.id == r.ID() {
			x.sure = r.Phase() == types.PhaseRequestBody && strings.HasPrefix(dense(r.Raw()), dense(x.text))
		}
	}
}

// dense is a directive without its spaces: Coraza joins lines otherwise than we do.
func dense(s string) string { return strings.Join(strings.Fields(s), "") }

// plans are all plans by the name that the hooks call them by.
var plans = struct {
	sync.Mutex
	all []*plan
}{}

// registerPlan gives a plan a name.
func registerPlan(p *plan) string {
	registerHook()
	plans.Lock()
	defer plans.Unlock()
	plans.all = append(plans.all, p)
	return strconv.Itoa(len(plans.all) - 1)
}

// hook is the operator by which Coraza asks a plan.
type hook struct {
	plan         *plan
	ask          string
	chain, group int
}

var registerHook = sync.OnceFunc(func() {
	plugins.RegisterOperator("bulwarkPlan", func(o plugintypes.OperatorOptions) (plugintypes.Operator, error) {
		words := strings.Fields(o.Arguments)
		if len(words) < 2 {
			return nil, fmt.Errorf("%q is no question for a plan", o.Arguments)
		}
		n, err := strconv.Atoi(words[0])
		plans.Lock()
		defer plans.Unlock()
		if err != nil || n < 0 || n >= len(plans.all) {
			return nil, fmt.Errorf("there is no plan %s", words[0])
		}
		h := &hook{plan: plans.all[n], ask: words[1]}
		if len(words) == 3 {
			h.chain, _ = strconv.Atoi(words[1])
			h.group, _ = strconv.Atoi(words[2])
			h.ask = ""
		}
		return h, nil
	})
})

// Evaluate implements [plugintypes.Operator]. It never matches.
func (h *hook) Evaluate(tx plugintypes.TransactionState, text string) bool {
	switch h.ask {
	case "begin":
		h.plan.begin(tx)
	case "end":
		h.plan.end(tx)
	default:
		if s, ok := h.plan.scopes.Load(tx); ok {
			s := s.(*scope)
			s.scan(text)
			s.ask(func(r *planned) bool { return r.chain == h.chain && r.groups&(1<<h.group) != 0 })
		}
	}
	return false
}

// begin looks at all texts as they are.
func (p *plan) begin(tx plugintypes.TransactionState) {
	s := p.scope()
	p.scopes.Store(tx, s)
	skip, ok := tx.(remover)
	if !ok {
		return
	}
	geo := tx.Variables().Geo()
	hooks := make([]bool, len(p.chains)*groups)
	unsure := false
	for g := range groups {
		kept := "g" + strconv.Itoa(g)
		for _, col := range texts(tx.Variables(), g) {
			for _, m := range col.FindAll() {
				text := m.Value()
				if text == "" {
					continue
				}
				o := &p.changes[marksOf(text)]
				if o.unknown[g] {
					unsure = true
					geo.Add(kept, text)
					for i, how := range o.by {
						hooks[i*groups+g] = hooks[i*groups+g] || how == unknown
					}
				}
				for how, some := range o.some {
					if how := change(how); some { //nolint:gosec // there are six
						s.scan(how.of(text))
						s.ask(func(r *planned) bool { return o.by[r.chain] == how && r.groups&(1<<g) != 0 })
					}
				}
			}
		}
	}
	if !unsure {
		skip.RemoveRuleByIDRange(hookID(0, 0), lastHook-1)
		return
	}
	for i, needed := range hooks {
		if g := i % groups; !needed && p.chains[i/groups].groups&(1<<g) != 0 {
			skip.RemoveRuleByID(hookID(i/groups, g))
		}
	}
}

// end leaves out the rules of which nobody has to ask.
func (p *plan) end(tx plugintypes.TransactionState) {
	got, ok := p.scopes.LoadAndDelete(tx)
	skip, can := tx.(remover)
	if !ok || !can {
		return
	}
	for g := range groups {
		tx.Variables().Geo().Remove("g" + strconv.Itoa(g))
	}
	s := got.(*scope)
	for i, asked := range s.asked {
		if r := &p.rules[i]; !asked && r.sure {
			skip.RemoveRuleByID(r.id)
		}
	}
	for _, d := range doubts() {
		if !p.anyAsked(s, d.about) {
			skip.RemoveRuleByIDRange(d.first, d.last)
		}
	}
	clear(s.memory[:]) // it keeps nothing of a request
	p.spare.Put(s)
}

// anyAsked tells whether any of some rules will be asked.
func (p *plan) anyAsked(s *scope, ids []int) bool {
	for _, id := range ids {
		i := slices.IndexFunc(p.rules, func(r planned) bool { return r.id == id })
		if i < 0 || s.asked[i] || !p.rules[i].sure {
			return true
		}
	}
	return false
}

// scope is a new one, or one that was used before.
func (p *plan) scope() *scope {
	s, ok := p.spare.Get().(*scope)
	if !ok || s.text > 1<<31 {
		return &scope{plan: p, asked: make([]bool, len(p.rules)), hits: make([]uint8, len(p.rules)), seen: make([]uint32, len(p.find.met)), clause: make([]uint32, len(p.of))}
	}
	clear(s.asked)
	return s
}

// drop forgets a look that did not come to its end.
func (p *plan) drop(tx any) {
	if p != nil {
		p.scopes.Delete(tx)
	}
}

// scan finds which rules' needs a text has.
func (s *scope) scan(text string) {
	s.rules = s.rules[:0]
	if len(text) >= longText {
		for _, m := range s.memory {
			if len(m.text) == len(text) && unsafe.StringData(m.text) == unsafe.StringData(text) { //nolint:gosec // it compares where they lie: that is the same text
				s.rules = append(s.rules, m.rules...)
				return
			}
		}
	}
	s.text++
	s.plan.find.scan(text, s.met)
	n := 0
	for _, r := range s.rules {
		if int(s.hits[r]) == s.plan.rules[r].needs {
			s.rules[n] = r
			n++
		}
		s.hits[r] = 0
	}
	s.rules = s.rules[:n]
	if len(text) >= longText {
		s.memory[s.at%remembered] = scanned{text, slices.Clone(s.rules)}
		s.at++
	}
}

func (s *scope) met(state uint16, clauses []uint16) {
	if s.seen[state] == s.text {
		return
	}
	s.seen[state] = s.text
	for _, c := range clauses {
		if s.clause[c] == s.text {
			continue
		}
		s.clause[c] = s.text
		for _, r := range s.plan.of[c] {
			if s.hits[r] == 0 {
				s.rules = append(s.rules, r)
			}
			s.hits[r]++
		}
	}
}

// ask notes those rules to be asked whose needs the text at hand has.
func (s *scope) ask(concerned func(*planned) bool) {
	for _, i := range s.rules {
		r := &s.plan.rules[i]
		if !s.asked[i] && concerned(r) {
			s.asked[i] = true
		}
	}
}
