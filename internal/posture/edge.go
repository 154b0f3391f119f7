package posture

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// visitor asks the edge as people on the internet do, from this machine.
type visitor struct {
	at   string // where the edge listens
	host string
	tls  *tls.Config
}

// visits are to an app; nothing of it is looked up by name.
func (w *World) visits(app string) (*visitor, error) {
	roots, err := w.roots()
	if err != nil {
		return nil, err
	}
	host := fmt.Sprintf("%s.%s", app, w.Installation.Domain)
	return &visitor{at: net.JoinHostPort(publicHost(w.Installation), fmt.Sprint(w.Installation.Ports.HTTPS)), host: host,
		tls: &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12}}, nil
}

// model is the model app, with who visits it.
func (w *World) model(ctx context.Context) (app string, v *visitor, err error) {
	if app, err = w.Person.Model(ctx, w.Scratch); err == nil {
		v, err = w.visits(app)
	}
	return app, v, err
}

// heard is what the edge said to one.
type heard struct {
	status int
	header http.Header
	text   string
	tls    *tls.ConnectionState
}

// ask sends a request; header are pairs of a name and a value.
func (v *visitor) ask(ctx context.Context, method, path, body string, header ...string) (*heard, error) {
	t := &http.Transport{TLSClientConfig: v.tls.Clone(), DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", v.at)
	}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+v.host+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Transport: t, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return &heard{resp.StatusCode, resp.Header, string(b), resp.TLS}, err
}

// unsecured sends a request without TLS to the other port, as text.
func (w *World) unsecured(ctx context.Context, host, path string) (*heard, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s%s", net.JoinHostPort(publicHost(w.Installation), fmt.Sprint(w.Installation.Ports.HTTP)), path), nil)
	if err != nil {
		return nil, err
	}
	req.Host = host
	t := &http.Transport{DisableKeepAlives: true}
	c := &http.Client{Transport: t, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return &heard{status: resp.StatusCode, header: resp.Header}, nil
}
