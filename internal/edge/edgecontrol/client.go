// Package edgecontrol is how the server and the node talk to the edge: a client of its control and certificates
// sockets. It promises that an error says what the edge said, as a *bulwark.Error. It holds no secret and decides
// nothing; an attacker who owned a caller could do what that caller may ask of the edge.
package edgecontrol

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Client talks to one socket of the edge. Its methods may be called by several goroutines.
type Client struct{ http *http.Client }

// New returns a client of the unix socket at path: the control socket for all methods but PutCertificates and PutChallenges, which are
// served on the sockets for certificates only, PutChallenges on that of the certs process. It connects when it is used, and again after the edge restarted.
func New(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true, MaxIdleConns: 4,
		IdleConnTimeout: 30 * time.Second}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Table returns the table in force.
func (c *Client) Table(ctx context.Context) (bulwark.Table, error) {
	var t bulwark.Table
	err := c.do(ctx, "GET", "/table", nil, nil, &t)
	return t, err
}

// PutTable replaces the table. KindConflict means that its generation is not higher than the one in force, or that it
// would take the last instance from an app that stays and is not among force.
func (c *Client) PutTable(ctx context.Context, t bulwark.Table, force ...bulwark.AppID) error {
	h := http.Header{}
	if len(force) > 0 {
		ids := make([]string, len(force))
		for i, id := range force {
			ids[i] = string(id)
		}
		h.Set("Bulwark-Force", strings.Join(ids, ","))
	}
	return c.do(ctx, "PUT", "/table", h, t, nil)
}

// PatchTable changes the table. KindConflict means, besides PutTable's reasons, that the edge has another base: send
// the whole table then.
func (c *Client) PatchTable(ctx context.Context, p bulwark.TablePatch) error {
	return c.do(ctx, "PATCH", "/table", nil, p, nil)
}

// Drain waits until an instance that has left the table has no request any more, or for timeout, and returns how many
// are left.
func (c *Client) Drain(ctx context.Context, id bulwark.InstanceID, timeout time.Duration) (int, error) {
	var d bulwark.Drained
	err := c.do(ctx, "POST", "/drain", nil, bulwark.Drain{Instance: id, Timeout: bulwark.Duration(timeout)}, &d)
	return d.Left, err
}

// Stats returns the edge's counters.
func (c *Client) Stats(ctx context.Context) (bulwark.EdgeStats, error) {
	var s bulwark.EdgeStats
	err := c.do(ctx, "GET", "/stats", nil, nil, &s)
	return s, err
}

// PutCertificates replaces all certificates of whom the socket is for.
func (c *Client) PutCertificates(ctx context.Context, list []bulwark.Certificate) error {
	if list == nil {
		list = []bulwark.Certificate{}
	}
	return c.do(ctx, "PUT", "/certificates", nil, list, nil)
}

// PutChallenges replaces what is answered to certificate authorities.
func (c *Client) PutChallenges(ctx context.Context, all bulwark.Challenges) error {
	return c.do(ctx, "PUT", "/challenges", nil, all, nil)
}

// PutShields replaces the shields of all apps that have one.
func (c *Client) PutShields(ctx context.Context, list []bulwark.Shielded) error {
	if list == nil {
		list = []bulwark.Shielded{}
	}
	return c.do(ctx, "PUT", "/shields", nil, list, nil)
}

// PutPatches replaces all virtual patches. One whose rules cannot be read is told by Patches.
func (c *Client) PutPatches(ctx context.Context, list []bulwark.Patch) error {
	if list == nil {
		list = []bulwark.Patch{}
	}
	return c.do(ctx, "PUT", "/patches", nil, list, nil)
}

// Patches returns how the virtual patches stand.
func (c *Client) Patches(ctx context.Context) (list []bulwark.PatchStats, err error) {
	err = c.do(ctx, "GET", "/patches", nil, nil, &list)
	return list, err
}

// Shield returns what was refused or noted of an app's requests in the last hour.
func (c *Client) Shield(ctx context.Context, app bulwark.AppID) (s bulwark.ShieldStats, err error) {
	err = c.do(ctx, "GET", "/shield?app="+string(app), nil, nil, &s)
	return s, err
}

// AccessEvents returns an app's requests that ended, as far as the edge still knows them: the last so many of those at a place or after it, which is 0 or
// what another call gave as Next.
func (c *Client) AccessEvents(ctx context.Context, app bulwark.AppID, after uint64, most int) (e bulwark.AccessEvents, err error) {
	err = c.do(ctx, "GET", "/requests?app="+string(app)+"&after="+strconv.FormatUint(after, 10)+"&most="+strconv.Itoa(most), nil, nil, &e)
	return e, err
}

// Metrics returns what Prometheus is told of an app, or of all if it is empty, in the form that accept names as its header Accept does.
func (c *Client) Metrics(ctx context.Context, app bulwark.AppID, accept string) (kind string, body []byte, err error) {
	resp, b, err := c.answered(ctx, "GET", "/metrics?app="+string(app), http.Header{"Accept": {accept}}, nil)
	if err != nil {
		return "", nil, err
	}
	return resp.Header.Get("Content-Type"), b, nil
}

// leftHeader is in every answer of an edge that another one has taken over from: it did nothing of what it was asked.
const leftHeader = "Bulwark-Left"

// leftFor is how long such answers are taken for the last moments of an edge.
const leftFor = time.Second

func (c *Client) ask(ctx context.Context, method, path string, h http.Header, in []byte) (*http.Response, []byte, error) {
	var body io.Reader
	if in != nil {
		body = bytes.NewReader(in)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://edge"+path, body)
	if err != nil {
		return nil, nil, err
	}
	for k, v := range h {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, bulwark.Fail(bulwark.KindUnavailable, "The edge cannot be reached.", "Try again when it has started.", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, bulwark.Fail(bulwark.KindUnavailable, "The edge broke off its answer.", "Try again.", err)
	}
	return resp, b, nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

func (c *Client) do(ctx context.Context, method, path string, h http.Header, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	_, b, err := c.answered(ctx, method, path, h, body)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return bulwark.Fail(bulwark.KindInternal, "The edge's answer cannot be read.", "Let server and edge be of the same version.", err)
	}
	return nil
}

// answered asks the edge that serves, and returns what it says unless that is an error.
func (c *Client) answered(ctx context.Context, method, path string, h http.Header, body []byte) (*http.Response, []byte, error) {
	resp, b, err := c.ask(ctx, method, path, h, body)
	// Nothing that an edge which was left says counts; its successor is behind the same socket.
	for again := time.Now().Add(leftFor); err == nil && resp.Header.Get(leftHeader) != "" && time.Now().Before(again); {
		c.http.CloseIdleConnections()
		select {
		case <-ctx.Done():
			return nil, nil, bulwark.Fail(bulwark.KindUnavailable, "The edge was not reached in time.", "Try again.", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
		resp, b, err = c.ask(ctx, method, path, h, body)
	}
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode >= 400 {
		e := &bulwark.Error{}
		if json.Unmarshal(b, e) != nil || e.Kind == "" {
			return nil, nil, bulwark.Failf(bulwark.KindInternal, "The edge answered with status %d.", resp.StatusCode)
		}
		return nil, nil, e
	}
	return resp, b, nil
}
