package edge

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/bulwark-paas/bulwark"
)

// reportPath is where browsers tell what a page loads, while an app's people want to know. It is the edge's own on every host.
const reportPath = "/.well-known/bulwark/csp"

// Bounds of what is kept of reports, which anybody can send.
const (
	reportBytes  = 8 << 10
	reportsMost  = 200 // sources of an app
	reportLength = 200 // bytes of a source
)

// reports are what browsers told of an app's pages.
type reports struct {
	mu   sync.Mutex
	seen map[bulwark.CSPSource]int // without counts
}

// add counts a source.
func (r *reports) add(s bulwark.CSPSource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[bulwark.CSPSource]int{}
	}
	if r.seen[s] > 0 || len(r.seen) < reportsMost {
		r.seen[s]++
	}
}

// list is what was told, in the order of directives.
func (r *reports) list() []bulwark.CSPSource {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []bulwark.CSPSource
	for s, n := range r.seen {
		s.Count = n
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b bulwark.CSPSource) int {
		return cmp.Or(cmp.Compare(a.Directive, b.Directive), cmp.Compare(a.Source, b.Source))
	})
	return out
}

func (r *reports) clear() {
	r.mu.Lock()
	r.seen = nil
	r.mu.Unlock()
}

// report takes a browser's report (CSP level 3 §5.3) and answers; the request never reaches the app.
func (x *exchange) report() {
	x.yield()
	if x.r.Method != http.MethodPost || !x.guard.chosen.Load().headers.report {
		x.refuse(pageNoRoute)
		return
	}
	if x.framing != fixedLength || x.r.ContentLength > reportBytes {
		x.refuse(pageBadRequest)
		return
	}
	if !x.readSmallBody() {
		x.refuse(pageSlowRequest)
		return
	}
	if s, ok := reported(x.head, string(x.host)+x.port); ok {
		x.guard.reports.add(s)
	}
	x.status = http.StatusNoContent
	h := x.w.Header()
	x.e.headers.addTo(h)
	h["X-Request-Id"] = []string{x.id}
	x.w.WriteHeader(x.status)
}

// reported reads a report about a page of a host: which directive would need which source. Of addresses only the origin is kept.
func reported(body []byte, host string) (s bulwark.CSPSource, ok bool) {
	var v struct {
		Report struct {
			Document  string `json:"document-uri"`
			Blocked   string `json:"blocked-uri"`
			Effective string `json:"effective-directive"`
			Violated  string `json:"violated-directive"`
		} `json:"csp-report"`
	}
	if json.Unmarshal(body, &v) != nil {
		return s, false
	}
	doc, err := url.Parse(v.Report.Document)
	if err != nil || doc.Host != host {
		return s, false
	}
	s.Directive, _, _ = strings.Cut(cmp.Or(v.Report.Effective, v.Report.Violated), " ")
	if !slices.Contains(append(bulwark.CSPFetchDirectives(), "form-action", "base-uri"), s.Directive) {
		return s, false
	}
	switch b := v.Report.Blocked; b {
	case "inline":
		s.Source = "'unsafe-inline'"
	case "eval":
		s.Source = "'unsafe-eval'"
	case "wasm-eval":
		s.Source = "'wasm-unsafe-eval'"
	case "data", "blob", "mediastream", "filesystem":
		s.Source = b + ":"
	case "self", "":
		s.Source = "'self'"
	default:
		u, err := url.Parse(b)
		switch {
		case err != nil:
			return s, false
		case u.Host == host && u.Scheme == "https":
			s.Source = "'self'"
		case u.Scheme == "data" || u.Scheme == "blob":
			s.Source = u.Scheme + ":"
		case u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" || u.Scheme == "wss" || u.Scheme == "ws"):
			s.Source = u.Scheme + "://" + u.Host
		default:
			return s, false
		}
	}
	if len(s.Source) > reportLength || strings.ContainsFunc(s.Source, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`;,"<>\`, r) }) {
		return s, false
	}
	return s, true
}
