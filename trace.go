package bulwark

import (
	"fmt"
	"strconv"
	"strings"
)

// TraceShare is of how many of an app's requests the edge tells as spans of traces, as "10%"; the zero value is TraceOff.
type TraceShare string

// TraceOff has the edge pass on what a client says of its trace, and add nothing.
const TraceOff TraceShare = "off"

// ParseTraceShare reads "off" or a part of a hundred, such as "0.1%" or "100%".
func ParseTraceShare(s string) (TraceShare, error) {
	if s == string(TraceOff) {
		return TraceOff, nil
	}
	number, ok := strings.CutSuffix(s, "%")
	whole, part, _ := strings.Cut(number, ".")
	if v, err := strconv.ParseFloat(number, 64); !ok || err != nil || v <= 0 || v > 100 || len(whole) > 3 || len(part) > 3 || strings.Trim(whole+part, "0123456789") != "" {
		return "", Invalid(fmt.Sprintf("%s is no share of requests.", quote(s)), "Give it as 10%, or off.")
	}
	return TraceShare(s), nil
}

// Of is the share as a part of 1.
func (s TraceShare) Of() float64 {
	v, err := strconv.ParseFloat(strings.TrimSuffix(string(s), "%"), 64)
	if err != nil {
		return 0
	}
	return v / 100
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseTraceShare.
func (s *TraceShare) UnmarshalText(b []byte) error { return parseInto(s, b, ParseTraceShare) }
