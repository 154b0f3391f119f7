package edge

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

func TestParseTraceparent(t *testing.T) {
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, good := range []string{"00-" + trace + "-" + parent + "-01", "00-" + trace + "-" + parent + "-00", "01-" + trace + "-" + parent + "-01-more"} {
		if a, b, ok := parseTraceparent([]string{good}); !ok || a != trace || b != parent {
			t.Error(good, a, b, ok)
		}
	}
	for _, bad := range []string{"", "00", "ff-" + trace + "-" + parent + "-01", "00-" + trace + "-" + parent + "-01-more", "01-" + trace + "-" + parent + "-01x", "00-" + strings.ToUpper(trace) + "-" + parent + "-01",
		"00-" + strings.Repeat("0", 32) + "-" + parent + "-01", "00-" + trace + "-" + strings.Repeat("0", 16) + "-01", "00_" + trace + "-" + parent + "-01", "00-" + trace + "-" + parent + "-g1"} {
		if _, _, ok := parseTraceparent([]string{bad}); ok {
			t.Error(bad)
		}
	}
	if _, _, ok := parseTraceparent([]string{"00-" + trace + "-" + parent + "-01", "00-" + trace + "-" + parent + "-01"}); ok {
		t.Error("two of them have two readings")
	}
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, s string) {
		if trace, parent, ok := parseTraceparent([]string{s}); ok && (len(trace) != 32 || len(parent) != 16 || !lowerHex(trace+parent)) {
			t.Errorf("%q is %q and %q", s, trace, parent)
		}
	})
}

func TestTraces(t *testing.T) {
	r := newRig(t, nil)
	seen := make(chan http.Header, 1)
	app := r.serve("a.example.org", backend(t, func(w http.ResponseWriter, q *http.Request) {
		seen <- q.Header
		io.WriteString(w, "ok")
	}))
	const client = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	ask := func(traceparent string) (http.Header, string) {
		q, _ := http.NewRequest("GET", "https://a.example.org/", nil)
		if traceparent != "" {
			q.Header.Set("Traceparent", traceparent)
			q.Header.Set("Tracestate", "vendor=1")
		}
		resp, err := r.client(true).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return <-seen, resp.Header.Get("X-Request-Id")
	}
	// By default it is the client's and the app's.
	if h, _ := ask(client); h.Get("Traceparent") != client || h.Get("Tracestate") != "vendor=1" {
		t.Error(h)
	}
	if h, _ := ask(""); h.Get("Traceparent") != "" {
		t.Error(h)
	}
	r.shield(app, bulwark.Shield{Trace: "100%"})
	h, id := ask(client)
	got := h.Get("Traceparent")
	if !strings.HasPrefix(got, client[:36]) || !strings.HasSuffix(got, "-01") || got[36:52] == client[36:52] || h.Get("Tracestate") != "vendor=1" {
		t.Error(got, h)
	}
	until(t, func() bool {
		return strings.Contains(r.log.String(), `"id":"`+id+`"`) && strings.Contains(r.log.String(), `"trace":"0af7651916cd43dd8448eb211c80319c","span":"`+got[36:52]+`","parent":"b7ad6b7169203331"`)
	})
	// Where none begins elsewhere, or what was sent is none, it begins here, and has the request's number.
	for _, none := range []string{"", "00-nonsense", strings.ToUpper(client)} {
		h, id = ask(none)
		if got = h.Get("Traceparent"); !strings.HasPrefix(got, "00-"+id+"-") || h.Get("Tracestate") != "" {
			t.Errorf("%q: %q %q", none, got, h)
		}
	}
	until(t, func() bool { return strings.Contains(r.log.String(), `"trace":"`+id+`","span":"`+got[36:52]+`"}`) })
	r.shield(app, bulwark.Shield{Trace: "0.001%"})
	if h, id = ask(client); !strings.HasSuffix(h.Get("Traceparent"), "-00") {
		t.Error(h)
	}
	until(t, func() bool { return strings.Contains(r.log.String(), `"id":"`+id+`"`) })
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, id) && strings.Contains(line, "span") {
			t.Error("told of one that was not meant:", line)
		}
	}
}
