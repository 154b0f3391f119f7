package waf

import (
	"math"
	"regexp/syntax"
	"slices"
	"strings"
)

// Bounds of what is derived from a pattern. What does not fit is not asked for, so that more texts are looked at, never fewer.
const (
	mostLiterals = 4096 // that stand for one another
	mostClass    = 40   // characters of a class
	longLiteral  = 6    // bytes; of a longer one its beginning is asked for
	mostClauses  = 4    // of a pattern
)

// clause is literals in small ASCII letters of which a text has at least one.
type clause []string

// need is what is known of the texts that a part of a pattern matches, when they are written in small ASCII letters.
type need struct {
	// exact is every text there is; nil: too many, or unknown.
	exact []string
	// clauses hold for each text.
	clauses []clause
}

// required says what each text has in it that a pattern matches, if texts are read as Latin-1. No clauses: it may be any text.
func required(pattern string) []clause {
	if strings.ContainsFunc(pattern, func(r rune) bool { return r >= 0x80 }) {
		return nil
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil
	}
	n := needOf(re)
	n.settle()
	return best(n.clauses, mostClauses)
}

// needOf goes through a pattern. Where one matches nothing between two characters (^, \b), it takes it to match anywhere.
func needOf(re *syntax.Regexp) need {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return need{exact: []string{""}}
	case syntax.OpLiteral:
		return literal(re.Rune)
	case syntax.OpCharClass:
		return class(re.Rune)
	case syntax.OpCapture:
		return needOf(re.Sub[0])
	case syntax.OpQuest:
		if n := needOf(re.Sub[0]); n.exact != nil {
			return need{exact: distinct(append(slices.Clone(n.exact), ""))}
		}
	case syntax.OpPlus:
		n := needOf(re.Sub[0])
		n.settle()
		return n
	case syntax.OpRepeat:
		if re.Min == 0 {
			return need{}
		}
		n := needOf(re.Sub[0])
		if re.Min == 1 && re.Max == 1 {
			return n
		}
		n.settle()
		return n
	case syntax.OpConcat:
		return concat(re.Sub)
	case syntax.OpAlternate:
		return alternate(re.Sub)
	}
	return need{} // any character, anything repeated
}

func literal(runes []rune) need {
	b := make([]byte, 0, len(runes))
	for _, r := range runes {
		if r >= 0x80 { // its other case is beyond ASCII too
			return need{}
		}
		b = append(b, lower(byte(r)))
	}
	return need{exact: []string{string(b)}}
}

func class(ranges []rune) need {
	var set []string
	for i := 0; i+1 < len(ranges); i += 2 {
		if ranges[i] > 0xFF { // no text has it
			continue
		}
		if ranges[i+1] >= 0x80 || int(ranges[i+1]-ranges[i]) > mostClass {
			return need{}
		}
		for r := ranges[i]; r <= ranges[i+1]; r++ {
			set = append(set, string([]byte{lower(byte(r))}))
		}
	}
	if set = distinct(set); len(set) == 0 || len(set) > mostClass {
		return need{}
	}
	return need{exact: set}
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func concat(subs []*syntax.Regexp) (out need) {
	run := need{exact: []string{""}} // of what stands side by side
	whole := true
	for _, s := range subs {
		n := needOf(s)
		if n.exact != nil {
			if crossed := cross(run.exact, n.exact); crossed != nil {
				run.exact = crossed
				continue
			}
		}
		whole = false
		run.settle()
		out.clauses = append(out.clauses, run.clauses...)
		out.clauses = append(out.clauses, n.clauses...)
		run = need{exact: []string{""}}
		if n.exact != nil {
			run.exact = n.exact
		}
	}
	if whole {
		return run
	}
	run.settle()
	out.clauses = append(out.clauses, run.clauses...)
	return out
}

// cross are all of a followed by all of b; nil: too many.
func cross(a, b []string) []string {
	if len(a)*len(b) > mostLiterals {
		return nil
	}
	out := make([]string, 0, len(a)*len(b))
	for _, x := range a {
		for _, y := range b {
			if len(x)+len(y) > 128 {
				return nil
			}
			out = append(out, x+y)
		}
	}
	return distinct(out)
}

func alternate(subs []*syntax.Regexp) need {
	var exact []string
	var joined clause
	all, some := true, true
	for _, s := range subs {
		n := needOf(s)
		if n.exact == nil {
			all = false
		} else if all {
			exact = append(exact, n.exact...)
		}
		n.settle()
		if len(n.clauses) == 0 {
			some = false
		} else {
			joined = append(joined, best(n.clauses, 1)[0]...)
		}
	}
	if exact = distinct(exact); all && len(exact) <= mostLiterals {
		return need{exact: exact}
	}
	if joined = distinct(joined); some && len(joined) <= mostLiterals {
		return need{clauses: []clause{joined}}
	}
	return need{}
}

// settle turns what is known exactly into a clause.
func (n *need) settle() {
	if len(n.exact) > 0 && !slices.Contains(n.exact, "") {
		n.clauses = append(n.clauses, n.exact)
	}
	n.exact = nil
}

func distinct(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

// best are the clauses that the fewest texts meet, cut short.
func best(all []clause, most int) []clause {
	out := make([]clause, 0, len(all))
	for _, c := range all {
		out = append(out, cut(c))
	}
	slices.SortStableFunc(out, func(a, b clause) int {
		switch x, y := odds(a), odds(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	if len(out) > most {
		out = out[:most]
	}
	if len(out) > 1 { // what is met by most texts is not worth asking for beside another
		out = append(out[:1], slices.DeleteFunc(slices.Clone(out[1:]), func(c clause) bool { return odds(c) > 0.2 })...)
	}
	return out
}

// odds says roughly how likely a place of a text has one of a clause.
func odds(c clause) (p float64) {
	for _, l := range c {
		p += math.Pow(0.05, float64(len(l)))
	}
	return p
}

// cut shortens the literals of a clause, and leaves those out that have another one in them.
func cut(c clause) clause {
	short := make([]string, len(c))
	for i, l := range c {
		short[i] = l[:min(len(l), longLiteral)]
	}
	short = distinct(short)
	if len(short) > 512 {
		return short
	}
	return slices.DeleteFunc(slices.Clone(short), func(l string) bool {
		return slices.ContainsFunc(short, func(o string) bool { return o != l && strings.Contains(l, o) })
	})
}
