package client

import (
	"context"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Certificate is how the certificate of a claimed host name stands.
type Certificate struct {
	App       bulwark.AppName  `json:"app"`
	Host      bulwark.HostName `json:"host"`
	Stage     string           `json:"stage" doc:"waiting, issuing, issued, brought (by the app's people), foreign (no public authority issues for such a name)"`
	Issuer    string           `json:"issuer,omitempty" doc:"as the certificate names it"`
	NotBefore time.Time        `json:"not_before,omitzero"`
	NotAfter  time.Time        `json:"not_after,omitzero"`
	RenewAt   time.Time        `json:"renew_at,omitzero" doc:"when it is renewed at the latest"`
	Error     string           `json:"error,omitempty" doc:"of the last try, if it failed"`
	Tried     time.Time        `json:"tried,omitzero"`
	Next      time.Time        `json:"next,omitzero" doc:"when it is tried again"`
	Failures  int              `json:"failures,omitempty"`
	CAA       []string         `json:"caa,omitempty" doc:"values of CAA records by which nobody but this installation gets a certificate for the host (RFC 8659, RFC 8657)"`
}

// Certificates returns how the certificates stand, of all apps that you may read.
func (c *Client) Certificates(ctx context.Context) ([]Certificate, error) {
	return ask[[]Certificate](ctx, c, http.MethodGet, "/certificates", nil)
}

// RetryCertificate has a certificate for a host name of the app tried at once.
func (c *Client) RetryCertificate(ctx context.Context, app bulwark.AppName, host bulwark.HostName) error {
	return c.call(ctx, http.MethodPost, "/apps/"+esc(string(app))+"/certificates/retry", map[string]bulwark.HostName{"host": host}, nil)
}
