package client

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// AppShield is what protects an app at the edge, and what that did.
type AppShield struct {
	App    bulwark.AppName     `json:"app"`
	Shield bulwark.Shield      `json:"shield" doc:"what the app's people chose; what is left out is the default"`
	Hour   bulwark.ShieldStats `json:"hour" doc:"what was refused or noted in the last hour"`
}

// Shield returns what protects an app at the edge.
func (c *Client) Shield(ctx context.Context, app bulwark.AppName) (AppShield, error) {
	return ask[AppShield](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/shield", nil)
}

// Metrics returns what the edge counted: of an app, or of all and the edge itself if it is empty. The form is the one that accept asks for as a scraper's
// header Accept does; kind says which it is. Empty: Prometheus' text.
func (c *Client) Metrics(ctx context.Context, app bulwark.AppName, accept string) (kind string, body []byte, err error) {
	path := "/metrics"
	if app != "" {
		path = "/apps/" + esc(string(app)) + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1"+path, nil)
	if err != nil {
		return "", nil, err
	}
	req.Header.Set("Accept", accept)
	res, err := c.send(ctx, req)
	if err != nil {
		return "", nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxMetrics))
	return res.Header.Get("Content-Type"), body, err
}

// maxMetrics bounds what is read of metrics, in bytes.
const maxMetrics = 64 << 20

// VirtualPatch is a virtual patch, and how it stands.
type VirtualPatch struct {
	bulwark.Patch
	Version int              `json:"version" doc:"of this name"`
	Person  bulwark.PersonID `json:"person" doc:"who signed for it"`
	Added   time.Time        `json:"added"`
	Live    bool             `json:"live" doc:"the edge asks it about every request"`
	Error   string           `json:"error,omitempty" doc:"why it is not live"`
	Hits    int              `json:"hits" doc:"requests that met it, since the edge has had it"`
	Last    time.Time        `json:"last,omitzero" doc:"when one met it last"`
}

// Patches lists the virtual patches.
func (c *Client) Patches(ctx context.Context) ([]VirtualPatch, error) {
	return ask[[]VirtualPatch](ctx, c, http.MethodGet, "/patches", nil)
}

// SetPatch takes a statement of kind patch.add or patch.remove.
func (c *Client) SetPatch(ctx context.Context, s Signed) error {
	return c.call(ctx, http.MethodPost, "/patches", s, nil)
}
