package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/bulwark-paas/bulwark"
)

func (c *cli) tracesCommand() *cobra.Command {
	var to string
	cmd := command("traces", "Show the edge's part of an app's traces, or send it to a collector", "  $ bulwark shield shop trace 10%\n  $ bulwark traces -a shop\n  $ bulwark traces -a shop --to http://127.0.0.1:4318/v1/traces",
		exactly(0, ""), func(ctx context.Context, _ []string) error { return c.traces(ctx, to) })
	cmd.Long = `Shows requests that the edge tells of as spans of traces (W3C Trace Context), as they end: those of which bulwark shield APP trace chose a share. With --to they
go to a collector by OTLP over HTTP until the command is ended. What the collector asks for is read from the environment, as OpenTelemetry has it:
OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE. Addresses of clients are left out. On a machine of its own it signs in by an access token:
bulwark tokens create tracing --scope read:APP.`
	cmd.Flags().StringVar(&to, "to", "", "URL of the collector, such as http://127.0.0.1:4318/v1/traces")
	return c.forApp(cmd)
}

// Spans are sent together: so many, or those of so long.
const (
	spansAtOnce = 500
	spansEvery  = time.Second
)

func (c *cli) traces(ctx context.Context, to string) error {
	send := func(_ context.Context, all []bulwark.AccessEvent) error {
		for _, e := range all {
			if c.json {
				if err := c.event(e); err != nil {
					return err
				}
				continue
			}
			if _, err := fmt.Fprintf(c.stdout, "%s %s %d %s\n", clean(e.Trace), clean(e.Span), e.Status, requestWords(e)); err != nil {
				return err
			}
		}
		return nil
	}
	if to != "" {
		if u, err := url.Parse(to); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return misuse(fmt.Sprintf("%s is no address of a collector.", quote(to)), "Give it as http://127.0.0.1:4318/v1/traces.")
		}
		out, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(to), otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
		if err != nil {
			return bulwark.Fail(bulwark.KindInvalid, "The collector cannot be spoken to.", "", err)
		}
		defer func() { _ = out.Shutdown(context.WithoutCancel(ctx)) }()
		send = func(ctx context.Context, all []bulwark.AccessEvent) error {
			if err := out.ExportSpans(ctx, spansOf(all)); err != nil && ctx.Err() == nil {
				c.note("%d spans were not taken by the collector, and are lost: %s", len(all), clean(err.Error()))
			}
			return nil
		}
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	if v, err := s.Shield(ctx, name); err == nil && v.Shield.Trace == "" {
		c.note("No request of %s is told of yet. Choose how many: bulwark shield %s trace 10%%", name, name)
	}
	events := make(chan bulwark.AccessEvent, 2*spansAtOnce)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Requests(ctx, name, 1, true, func(e bulwark.AccessEvent) error {
			if e.Span == "" {
				return nil
			}
			select {
			case events <- e:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	tick := time.NewTicker(spansEvery)
	defer tick.Stop()
	var held []bulwark.AccessEvent
	for {
		var over error
		end := false
		select {
		case e := <-events:
			if held = append(held, e); len(held) < spansAtOnce {
				continue
			}
		case <-tick.C:
		case over = <-ended:
			end = true
			for len(events) > 0 {
				held = append(held, <-events)
			}
		}
		if len(held) > 0 {
			if err := send(context.WithoutCancel(ctx), held); err != nil {
				return err
			}
			held = held[:0]
		}
		if _, known := errors.AsType[*bulwark.Error](over); end && (known || ctx.Err() != nil) {
			return over
		}
		if end {
			return bulwark.Fail(bulwark.KindUnavailable, "The server closed the log.", "Run the command again.", over)
		}
	}
}

// spansOf are requests as OpenTelemetry names their parts (semantic conventions for HTTP). Clients' addresses stay here, where they are forgotten in time.
func spansOf(all []bulwark.AccessEvent) []sdktrace.ReadOnlySpan {
	var out []sdktrace.ReadOnlySpan
	services := map[bulwark.AppName]*resource.Resource{}
	for _, e := range all {
		id, parent, ok := contextsOf(e)
		if !ok {
			continue
		}
		service := services[e.Name]
		if service == nil {
			service = resource.NewSchemaless(attribute.String("service.name", string(e.Name)), attribute.String("service.namespace", "bulwark"))
			services[e.Name] = service
		}
		span := tracetest.SpanStub{
			Name: e.Method, SpanContext: id, Parent: parent, SpanKind: trace.SpanKindServer, Resource: service, InstrumentationScope: instrumentation.Scope{Name: "bulwark/edge"},
			StartTime: e.Time, EndTime: e.Time.Add(time.Duration(e.Total * float64(time.Millisecond))),
			Attributes: []attribute.KeyValue{
				attribute.String("http.request.method", e.Method), attribute.String("url.scheme", "https"), attribute.String("url.path", e.Path), attribute.String("server.address", e.Host),
				attribute.Int("http.response.status_code", e.Status), attribute.String("network.protocol.name", "http"), attribute.String("network.protocol.version", protocolVersion(e.Proto)),
				attribute.Int64("http.request.body.size", e.In), attribute.Int64("http.response.body.size", e.Out), attribute.String("bulwark.request.id", e.ID),
				attribute.String("service.instance.id", string(e.Instance)), attribute.Float64("bulwark.queue_ms", e.Queue), attribute.Float64("bulwark.first_byte_ms", e.First),
			},
		}
		if e.Status >= 500 {
			span.Status = sdktrace.Status{Code: codes.Error, Description: e.Fault}
			span.Attributes = append(span.Attributes, attribute.String("error.type", fmt.Sprint(e.Status)))
		}
		out = append(out, span.Snapshot())
	}
	return out
}

// contextsOf are the ids of a span and of the one that it is part of.
func contextsOf(e bulwark.AccessEvent) (id, parent trace.SpanContext, ok bool) {
	of, err := trace.TraceIDFromHex(e.Trace)
	if err != nil {
		return id, parent, false
	}
	self, err := trace.SpanIDFromHex(e.Span)
	if err != nil {
		return id, parent, false
	}
	if e.Parent != "" {
		if p, err := trace.SpanIDFromHex(e.Parent); err == nil {
			parent = trace.NewSpanContext(trace.SpanContextConfig{TraceID: of, SpanID: p, TraceFlags: trace.FlagsSampled, Remote: true})
		}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: of, SpanID: self, TraceFlags: trace.FlagsSampled}), parent, true
}

// protocolVersion is the number in "HTTP/1.1", as the conventions want it.
func protocolVersion(proto string) string {
	switch proto {
	case "HTTP/2.0":
		return "2"
	case "HTTP/3.0":
		return "3"
	}
	return "1.1"
}
