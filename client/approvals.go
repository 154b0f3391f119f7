package client

import (
	"context"
	"net/http"
	"strconv"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Bundle returns a release with everything that verifies it.
func (c *Client) Bundle(ctx context.Context, app bulwark.AppName, number uint64) (statement.Bundle, error) {
	return ask[statement.Bundle](ctx, c, http.MethodGet, releasePath(app, number), nil)
}

// Approve takes a statement of kind release.approve; it answers with the operation that goes on with the release.
func (c *Client) Approve(ctx context.Context, app bulwark.AppName, number uint64, s Signed) (Operation, error) {
	return ask[Operation](ctx, c, http.MethodPost, releasePath(app, number)+"/approve", s)
}

// Protect takes a statement of kind app.protect.
func (c *Client) Protect(ctx context.Context, app bulwark.AppName, s Signed) (statement.Protection, error) {
	return ask[statement.Protection](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/protection", s)
}

// ApproveProtection takes a statement of kind protect.approve.
func (c *Client) ApproveProtection(ctx context.Context, app bulwark.AppName, s Signed) (statement.Protection, error) {
	return ask[statement.Protection](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/protection/approve", s)
}

func releasePath(app bulwark.AppName, number uint64) string {
	return "/apps/" + esc(string(app)) + "/releases/" + strconv.FormatUint(number, 10)
}
