// Package schema checks requests against an app's OpenAPI document.
//
// It promises that a check takes memory and time in proportion to what it is given, as far as the document allows that; that it opens no file and fetches
// nothing; that it keeps nothing of a request; and that what it says of one is made of its own words and of the document's names, never of what the client
// sent. It parses what strangers send: who found a hole in it would own the edge, and no more than that.
package schema

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/bulwark-paas/bulwark"
)

// Schema is a document that is ready to check requests. Its methods may be called by several goroutines.
type Schema struct {
	broken bool
	routes map[int][]*route // by the number of parts of their paths, the most particular first
	names  map[string]bool  // of properties in the document
	// formats are the document's patterns, by the names that schemas have for them now.
	formats  map[string]openapi3.StringFormatValidator
	patterns int                       // what all of them take
	simples  map[*openapi3.Schema]bool // what is known of schemas while the document is read
}

// Extent says how much is known of a request's body.
type Extent int

// The extents.
const (
	Whole  Extent = iota // all of it is there
	Cut                  // it is longer than what is there
	Unseen               // nobody knows: the app did not take all of it
)

// Request is what is checked. It is only read.
type Request struct {
	Method string
	Target string // as it was sent, in origin form
	Header http.Header
	Body   []byte
	Extent Extent
}

// Violation is where a request does not fit, and why: "query:limit", "is missing". Neither has a value of the client's.
type Violation struct{ Where, Why string }

// String writes it for people.
func (v Violation) String() string { return v.Where + " " + v.Why }

// Bounds of a check.
const (
	maxViolations = 12
	maxDepth      = 64
	// maxVisits is how often a value may be held against a schema: where alternatives hold themselves, each level of a body multiplies that.
	maxVisits       = 250_000
	maxDocumentDeep = 200
	maxBases        = 8
)

// Broken is what stands for a document that does not compile: nothing fits it.
func Broken() *Schema { return &Schema{broken: true} }

// Compile reads a document. An error says what is wrong with it, and where.
func Compile(text bulwark.Schema) (s *Schema, err error) {
	defer func() {
		if recover() != nil { // somebody tripped over it
			s, err = nil, wrong("it cannot be read")
		}
	}()
	if _, err := bulwark.ParseSchema(string(text)); err != nil {
		return nil, err
	}
	s = &Schema{routes: map[int][]*route{}, names: map[string]bool{}, formats: map[string]openapi3.StringFormatValidator{}, simples: map[*openapi3.Schema]bool{}}
	var raw any
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, wrong(err.Error())
	}
	if err := s.survey(raw, "", 0); err != nil {
		return nil, err
	}
	doc, err := load(text)
	if err != nil {
		return nil, wrong(err.Error())
	}
	for path, item := range doc.Paths.Map() {
		if item == nil {
			continue
		}
		if err := s.add(doc, path, item); err != nil {
			return nil, err
		}
	}
	for _, list := range s.routes {
		slices.SortFunc(list, func(a, b *route) int {
			return cmp.Or(cmp.Compare(a.variables, b.variables), cmp.Compare(len(b.path), len(a.path)), cmp.Compare(a.path, b.path))
		})
	}
	s.simples = nil
	if len(s.routes) == 0 {
		return nil, wrong("it has no path with a method")
	}
	return s, nil
}

// load reads a document by the library.
func load(text bulwark.Schema) (*openapi3.T, error) {
	doc := &openapi3.T{}
	if err := doc.UnmarshalJSON([]byte(text)); err != nil {
		return nil, err
	}
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = false
	if err := loader.ResolveRefsIn(doc, nil); err != nil {
		return nil, err
	}
	// Examples and defaults are never looked at, so nobody has to mend them.
	if err := doc.Validate(context.Background(), openapi3.DisableExamplesValidation(), openapi3.DisableSchemaDefaultsValidation(), openapi3.DisableSchemaPatternValidation()); err != nil {
		return nil, err
	}
	return doc, nil
}

func wrong(why string) error {
	why, _, _ = strings.Cut(why, "\n") // what follows is the schema itself
	if len(why) > 400 {
		why = why[:400] + "…"
	}
	return bulwark.Invalid(fmt.Sprintf("The schema cannot be used: %s.", strings.TrimSuffix(why, ".")), "Mend the document. It has to stand by itself: references lead to places within it.")
}

// pointed writes a name as a part of a JSON pointer (RFC 6901).
var pointed = strings.NewReplacer("~", "~0", "/", "~1")

// survey notes the names of properties, and refuses what would have the library look beyond the document.
func (s *Schema) survey(v any, at string, deep int) error {
	if deep > maxDocumentDeep {
		return wrong("it is nested too deep")
	}
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			if err := s.survey(item, fmt.Sprintf("%s/%d", at, i), deep+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if properties, ok := v["properties"].(map[string]any); ok {
			for name := range properties {
				s.names[name] = true
			}
		}
		if required, ok := v["required"].([]any); ok {
			for _, name := range required {
				if name, ok := name.(string); ok {
					s.names[name] = true
				}
			}
		}
		for k, item := range v {
			text, is := item.(string)
			switch k {
			case "$id", "$schema", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef":
				if is {
					return wrong("at " + at + " there is " + k + ", which is not understood here")
				}
			case "pattern":
				if is {
					if err := s.price(text, at); err != nil {
						return err
					}
				}
			case "patternProperties":
				patterns, _ := item.(map[string]any)
				for pattern := range patterns {
					if err := s.price(pattern, at); err != nil {
						return err
					}
				}
			case "$ref":
				if is && !strings.HasPrefix(text, "#/") {
					return wrong("at " + at + " there is a reference that leads out of the document")
				}
			}
			if err := s.survey(item, at+"/"+pointed.Replace(k), deep+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// overrides are headers by which some frameworks take a request for one of another method.
var overrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// overrideField is the same as an argument.
const overrideField = "_method"

// Check says where a request does not fit; nothing: it does.
func (s *Schema) Check(q Request) (out []Violation) {
	if s.broken {
		return []Violation{{"document", "cannot be read, so nothing fits it"}}
	}
	defer func() {
		if recover() != nil { // the library tripped over what a stranger sent
			out = append(out, Violation{"request", "could not be checked"})
		}
		out = out[:min(len(out), maxViolations)]
	}()
	path, query, _ := strings.Cut(q.Target, "?")
	op, variables, v := s.route(q.Method, path)
	if v != nil {
		return []Violation{*v}
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return []Violation{{"query", "is not well formed"}}
	}
	for _, k := range overrides {
		if q.Header[k] != nil && !op.declares(openapi3.ParameterInHeader, k) {
			out = append(out, Violation{"header:" + k, "is not declared, and could make it another method"})
		}
	}
	if values.Has(overrideField) && !op.declares(openapi3.ParameterInQuery, overrideField) {
		out = append(out, Violation{"query:" + overrideField, "is not declared, and could make it another method"})
	}
	in := input{method: q.Method, path: path, variables: variables, query: values, header: q.Header}
	for _, p := range op.parameters {
		if why := s.parameter(p, in); why != "" {
			out = append(out, Violation{p.what.In + ":" + p.what.Name, why})
		}
	}
	return append(out, s.body(op, q)...)
}
