package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
)

// body says where a request's body does not fit.
func (s *Schema) body(op *operation, q Request) []Violation {
	one := func(where, why string) []Violation { return []Violation{{where, why}} }
	there := len(q.Body) > 0 || q.Extent == Cut
	switch {
	case !there && (op.body == nil || !op.body.Required || q.Extent == Unseen):
		return nil
	case op.body == nil:
		return one("body", "is not declared")
	case !there:
		return one("body", "is missing")
	case len(op.body.Content) == 0:
		return nil
	}
	says := q.Header["Content-Type"]
	if len(says) > 1 {
		return one("header:Content-Type", "is given more than once")
	}
	kind, parameters := "", map[string]string(nil)
	if len(says) == 1 {
		var err error
		if kind, parameters, err = mime.ParseMediaType(says[0]); err != nil {
			return one("header:Content-Type", "is not well formed")
		}
	}
	m := op.body.Content.Get(kind)
	if m == nil && kind != "" {
		m = op.body.Content.Get(mime.FormatMediaType(kind, parameters))
	}
	if m == nil {
		return one("header:Content-Type", "is none that is declared")
	}
	isJSON, isForm := kind == "application/json" || strings.HasSuffix(kind, "+json"), kind == "application/x-www-form-urlencoded"
	if m.Schema == nil || m.Schema.Value == nil || !isJSON && (!isForm || !op.forms[m]) {
		return nil // what else there is nobody reads here
	}
	if c := parameters["charset"]; c != "" && !strings.EqualFold(c, "utf-8") {
		return one("header:Content-Type", "says another charset than UTF-8")
	}
	if c := q.Header.Get("Content-Encoding"); c != "" && !strings.EqualFold(c, "identity") {
		return one("header:Content-Encoding", "hides what the body is")
	}
	switch q.Extent {
	case Cut:
		return one("body", "is longer than what is looked at")
	case Unseen:
		return nil
	}
	if isForm {
		return s.form(m, q)
	}
	value, where, err := decode(q.Body)
	if err != nil {
		return one(where, err.Error())
	}
	return s.fits(m, op.heavy[m], value)
}

// fits says where a value does not fit.
func (s *Schema) fits(m *openapi3.MediaType, heavy bool, value any) []Violation {
	if left := (visits{maxVisits}); !left.pay(m.Schema.Value, value, nil) {
		return []Violation{{"body", "takes too long to check"}}
	}
	options := []openapi3.SchemaValidationOption{openapi3.VisitAsRequest(), openapi3.WithStringFormatValidators(s.formats)}
	if heavy {
		options = append(options, openapi3.EnableJSONSchema2020())
	}
	err := m.Schema.Value.VisitJSON(value, options...)
	if err == nil {
		return nil
	}
	where := "body:/"
	if e, ok := errors.AsType[*openapi3.SchemaError](err); ok {
		where = "body:" + s.place(value, e.JSONPointer())
	}
	return []Violation{{where, why(err)}}
}

// place is a pointer into a value, with names of the document alone: others are the client's.
func (s *Schema) place(value any, pointer []string) string {
	var b strings.Builder
	for i, token := range pointer {
		if i == maxDepth {
			break
		}
		switch v := value.(type) {
		case []any:
			n, err := strconv.Atoi(token)
			if err != nil || n < 0 || n >= len(v) {
				return b.String() + "/*"
			}
			value = v[n]
		case map[string]any:
			value = v[token] // nil if it is missing
			if !s.names[token] {
				token = "*"
			}
		default:
			return b.String() + "/*"
		}
		b.WriteByte('/')
		b.WriteString(token)
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// form says where a form does not fit.
func (s *Schema) form(m *openapi3.MediaType, q Request) []Violation {
	values, err := url.ParseQuery(string(q.Body))
	if err != nil {
		return []Violation{{"body", "is no form that is well formed"}}
	}
	for name, list := range values {
		p := property(m.Schema.Value, name, map[*openapi3.Schema]bool{})
		switch {
		case p == nil && name == overrideField:
			return []Violation{{"body:/" + overrideField, "is not declared, and could make it another method"}}
		case p != nil && len(list) > 1 && !several(p, map[*openapi3.Schema]bool{}):
			return []Violation{{"body:/" + name, "is given more than once"}}
		case p == nil && m.Schema.Value.AdditionalProperties.Has != nil && !*m.Schema.Value.AdditionalProperties.Has && !nested(m.Schema.Value, name):
			return []Violation{{"body:/", "has a property that is not declared"}} // the decoder leaves it out
		}
	}
	value, err := openapi3filter.UrlencodedBodyDecoder(bytes.NewReader(q.Body), http.Header{}, m.Schema, encoding(m))
	if err != nil {
		return []Violation{{"body", "is no form as declared"}}
	}
	return s.fits(m, false, value)
}

// nested says that an argument is part of a property, as in "address[city]".
func nested(v *openapi3.Schema, name string) bool {
	first, _, ok := strings.Cut(name, "[")
	return ok && property(v, first, map[*openapi3.Schema]bool{}) != nil
}

// property is what a schema says of one; nil: nothing.
func property(v *openapi3.Schema, name string, done map[*openapi3.Schema]bool) *openapi3.Schema {
	if v == nil || done[v] {
		return nil
	}
	done[v] = true
	if p := v.Properties[name]; p != nil {
		return p.Value
	}
	for _, list := range []openapi3.SchemaRefs{v.AllOf, v.AnyOf, v.OneOf} {
		for _, ref := range list {
			if p := property(ref.Value, name, done); p != nil {
				return p
			}
		}
	}
	return nil
}

var (
	errNoJSON = errors.New("is no JSON")
	errDeep   = errors.New("is nested too deep")
	errTwice  = errors.New("has a property twice")
	errNumber = errors.New("has a number that few can read")
)

// decode reads JSON that has one reading.
func decode(body []byte) (value any, where string, err error) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, "body", errNoJSON
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	value, err = next(d, 0)
	return value, "body", err
}

// next reads one value.
func next(d *json.Decoder, deep int) (any, error) {
	if deep > maxDepth {
		return nil, errDeep
	}
	t, err := d.Token()
	if err != nil {
		return nil, errNoJSON
	}
	switch t := t.(type) {
	case json.Number:
		if !readable(string(t)) {
			return nil, errNumber
		}
		return t, nil
	case json.Delim:
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := next(d, deep+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err = d.Token()
			return list, err
		}
		object := map[string]any{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, errNoJSON
			}
			name, ok := k.(string)
			if !ok {
				return nil, errNoJSON
			}
			if _, twice := object[name]; twice { // some take the first, others the last
				return nil, errTwice
			}
			if object[name], err = next(d, deep+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return object, err
	}
	return t, nil
}

// readable says that a number is one that can be computed with: an exponent of millions takes memory to match.
func readable(n string) bool {
	if len(n) > 400 {
		return false
	}
	if at := strings.IndexAny(n, "eE"); at >= 0 {
		if e, err := strconv.Atoi(n[at+1:]); err != nil || e > 400 || e < -400 {
			return false
		}
	}
	_, err := strconv.ParseFloat(n, 64)
	return err == nil
}

// visits are those that are left of a check. It walks as the library does, or further, and does nothing at each step, so that what would take the
// library too long is known before.
type visits struct{ left int }

// pay counts the visits of a value and of all in it; false: there are too many.
func (c *visits) pay(v *openapi3.Schema, value any, above []*openapi3.Schema) bool {
	if slices.Contains(above, v) { // with the same value the library does not go round either
		return true
	}
	if c.left--; c.left < 0 {
		return false
	}
	above = append(above, v)
	same := func(refs ...*openapi3.SchemaRef) bool {
		for _, ref := range refs {
			if ref != nil && ref.Value != nil && !c.pay(ref.Value, value, above) {
				return false
			}
		}
		return true
	}
	if !same(v.AllOf...) || !same(v.AnyOf...) || !same(v.OneOf...) || !same(v.Not, v.If, v.Then, v.Else) {
		return false
	}
	for _, ref := range v.DependentSchemas {
		if !same(ref) {
			return false
		}
	}
	within := func(value any, refs ...*openapi3.SchemaRef) bool {
		for _, ref := range refs {
			if ref != nil && ref.Value != nil && !c.pay(ref.Value, value, nil) {
				return false
			}
		}
		return true
	}
	switch value := value.(type) {
	case []any:
		for i, item := range value {
			if i < len(v.PrefixItems) && !within(item, v.PrefixItems[i]) || !within(item, v.Items, v.Contains, v.UnevaluatedItems.Schema) {
				return false
			}
		}
	case map[string]any:
		for name, item := range value {
			ref := v.Properties[name]
			if ref == nil {
				ref = v.AdditionalProperties.Schema
			}
			if !within(item, ref, v.UnevaluatedProperties.Schema) {
				return false
			}
			for _, ref := range v.PatternProperties {
				if !within(item, ref) {
					return false
				}
			}
		}
	}
	return true
}

// below are the schemas that a schema is made of.
func below(v *openapi3.Schema) []*openapi3.SchemaRef {
	out := slices.Concat(v.AllOf, v.AnyOf, v.OneOf, v.PrefixItems, openapi3.SchemaRefs{v.Not, v.Items, v.AdditionalProperties.Schema, v.If, v.Then, v.Else, v.Contains, v.PropertyNames,
		v.UnevaluatedItems.Schema, v.UnevaluatedProperties.Schema})
	for _, m := range []openapi3.Schemas{v.Properties, v.PatternProperties, v.DependentSchemas, v.Defs} {
		for _, ref := range m {
			out = append(out, ref)
		}
	}
	return out
}

// heavy says that a schema or one below it says what the plain validator does not understand.
func heavy(v *openapi3.Schema) bool {
	return heavyBelow(v, map[*openapi3.Schema]bool{})
}

func heavyBelow(v *openapi3.Schema, done map[*openapi3.Schema]bool) bool {
	if done[v] {
		return false
	}
	done[v] = true
	if v.Const != nil || len(v.PrefixItems)+len(v.PatternProperties)+len(v.DependentSchemas)+len(v.DependentRequired)+len(v.Defs) > 0 || v.Contains != nil || v.PropertyNames != nil ||
		v.UnevaluatedItems.Has != nil || v.UnevaluatedItems.Schema != nil || v.UnevaluatedProperties.Has != nil || v.UnevaluatedProperties.Schema != nil ||
		v.If != nil || v.Then != nil || v.Else != nil || v.ContentSchema != nil {
		return true
	}
	for _, ref := range below(v) {
		if ref != nil && ref.Value != nil && heavyBelow(ref.Value, done) {
			return true
		}
	}
	return false
}
