package client

import (
	"context"
	"net/http"

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
