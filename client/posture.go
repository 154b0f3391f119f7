package client

import (
	"context"
	"net/http"

	"github.com/bulwark-paas/bulwark"
)

// Standing is where a control stands. Record is signed by the prober, whose key the node vouches for; what is not signed here is
// the server's word.
type Standing struct {
	Control string           `json:"control"`
	Promise string           `json:"promise"`
	Every   bulwark.Duration `json:"every"`
	Running bool             `json:"running,omitempty"`
	Record  []byte           `json:"record,omitempty" doc:"DSSE envelope; none if the probe never ran"`
}

// Posture is where all controls stand.
type Posture struct {
	Controls []Standing `json:"controls"`
	Waiting  string     `json:"waiting,omitempty" doc:"why no probe has run yet"`
}

// Posture returns what the probes found.
func (c *Client) Posture(ctx context.Context) (Posture, error) {
	return ask[Posture](ctx, c, http.MethodGet, "/posture", nil)
}

// RunProbes has the probes run of the controls whose ids begin with one of only, or all. It does not wait for them.
func (c *Client) RunProbes(ctx context.Context, only []string) error {
	return c.call(ctx, http.MethodPost, "/posture/run", map[string][]string{"only": only}, nil)
}
