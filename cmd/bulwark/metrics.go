package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
)

func (c *cli) metricsCommand() *cobra.Command {
	var listen string
	var all bool
	cmd := command("metrics", "Show what the edge counted, for Prometheus", "  $ bulwark metrics -a shop\n  $ bulwark metrics --all\n  $ bulwark metrics -a shop --listen 127.0.0.1:9464",
		exactly(0, ""), func(ctx context.Context, _ []string) error { return c.metrics(ctx, all, listen) })
	cmd.Long = `Shows requests, latencies, refusals, bytes and the ends of certificates of an app, or with --all of every app and of the edge itself, in the
format of Prometheus. With --listen it serves them at /metrics of that address until it is ended, so that Prometheus can scrape them there; who scrapes by
protocol buffers gets native histograms. On a machine of its own it signs in by an access token: bulwark tokens create prometheus --scope read:APP.`
	cmd.Flags().StringVar(&listen, "listen", "", "serve the metrics at this address, such as 127.0.0.1:9464")
	cmd.Flags().BoolVar(&all, "all", false, "of all apps and of the edge itself, for those who run the installation")
	return c.forApp(cmd)
}

func (c *cli) metrics(ctx context.Context, all bool, listen string) error {
	var s *session
	var name bulwark.AppName
	var err error
	if all {
		s, err = c.signedIn(ctx)
	} else {
		s, name, err = c.onApp(ctx)
	}
	if err != nil {
		return err
	}
	_, body, err := s.Metrics(ctx, name, "")
	if err != nil {
		return err
	}
	if listen == "" {
		_, err = c.stdout.Write(body)
		return err
	}
	return c.exportMetrics(ctx, s.Client, name, listen)
}

// exportMetrics serves metrics until ctx ends.
func (c *cli) exportMetrics(ctx context.Context, from *client.Client, app bulwark.AppName, listen string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("Nobody can listen at %s.", quote(listen)), "Give an address of this machine with a free port, such as 127.0.0.1:9464.", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		kind, body, err := from.Metrics(r.Context(), app, r.Header.Get("Accept"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(body) //nolint:gosec // the server's own, of a type that no browser takes for a page; who is gone needs no answer
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	c.note("Prometheus can scrape http://%s/metrics. End it with Ctrl-C.", l.Addr())
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
