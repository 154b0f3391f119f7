package edge

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
)

// span is a request's place in a trace (W3C Trace Context). Its ids are in hexadecimal.
type span struct {
	trace, id string
	parent    string // empty: the trace begins here
}

// join makes the request a span, and tells the app. Whether it is one of those that are told of is not the client's to say: who floods would have all of theirs told.
func (x *exchange) join(share float64) {
	told := rand.Float64() < share //nolint:gosec // which requests are told of is no secret
	s := span{trace: x.id, id: newSpanID()}
	if trace, parent, ok := parseTraceparent(x.r.Header["Traceparent"]); ok {
		s.trace, s.parent = trace, parent
	} else {
		delete(x.r.Header, "Tracestate") // it says more about a trace that there is none of
	}
	flags := "-00"
	if told {
		flags = "-01"
		x.span = s
	}
	x.r.Header["Traceparent"] = []string{"00-" + s.trace + "-" + s.id + flags}
}

// parseTraceparent reads the header of version 00, and what is known of later ones (W3C Trace Context §3.2).
func parseTraceparent(values []string) (trace, parent string, ok bool) {
	if len(values) != 1 || len(values[0]) < 55 {
		return "", "", false
	}
	v := values[0]
	version, trace, parent, flags, rest := v[:2], v[3:35], v[36:52], v[53:55], v[55:]
	switch {
	case v[2] != '-' || v[35] != '-' || v[52] != '-':
	case !lowerHex(version) || !lowerHex(trace) || !lowerHex(parent) || !lowerHex(flags):
	case version == "ff", version == "00" && rest != "", rest != "" && rest[0] != '-':
	case strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "":
	default:
		return trace, parent, true
	}
	return "", "", false
}

func lowerHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

func newSpanID() string {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], rand.Uint64()|1) // 0 is none
	return hex.EncodeToString(b[:])
}
