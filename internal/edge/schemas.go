package edge

import (
	"io"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/edge/schema"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
)

// newSchema makes an app's schema ready, or takes that from before if it is the same. Nothing fits one that cannot be read: the app's people said that
// they want requests checked, and the node took it for one that can be.
func newSchema(text bulwark.Schema, before *chosen) *schema.Schema {
	if text == "" {
		return nil
	}
	if before != nil && before.schema != nil && before.shield.Schema == text {
		return before.schema
	}
	s, err := schema.Compile(text)
	if err != nil {
		return schema.Broken()
	}
	return s
}

// misfitsOf says where a request does not fit; nil: it does, or nobody said what has to.
func misfitsOf(s *schema.Schema, q *waf.Request, extent schema.Extent) []schema.Violation {
	if s == nil || ownPath(q.Target) {
		return nil
	}
	return s.Check(schema.Request{Method: q.Method, Target: q.Target, Header: q.Header, Body: q.Body, Extent: extent})
}

// ownPath says that a target is one of the edge's own, of which browsers still have an address when the app has let go of them.
func ownPath(target string) bool { return target == powPath || target == reportPath }

// extentRead is how much is known of a body that was read before the request goes on.
func (x *exchange) extentRead(kept []byte) schema.Extent {
	if b, ok := x.r.Body.(*replayed); x.framing == noBody || ok && b.end == io.EOF || x.r.ContentLength == int64(len(kept)) {
		return schema.Whole
	}
	return schema.Cut
}

// extentSeen is how much is known of a body that was kept as it passed: the app need not have taken all of it.
func (x *exchange) extentSeen(b *firstBytes) schema.Extent {
	switch {
	case b == nil:
		if x.framing == noBody {
			return schema.Whole
		}
		return schema.Unseen
	case len(b.kept) >= waf.MaxBody && x.r.ContentLength != int64(len(b.kept)):
		return schema.Cut
	case b.ended || x.r.ContentLength == int64(len(b.kept)):
		return schema.Whole
	}
	return schema.Unseen
}

// misfit refuses a request that does not fit, and says where.
func (x *exchange) misfit(why []schema.Violation) {
	x.fault = string(bulwark.RefusedSchema)
	example := x.example(bulwark.RefusedSchema)
	example.Schema = misfitWords(why)
	x.guard.tally.note(example)
	x.refuse(pageSchema)
}

// noteMisfit notes that a request does not fit that was passed on; true: it fits.
func (s *sight) noteMisfit() bool {
	why := misfitsOf(s.schema, &s.request, s.extent)
	if why == nil {
		return true
	}
	example := s.example
	example.Reason, example.Schema = bulwark.NotedSchema, misfitWords(why)
	s.guard.tally.note(example)
	return false
}

func misfitWords(why []schema.Violation) []string {
	var out []string
	for _, v := range why {
		w := v.String()
		out = append(out, w[:min(len(w), 300)])
	}
	return out
}
