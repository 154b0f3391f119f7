package waf

import (
	"regexp"
	"regexp/syntax"
	"sync"

	"github.com/corazawaf/coraza/v3/experimental/plugins"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types/variables"
	re2 "github.com/wasilibs/go-re2"
	"github.com/wasilibs/go-re2/experimental"
)

// targetRemover is what Coraza's transactions can beside what their interface says.
type targetRemover interface {
	RemoveRuleTargetByID(id int, variable variables.RuleVariable, key string, keyRx *regexp.Regexp)
}

// fastRegexps has Coraza's operator @rx use RE2 in place of Go's package regexp: both take time in proportion to the text, and RE2 some eight
// times less on a form. Rules match bytes, as they do in ModSecurity: so it reads text as Latin-1.
var fastRegexps = sync.OnceFunc(func() { plugins.RegisterOperator("rx", newRx) })

// rx is the operator.
type rx struct {
	re    *re2.Regexp
	least int // bytes that it takes to match
}

func newRx(o plugintypes.OperatorOptions) (plugintypes.Operator, error) {
	made, err := o.Memoizer.Do("bulwark-rx:"+o.Arguments, func() (any, error) {
		pattern := "(?s)" + o.Arguments // the dot of ModSecurity is any byte
		re, err := experimental.CompileLatin1(pattern)
		if err != nil {
			if re, err = re2.Compile(pattern); err != nil { // it has characters beyond Latin-1
				return nil, err
			}
		}
		x := &rx{re: re}
		if t, err := syntax.Parse(pattern, syntax.Perl); err == nil {
			x.least = least(t.Simplify())
		}
		return x, nil
	})
	if err != nil {
		return nil, err
	}
	return made.(*rx), nil
}

// maxGroups is how many groups a rule can use: TX:0 to TX:9.
const maxGroups = 10

// Evaluate implements [plugintypes.Operator].
func (x *rx) Evaluate(tx plugintypes.TransactionState, text string) bool {
	if len(text) < x.least {
		return false
	}
	if !tx.Capturing() {
		return x.re.MatchString(text)
	}
	groups := x.re.FindStringSubmatch(text)
	for i, g := range groups[:min(len(groups), maxGroups)] {
		tx.CaptureField(i, g)
	}
	return groups != nil
}

// least is how many bytes a text has at least that matches.
func least(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune) // of more than one byte each, perhaps
	case syntax.OpAnyCharNotNL, syntax.OpAnyChar, syntax.OpCharClass:
		return 1
	case syntax.OpCapture, syntax.OpPlus:
		return least(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min * least(re.Sub[0])
	case syntax.OpConcat:
		n := 0
		for _, s := range re.Sub {
			n += least(s)
		}
		return n
	case syntax.OpAlternate:
		n := least(re.Sub[0])
		for _, s := range re.Sub[1:] {
			n = min(n, least(s))
		}
		return n
	}
	return 0
}
