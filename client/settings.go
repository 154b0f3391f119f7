package client

import (
	"context"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Registry is a host that all builds may reach beside those of the toolchains.
type Registry struct {
	Host     string           `json:"host" doc:"such as registry.internal:5000"`
	Packages bool             `json:"packages,omitempty" doc:"for packages and other downloads: no FROM may name it"`
	CA       bulwark.Digest   `json:"ca,omitempty" doc:"digest of the authorities of its own that were given for it"`
	Person   bulwark.PersonID `json:"person"`
	Created  time.Time        `json:"created"`
}

// BuildSecret is the name of a build secret; nothing reveals its value.
type BuildSecret struct {
	Name bulwark.ConfigName `json:"name"`
	Set  time.Time          `json:"set"`
}

// EgressRule is a destination that an app's owners opened.
type EgressRule struct {
	Rule    string    `json:"rule" doc:"such as db.example.org:5432"`
	Created time.Time `json:"created"`
}

// Key is a person's key that opens something.
type Key struct {
	Kind        string           `json:"kind" doc:"device or ssh"`
	Fingerprint string           `json:"fingerprint"`
	Person      bulwark.PersonID `json:"person"`
}

// Registries lists the hosts that all builds may reach.
func (c *Client) Registries(ctx context.Context) ([]Registry, error) {
	return ask[[]Registry](ctx, c, http.MethodGet, "/registries", nil)
}

// SetRegistry takes a statement of kind build-registry.allow or build-registry.remove.
func (c *Client) SetRegistry(ctx context.Context, s Signed) error {
	return c.call(ctx, http.MethodPost, "/registries", s, nil)
}

// BuildSecrets lists the names of the build secrets.
func (c *Client) BuildSecrets(ctx context.Context, app bulwark.AppName) ([]BuildSecret, error) {
	return ask[[]BuildSecret](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/build-secrets", nil)
}

// Egress lists the destinations that an app's owners opened.
func (c *Client) Egress(ctx context.Context, app bulwark.AppName) ([]EgressRule, error) {
	return ask[[]EgressRule](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/egress", nil)
}

// Keys lists the keys of all people that were not taken away.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	return ask[[]Key](ctx, c, http.MethodGet, "/keys", nil)
}
