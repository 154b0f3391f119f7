package client

import (
	"context"
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
