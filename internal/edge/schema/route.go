package schema

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// route is a path of the document below one of its servers' base paths.
type route struct {
	path       string // as the document has it
	parts      []part
	variables  int
	operations map[string]*operation // by method
}

// part is what stands between two slashes of a path.
type part struct {
	literal string
	names   []string       // of variables
	pattern *regexp.Regexp // of a part that is more than one variable; else nil
}

// operation is what may be done at a route.
type operation struct {
	parameters []*parameter
	body       *openapi3.RequestBody // nil: it has none
	forms      map[*openapi3.MediaType]bool
	heavy      map[*openapi3.MediaType]bool // need the validator of JSON Schema 2020-12
}

func (o *operation) declares(in, name string) bool {
	return slices.ContainsFunc(o.parameters, func(p *parameter) bool {
		return p.what.In == in && (p.what.Name == name || in == openapi3.ParameterInHeader && strings.EqualFold(p.what.Name, name))
	})
}

// variable is a variable in a path or an address.
var variable = regexp.MustCompile(`\{([^{}]+)\}`)

// add takes a path of the document with what may be done there.
func (s *Schema) add(doc *openapi3.T, path string, item *openapi3.PathItem) error {
	byBase := map[string]map[string]*operation{}
	for method, o := range item.Operations() {
		servers := doc.Servers
		if len(item.Servers) > 0 {
			servers = item.Servers
		}
		if o.Servers != nil && len(*o.Servers) > 0 {
			servers = *o.Servers
		}
		made := s.newOperation(doc, item, o)
		if err := s.read(made); err != nil {
			return err
		}
		for _, base := range bases(servers) {
			if byBase[base] == nil {
				byBase[base] = map[string]*operation{}
			}
			byBase[base][method] = made
		}
	}
	for base, operations := range byBase {
		r := &route{path: base + path, operations: operations}
		for text := range strings.SplitSeq(r.path, "/") {
			p, err := newPart(text)
			if err != nil {
				return wrong("the path " + path + " is not well formed")
			}
			r.variables += len(p.names)
			r.parts = append(r.parts, p)
		}
		s.routes[len(r.parts)] = append(s.routes[len(r.parts)], r)
	}
	return nil
}

// bases are the paths of servers, each once. Their hosts are not looked at: an app is reached by those that it claimed.
func bases(servers openapi3.Servers) []string {
	out := []string{}
	for _, server := range servers {
		urls := []string{server.URL}
		for name, v := range server.Variables {
			var next []string
			for _, u := range urls {
				for _, value := range append([]string{v.Default}, v.Enum...) {
					next = append(next, strings.ReplaceAll(u, "{"+name+"}", value))
				}
			}
			urls = next[:min(len(next), maxBases)]
		}
		for _, u := range urls {
			if _, rest, ok := strings.Cut(u, "://"); ok {
				u = rest
			} else if rest, ok := strings.CutPrefix(u, "//"); ok {
				u = rest
			}
			_, path, _ := strings.Cut(u, "/")
			path, _, _ = strings.Cut(path, "?")
			if path = strings.Trim(path, "/"); path != "" && path != "." {
				path = "/" + path
			} else {
				path = ""
			}
			if !slices.Contains(out, path) && len(out) < maxBases {
				out = append(out, path)
			}
		}
	}
	if len(out) == 0 {
		return []string{""}
	}
	return out
}

func newPart(text string) (part, error) {
	found := variable.FindAllStringSubmatchIndex(text, -1)
	if len(found) == 0 {
		literal, err := url.PathUnescape(text)
		return part{literal: literal}, err
	}
	var p part
	pattern, end := "^", 0
	for _, at := range found {
		p.names = append(p.names, text[at[2]:at[3]])
		pattern += regexp.QuoteMeta(text[end:at[0]]) + "(.+?)"
		end = at[1]
	}
	if len(found) == 1 && found[0][0] == 0 && end == len(text) {
		return p, nil
	}
	var err error
	p.pattern, err = regexp.Compile("(?s)" + pattern + regexp.QuoteMeta(text[end:]) + "$")
	return p, err
}

// route finds what a request is for, with the values of the path's variables.
func (s *Schema) route(method, path string) (*operation, map[string]string, *Violation) {
	var parts []string
	for text := range strings.SplitSeq(path, "/") {
		p, err := url.PathUnescape(text)
		switch {
		case err != nil:
			return nil, nil, &Violation{"path", "is not well formed"}
		case p == "." || p == ".." || strings.ContainsAny(p, "/\x00"):
			// Some take it for a path of its own, others for a value.
			return nil, nil, &Violation{"path", "has two readings"}
		}
		parts = append(parts, p)
	}
	known := false
	for _, r := range s.routes[len(parts)] {
		values, ok := r.match(parts)
		if !ok {
			continue
		}
		known = true
		if o := r.operation(method); o != nil {
			return o, values, nil
		}
	}
	switch {
	case !known:
		return nil, nil, &Violation{"path", "is not declared"}
	case method == http.MethodOptions: // browsers ask before they ask (CORS)
		return &operation{}, nil, nil
	}
	return nil, nil, &Violation{"method", "is not declared at this path"}
}

func (r *route) operation(method string) *operation {
	o := r.operations[method]
	if o == nil && method == http.MethodHead {
		return r.operations[http.MethodGet]
	}
	return o
}

func (r *route) match(parts []string) (map[string]string, bool) {
	var values map[string]string
	for i, p := range r.parts {
		if len(p.names) == 0 {
			if p.literal != parts[i] {
				return nil, false
			}
			continue
		}
		found := []string{"", parts[i]}
		if p.pattern != nil {
			found = p.pattern.FindStringSubmatch(parts[i])
		}
		if found == nil || parts[i] == "" {
			return nil, false
		}
		if values == nil {
			values = map[string]string{}
		}
		for j, name := range p.names {
			values[name] = found[j+1]
		}
	}
	return values, true
}
