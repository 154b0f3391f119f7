package edge

import (
	"crypto/tls"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bulwark-paas/bulwark"
)

// appMetrics counts an app's requests for Prometheus, since the edge began. It is made with the app's first request: hosts that nobody visits cost nothing.
type appMetrics struct {
	codes    [600]atomic.Uint64 // answers by status
	protos   [4]atomic.Uint64   // requests by HTTP/1.0, 1.1, 2 and 3
	versions [2]atomic.Uint64   // requests by TLS 1.2 and 1.3
	in, out  atomic.Uint64      // bytes of bodies
	total    prometheus.Histogram
	first    prometheus.Histogram
}

// The labels of appMetrics.protos and appMetrics.versions.
var (
	protoNames   = [4]string{"HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0"}
	versionNames = [2]string{"1.2", "1.3"}
)

func newAppMetrics(app bulwark.AppName) *appMetrics {
	latency := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"app": string(app)}, Buckets: prometheus.DefBuckets,
			// Native ones, for who scrapes by protocol buffers: each bucket a tenth wider than the one before, so many at most.
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour})
	}
	return &appMetrics{
		total: latency("bulwark_edge_request_duration_seconds", "From a request's head to the end of its answer."),
		first: latency("bulwark_edge_first_byte_seconds", "From a request's head to the first byte of the instance's answer."),
	}
}

// measured counts a request that ended.
func (x *exchange) measured() {
	a := x.app
	m := a.metrics.Load()
	if m == nil {
		m = newAppMetrics(a.set.Load().name)
		if !a.metrics.CompareAndSwap(nil, m) {
			m = a.metrics.Load()
		}
	}
	if x.status > 0 && x.status < len(m.codes) {
		m.codes[x.status].Add(1)
	}
	switch {
	case x.r.ProtoMajor == 1:
		m.protos[min(x.r.ProtoMinor, 1)].Add(1)
	case x.r.ProtoMajor < len(m.protos):
		m.protos[x.r.ProtoMajor].Add(1)
	}
	if x.r.TLS != nil {
		m.versions[min(max(int(x.r.TLS.Version)-tls.VersionTLS12, 0), 1)].Add(1)
	}
	m.in.Add(uint64(max(x.in.Load(), 0)))
	m.out.Add(uint64(max(x.out, 0)))
	if x.upgrade && x.status == http.StatusSwitchingProtocols {
		return // it lasts as long as people look at it
	}
	m.total.Observe(time.Since(x.start).Seconds())
	if x.first > 0 {
		m.first.Observe(x.first.Seconds())
	}
}

// collector tells Prometheus about one app, or about all and the edge itself.
type collector struct {
	e   *edge
	app bulwark.AppID // empty: all
}

// The metrics, with their labels.
var (
	descRequests = desc("requests_total", "Requests that were answered, by the answer's status.", "app", "code")
	descProtos   = desc("protocol_requests_total", "Requests, by the version of HTTP.", "app", "protocol")
	descTLS      = desc("tls_requests_total", "Requests, by the version of TLS.", "app", "version")
	descIn       = desc("request_bytes_total", "Bytes of requests' bodies.", "app")
	descOut      = desc("response_bytes_total", "Bytes of answers' bodies, as they were sent.", "app")
	descRefused  = desc("refusals_total", "Requests that the shield refused or noted, by the reason.", "app", "reason")
	descWaiting  = desc("waiting_requests", "Requests that wait for an instance.", "app")
	descInFlight = desc("in_flight_requests", "Requests that an instance works on.", "app", "instance")
	descFailed   = desc("instance_failures_total", "Requests to which an instance gave no answer, or a broken one.", "app", "instance")
	descExpiry   = desc("certificate_expiry_timestamp_seconds", "When the certificate that is served for a host ends.", "app", "host")
	descOpen     = desc("connections", "Connections of clients.")
	descAway     = desc("turned_away_connections_total", "Connections that there was no room for.")
	descDropped  = desc("access_log_dropped_total", "Lines of the access log that found no room.")
	descDial     = desc("dial_present", "1 if new connections to instances can be made.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("bulwark_edge_"+name, help, labels, nil)
}

// Describe implements [prometheus.Collector]; which there are depends on what was asked for.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	value := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		value(d, prometheus.CounterValue, float64(n), labels...)
	}
	s := c.e.tables.current.Load()
	for id, a := range s.apps {
		if c.app != "" && c.app != id {
			continue
		}
		set := a.set.Load()
		name := string(set.name)
		if m := a.metrics.Load(); m != nil {
			m.total.Collect(ch)
			m.first.Collect(ch)
			for code := range m.codes {
				if n := m.codes[code].Load(); n > 0 {
					count(descRequests, n, name, strconv.Itoa(code))
				}
			}
			for i := range m.protos {
				if n := m.protos[i].Load(); n > 0 {
					count(descProtos, n, name, protoNames[i])
				}
			}
			for i := range m.versions {
				if n := m.versions[i].Load(); n > 0 {
					count(descTLS, n, name, versionNames[i])
				}
			}
			count(descIn, m.in.Load(), name)
			count(descOut, m.out.Load(), name)
		}
		if g := c.e.guards.known(id); g != nil {
			for reason, n := range g.tally.all() {
				count(descRefused, n, name, string(reason))
			}
		}
		value(descWaiting, prometheus.GaugeValue, float64(a.waiting.Load()), name)
		for _, i := range set.instances {
			value(descInFlight, prometheus.GaugeValue, float64(i.inFlight.Load()), name, string(i.id))
			count(descFailed, i.failed.Load(), name, string(i.id))
		}
	}
	for _, host := range slices.Sorted(maps.Keys(s.table.Routes)) {
		app := s.table.Routes[host]
		if c.app != "" && c.app != app {
			continue
		}
		if cert := c.e.certs.find(string(host)); cert != nil && cert.Leaf != nil {
			value(descExpiry, prometheus.GaugeValue, float64(cert.Leaf.NotAfter.Unix()), string(s.table.Apps[app].Name), string(host))
		}
	}
	if c.app != "" {
		return
	}
	value(descOpen, prometheus.GaugeValue, float64(c.e.open.Load()))
	count(descAway, c.e.turnedAway.Load())
	count(descDropped, c.e.log.dropped.Load())
	present := 0.0
	if c.e.dialer.present() {
		present = 1
	}
	value(descDial, prometheus.GaugeValue, present)
}

// metrics answers in Prometheus' text format, in OpenMetrics' or by protocol buffers, as is asked for.
func (e *edge) metrics(w http.ResponseWriter, r *http.Request) {
	c := collector{e: e}
	if id := r.FormValue("app"); id != "" {
		var err error
		if c.app, err = bulwark.ParseAppID(id); err != nil {
			answer(w, err)
			return
		}
	}
	reg := prometheus.NewRegistry()
	if err := reg.Register(c); err != nil {
		answer(w, err)
		return
	}
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(w, r)
}
