package schema

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// parameter is one of an operation's, in path, query, header or cookie.
type parameter struct {
	what   *openapi3.Parameter
	single bool                // it may be given once only: whoever gives it twice hopes that we read the one and the app the other
	plain  *openapi3.Schema    // of values without a type; nil: they have one
	media  *openapi3.MediaType // of JSON in a parameter; nil: it is none
	heavy  bool
	route  *routers.Route
}

// input is what parameters are read from.
type input struct {
	method, path string
	variables    map[string]string
	query        url.Values
	header       http.Header
}

// The library decides by the document's version which of its two validators it takes. That of JSON Schema 2020-12 is made anew at each look, so it is taken
// where a schema says what the other does not understand.
var (
	lightRoute = &routers.Route{Spec: &openapi3.T{OpenAPI: "3.0.3"}}
	heavyRoute = &routers.Route{Spec: &openapi3.T{OpenAPI: "3.1.0"}}
)

// newOperation reads an operation with its path's parameters.
func (s *Schema) newOperation(doc *openapi3.T, item *openapi3.PathItem, o *openapi3.Operation) *operation {
	out := &operation{forms: map[*openapi3.MediaType]bool{}, heavy: map[*openapi3.MediaType]bool{}}
	add := func(p *openapi3.Parameter) {
		if p.In == openapi3.ParameterInHeader {
			switch http.CanonicalHeaderKey(p.Name) {
			case "Accept", "Content-Type", "Authorization":
				return // the specification says to ignore them
			}
		}
		out.parameters = append(out.parameters, newParameter(doc, p))
	}
	for _, ref := range item.Parameters {
		if o.Parameters.GetByInAndName(ref.Value.In, ref.Value.Name) == nil {
			add(ref.Value)
		}
	}
	for _, ref := range o.Parameters {
		add(ref.Value)
	}
	if o.RequestBody == nil || o.RequestBody.Value == nil {
		return out
	}
	out.body = o.RequestBody.Value
	for _, m := range out.body.Content {
		if m.Schema == nil || m.Schema.Value == nil {
			continue
		}
		out.heavy[m] = doc.IsOpenAPI31OrLater() && heavy(m.Schema.Value)
		// What the library cannot read as a form is not looked at: it would fit nothing, or take for ever.
		if !s.simple(m.Schema.Value) {
			continue
		}
		_, err := openapi3filter.UrlencodedBodyDecoder(bytes.NewReader(nil), http.Header{}, m.Schema, encoding(m))
		out.forms[m] = err == nil
	}
	return out
}

func encoding(m *openapi3.MediaType) openapi3filter.EncodingFn {
	return func(name string) *openapi3.Encoding { return m.Encoding[name] }
}

func newParameter(doc *openapi3.T, p *openapi3.Parameter) *parameter {
	out := &parameter{what: p, single: true, route: lightRoute}
	if m := p.Content.Get("application/json"); m != nil && m.Schema != nil && m.Schema.Value != nil {
		out.media, out.heavy = m, doc.IsOpenAPI31OrLater() && heavy(m.Schema.Value)
		return out
	}
	if p.Schema == nil || p.Schema.Value == nil {
		return out
	}
	v := p.Schema.Value
	if doc.IsOpenAPI31OrLater() && heavy(v) {
		out.route = heavyRoute
	}
	if sm, err := p.SerializationMethod(); err != nil || sm.Explode || p.In == openapi3.ParameterInHeader {
		out.single = !several(v, map[*openapi3.Schema]bool{})
	}
	if v.Type == nil && len(v.AllOf)+len(v.AnyOf)+len(v.OneOf)+len(v.Enum) == 0 && v.Not == nil && v.Const == nil {
		out.plain = v // the library takes a value that has no type for none
	}
	return out
}

// several says that values may be more than one.
func several(v *openapi3.Schema, done map[*openapi3.Schema]bool) bool {
	if v == nil || done[v] {
		return false
	}
	done[v] = true
	if v.Type.Includes("array") || v.Type.Includes("object") {
		return true
	}
	for _, list := range []openapi3.SchemaRefs{v.AllOf, v.AnyOf, v.OneOf} {
		for _, ref := range list {
			if several(ref.Value, done) {
				return true
			}
		}
	}
	return false
}

// parameter says why one does not fit; empty: it does.
func (s *Schema) parameter(p *parameter, in input) string {
	values := p.values(in)
	if p.single && len(values) > 1 {
		return "is given more than once"
	}
	if p.plain != nil || p.media != nil {
		if len(values) == 0 {
			if p.what.Required {
				return "is missing"
			}
			return ""
		}
		if p.plain != nil {
			return why(p.plain.VisitJSON(values[0], openapi3.WithStringFormatValidators(s.formats)))
		}
		value, _, err := decode([]byte(values[0]))
		if err != nil {
			return err.Error()
		}
		for _, v := range s.fits(p.media, p.heavy, value) {
			return v.Why
		}
		return ""
	}
	err := openapi3filter.ValidateParameter(context.Background(), &openapi3filter.RequestValidationInput{
		Request:    &http.Request{Method: in.method, URL: &url.URL{Path: in.path}, Header: in.header},
		PathParams: in.variables, QueryParams: in.query, Route: p.route,
		Options: &openapi3filter.Options{SkipSettingDefaults: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
			SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.WithStringFormatValidators(s.formats)}},
	}, p.what)
	return why(err)
}

// values are those of the parameter as they stand in the request.
func (p *parameter) values(in input) []string {
	switch p.what.In {
	case openapi3.ParameterInQuery:
		return in.query[p.what.Name]
	case openapi3.ParameterInHeader:
		return in.header[http.CanonicalHeaderKey(p.what.Name)]
	case openapi3.ParameterInPath:
		if v, ok := in.variables[p.what.Name]; ok {
			return []string{v}
		}
	case openapi3.ParameterInCookie:
		var out []string
		for _, c := range (&http.Request{Header: in.header}).CookiesNamed(p.what.Name) {
			out = append(out, c.Value)
		}
		return out
	}
	return nil
}

// why is an error of the library's in words that hold nothing of the client's: its own have values in them.
func why(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, openapi3filter.ErrInvalidRequired) {
		return "is missing"
	}
	if errors.Is(err, openapi3filter.ErrInvalidEmptyValue) {
		return "is empty"
	}
	if _, ok := errors.AsType[*openapi3filter.ParseError](err); ok {
		return "is of another type"
	}
	e, ok := errors.AsType[*openapi3.SchemaError](err)
	if !ok {
		return "cannot be read as declared"
	}
	if words := keywords[e.SchemaField]; words != "" {
		return words
	}
	return "does not fit"
}

// keywords are what a request gets wrong, by the keyword of the schema that says so.
var keywords = map[string]string{
	"type": "is of another type", "nullable": "is null", "enum": "is none of the values that are declared", "const": "is not the value that is declared",
	"pattern": "has not the form that is declared", "format": "has not the form that is declared",
	"minimum": "is too small", "exclusiveMinimum": "is too small", "maximum": "is too large", "exclusiveMaximum": "is too large", "multipleOf": "is no multiple of what is declared",
	"minLength": "is too short", "maxLength": "is too long", "minItems": "has too few items", "maxItems": "has too many items", "uniqueItems": "has an item twice",
	"minProperties": "has too few properties", "maxProperties": "has too many properties", "properties": "has a property that is not declared",
	"additionalProperties": "has a property that is not declared", "unevaluatedProperties": "has a property that is not declared", "required": "is missing",
	"readOnly": "is not for clients to set", "oneOf": "fits none of the alternatives, or several", "anyOf": "fits none of the alternatives",
	"allOf": "does not fit all that is declared", "not": "is what is declared that it is not", "discriminator": "does not say which alternative it is",
}
