package schema

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// The edge is everybody's, and a document is one app's people's word: what it makes the edge do is bounded before it is done.

// Bounds of a document.
const (
	maxPatterns = 20_000 // steps of all patterns together, as they are compiled
	// maxExpanded is of how many schemas one may be made whose values the library finds in a query or a form: it tries all of them.
	maxExpanded = 1000
)

// codepoint is how JSON Schema writes what Go writes as \x{…}.
var codepoint = regexp.MustCompile(`\\u([0-9A-Fa-f]{4})`)

// price notes what a pattern takes.
func (s *Schema) price(pattern, at string) error {
	tree, err := syntax.Parse(codepoint.ReplaceAllString(pattern, `\x{$1}`), syntax.Perl)
	if err != nil {
		return wrong("the pattern at " + at + " is none that is understood here: " + err.Error())
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return wrong("the pattern at " + at + " is none that is understood here: " + err.Error())
	}
	if s.patterns += len(prog.Inst); s.patterns > maxPatterns {
		return wrong("its patterns take too much together")
	}
	return nil
}

// formOf checks a string by a pattern, and by the format that was there before.
type formOf struct {
	pattern *regexp.Regexp
	format  openapi3.StringFormatValidator // nil: none
}

// Validate implements [openapi3.FormatValidator].
func (f formOf) Validate(v string) error {
	if !f.pattern.MatchString(v) {
		return errForm
	}
	if f.format != nil {
		return f.format.Validate(v)
	}
	return nil
}

var errForm = fmt.Errorf("has another form")

// takePatterns has formats of the document's own in the place of the patterns of a schema and of all below it: the library keeps a pattern for as long as the
// process lives, of documents too that nobody uses any more.
func (s *Schema) takePatterns(v *openapi3.Schema, done map[*openapi3.Schema]bool) error {
	if done[v] {
		return nil
	}
	done[v] = true
	if v.Type != nil && !v.Type.Includes(openapi3.TypeString) {
		v.Pattern = "" // it is about strings alone
	}
	if v.Pattern != "" {
		p, err := regexp.Compile(codepoint.ReplaceAllString(v.Pattern, `\x{$1}`))
		if err != nil {
			return wrong("the pattern " + v.Pattern + " is none that is understood here")
		}
		name := fmt.Sprintf("pattern-%d", len(s.formats))
		s.formats[name] = formOf{p, openapi3.SchemaStringFormats[v.Format]}
		v.Pattern, v.Format = "", name
	}
	for _, ref := range below(v) {
		if ref != nil && ref.Value != nil {
			if err := s.takePatterns(ref.Value, done); err != nil {
				return err
			}
		}
	}
	return nil
}

// expands says that a schema is made of more than left schemas, or of itself.
func expands(v *openapi3.Schema, above []*openapi3.Schema, left *int) bool {
	if *left--; *left < 0 || slices.Contains(above, v) {
		return true
	}
	above = append(above, v)
	return slices.ContainsFunc(below(v), func(ref *openapi3.SchemaRef) bool {
		return ref != nil && ref.Value != nil && expands(ref.Value, above, left)
	})
}

// simple says that the library can find a schema's values in a query or a form in bounded time.
func (s *Schema) simple(v *openapi3.Schema) bool {
	is, known := s.simples[v]
	if !known {
		left := maxExpanded
		is = !expands(v, nil, &left)
		s.simples[v] = is
	}
	return is
}

// read makes the schemas of an operation ready.
func (s *Schema) read(o *operation) error {
	done := map[*openapi3.Schema]bool{}
	for _, p := range o.parameters {
		if p.media == nil && p.what.Schema != nil && p.what.Schema.Value != nil && !s.simple(p.what.Schema.Value) {
			return wrong("the parameter " + strings.ToValidUTF8(p.what.Name, "") + " is made of too much, or of itself")
		}
		for _, ref := range []*openapi3.SchemaRef{p.what.Schema, mediaSchema(p.media)} {
			if ref != nil && ref.Value != nil {
				if err := s.takePatterns(ref.Value, done); err != nil {
					return err
				}
			}
		}
	}
	if o.body == nil {
		return nil
	}
	for _, m := range o.body.Content {
		if ref := mediaSchema(m); ref != nil && ref.Value != nil {
			if err := s.takePatterns(ref.Value, done); err != nil {
				return err
			}
		}
	}
	return nil
}

func mediaSchema(m *openapi3.MediaType) *openapi3.SchemaRef {
	if m == nil {
		return nil
	}
	return m.Schema
}
