package edge

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/bulwark-paas/bulwark"
)

// families scrapes the edge as Prometheus does.
func (r *rig) families(app bulwark.AppID, accept string) map[string]*dto.MetricFamily {
	r.t.Helper()
	kind, body, err := r.control.Metrics(r.t.Context(), app, accept)
	if err != nil {
		r.t.Fatal(err)
	}
	dec := expfmt.NewDecoder(strings.NewReader(string(body)), expfmt.ResponseFormat(http.Header{"Content-Type": {kind}}))
	out := map[string]*dto.MetricFamily{}
	for {
		var f dto.MetricFamily
		if err := dec.Decode(&f); err == io.EOF {
			return out
		} else if err != nil {
			r.t.Fatal(err)
		}
		out[f.GetName()] = &f
	}
}

// metric finds the one with these labels, written as "name=value".
func metric(t *testing.T, f *dto.MetricFamily, labels ...string) *dto.Metric {
	t.Helper()
	for _, m := range f.GetMetric() {
		var have []string
		for _, l := range m.GetLabel() {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(have, l) }) {
			return m
		}
	}
	t.Fatalf("no %s %v: %v", f.GetName(), labels, f)
	return nil
}

func TestMetrics(t *testing.T) {
	r := newRig(t, nil)
	page := func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		if q.URL.Path == "/no" {
			w.WriteHeader(404)
		}
		io.WriteString(w, "0123456789")
	}
	app := r.serve("a.example.org", backend(t, page))
	other := r.serve("b.example.org", backend(t, page))
	up := r.table.Apps[other]
	up.Name = "cafe"
	r.table.Apps[other] = up
	r.put()
	r.shield(app, bulwark.Shield{WAF: bulwark.WAFBlock})
	for range 3 {
		get(t, r.client(false), "https://a.example.org/")
	}
	get(t, r.client(true), "https://a.example.org/no")
	get(t, r.client(true), "https://a.example.org/?x=<script>alert(1)</script>")
	get(t, r.client(true), "https://b.example.org/")
	if resp, err := r.client(true).Post("https://a.example.org/", "text/plain", strings.NewReader("12345")); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	for _, accept := range []string{"text/plain", protobuf} {
		f := r.families("", accept)
		for _, v := range []struct {
			name   string
			labels []string
			want   float64
		}{
			{"bulwark_edge_requests_total", []string{"app=shop", "code=200"}, 4},
			{"bulwark_edge_requests_total", []string{"app=shop", "code=404"}, 1},
			{"bulwark_edge_requests_total", []string{"app=shop", "code=403"}, 1},
			{"bulwark_edge_requests_total", []string{"app=cafe", "code=200"}, 1},
			{"bulwark_edge_protocol_requests_total", []string{"app=shop", "protocol=HTTP/1.1"}, 3},
			{"bulwark_edge_protocol_requests_total", []string{"app=shop", "protocol=HTTP/2.0"}, 3},
			{"bulwark_edge_tls_requests_total", []string{"app=shop", "version=1.3"}, 6},
			{"bulwark_edge_request_bytes_total", []string{"app=shop"}, 5},
			{"bulwark_edge_refusals_total", []string{"app=shop", "reason=waf"}, 1},
		} {
			if got := metric(t, f[v.name], v.labels...).GetCounter().GetValue(); got != v.want {
				t.Errorf("%s %v: %v, want %v", v.name, v.labels, got, v.want)
			}
		}
		h := metric(t, f["bulwark_edge_request_duration_seconds"], "app=shop").GetHistogram()
		if h.GetSampleCount() != 6 || h.GetSampleSum() <= 0 {
			t.Error(h)
		}
		if native := len(h.GetPositiveSpan()) > 0; native != (accept == protobuf) {
			t.Errorf("%s: native: %t", accept, native)
		}
		if got := metric(t, f["bulwark_edge_first_byte_seconds"], "app=shop").GetHistogram().GetSampleCount(); got != 5 {
			t.Error("first bytes:", got)
		}
		if got := metric(t, f["bulwark_edge_certificate_expiry_timestamp_seconds"], "app=shop", "host=a.example.org").GetGauge().GetValue(); got < 1e9 {
			t.Error("expiry:", got)
		}
		if f["bulwark_edge_connections"] == nil {
			t.Error("nothing of the edge itself")
		}
		// One app's are told alone.
		for name, f := range r.families(app, accept) {
			for _, m := range f.GetMetric() {
				if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "app" && l.GetValue() == "shop" }) {
					t.Errorf("%s tells of something else: %v", name, m)
				}
			}
		}
	}
	if _, _, err := r.control.Metrics(t.Context(), "nonsense", ""); err == nil {
		t.Error("an app that is none")
	}
}
