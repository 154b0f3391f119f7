// Package postureapi is how the prober's records reach the server, and with them people: their form, and a client of the prober's
// socket, HTTP and JSON, which only the server's user and root can connect to.
//
// Whoever owns the server can ask for a run and read records. It can withhold one, and cannot make one: they are signed.
package postureapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Outcome is what a run of a probe amounts to.
type Outcome string

// The outcomes.
const (
	Pass    Outcome = "pass"
	Fail    Outcome = "fail"
	Unknown Outcome = "unknown"
)

// Check is one thing that a probe tried, or proved.
type Check struct {
	What   string `json:"what"`
	Held   bool   `json:"held"`
	Detail string `json:"detail,omitempty"`
}

// Result is the record of one run.
type Result struct {
	Number  uint64           `json:"number"` // over all controls, without a gap
	Run     uint64           `json:"run"`    // of this control, without a gap
	Control string           `json:"control"`
	Promise string           `json:"promise"`
	Tries   string           `json:"tries"`
	Version int              `json:"version"` // of the probe
	Program string           `json:"program"` // version of Bulwark
	Began   time.Time        `json:"began"`
	Took    bulwark.Duration `json:"took"`
	Every   bulwark.Duration `json:"every"`
	// Asked tells that somebody asked for this run; Manual, that the operator has probes run only then.
	Asked   bool    `json:"asked,omitempty"`
	Manual  bool    `json:"manual,omitempty"`
	Outcome Outcome `json:"outcome"`
	Why     string  `json:"why"`
	// Proven is what shows that the attacks meant something, Attacks what was tried.
	Proven  []Check `json:"proven"`
	Attacks []Check `json:"attacks"`
	// Before is the digest of the record with the number before this one.
	Before bulwark.Digest `json:"before,omitempty"`
}

// Stale tells that a record is too old to say anything: it may be two periods old, and a minute.
func (r *Result) Stale(now time.Time) bool {
	return now.Sub(r.Began) > 2*time.Duration(r.Every)+time.Minute || r.Began.Sub(now) > time.Minute
}

// Standing is where a control stands: its newest signed record, if it ever ran.
type Standing struct {
	Control string           `json:"control"`
	Promise string           `json:"promise"`
	Every   bulwark.Duration `json:"every"`
	Running bool             `json:"running,omitempty"`
	Record  []byte           `json:"record,omitempty"` // envelope
}

// Posture is where all controls stand.
type Posture struct {
	Controls []Standing `json:"controls"`
	// Waiting says why no probe has run yet.
	Waiting string `json:"waiting,omitempty"`
}

// Run asks for runs now: of the controls whose id begins with one of Only, or of all.
type Run struct {
	Only []string `json:"only,omitempty"`
}

// Client asks the prober.
type Client struct{ http *http.Client }

// NewClient returns a client for the prober's socket at path.
func NewClient(path string) *Client {
	return &Client{http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}, DisableKeepAlives: true}}}
}

// Posture returns where all controls stand.
func (c *Client) Posture(ctx context.Context) (p Posture, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/posture", nil, &p)
}

// Run asks for runs and returns at once.
func (c *Client) Run(ctx context.Context, r Run) error {
	return c.call(ctx, http.MethodPost, "/v1/run", r, nil)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://posture"+path, &body)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return bulwark.Fail(bulwark.KindUnavailable, "The process that runs the probes does not answer.", "See bulwark status, and the log of the process posture.", err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		var e bulwark.Error
		if json.NewDecoder(res.Body).Decode(&e) == nil && e.Kind != "" {
			return &e
		}
		return bulwark.Failf(bulwark.KindUnavailable, "The process that runs the probes answers %s.", res.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(out)
}
