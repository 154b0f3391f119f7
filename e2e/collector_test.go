package e2e

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collect starts a collector of traces (OTLP over HTTP) and names it in COLLECTOR. What it takes is written to the file FILE, a span a line.
func collect(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: collect FILE")
	}
	path := ts.MkAbs(args[0])
	var mu sync.Mutex
	var lines strings.Builder
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in collector.ExportTraceServiceRequest
		z, err := gzip.NewReader(r.Body)
		if err == nil {
			var b []byte
			if b, err = io.ReadAll(z); err == nil {
				err = proto.Unmarshal(b, &in)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, of := range in.ResourceSpans {
			service := ""
			for _, a := range of.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, scope := range of.ScopeSpans {
				for _, s := range scope.Spans {
					fmt.Fprintf(&lines, "service=%s trace=%s span=%s parent=%s name=%s kind=%s took=%dns status=%s", service, hex.EncodeToString(s.TraceId), hex.EncodeToString(s.SpanId),
						hex.EncodeToString(s.ParentSpanId), s.Name, s.Kind, s.EndTimeUnixNano-s.StartTimeUnixNano, s.Status.GetCode())
					for _, a := range s.Attributes {
						fmt.Fprintf(&lines, " %s=%v", a.Key, a.Value)
					}
					lines.WriteString("\n")
				}
			}
		}
		if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(nil)
	}))
	ts.Defer(srv.Close)
	ts.Setenv("COLLECTOR", srv.URL+"/v1/traces")
}
