package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/bulwark-paas/bulwark"
)

// Ran is the answer to a detached command.
type Ran struct {
	Welcome []byte `json:"welcome" doc:"the node's signed answer, which names the instance"`
}

// Run takes a statement of kind app.run. For a detached command it returns the answer; for any other the connection with the
// node, on which all is encrypted from end to end: see package terminal. The connection is the caller's to close.
func (c *Client) Run(ctx context.Context, app bulwark.AppName, s Signed) (*Ran, io.ReadWriteCloser, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/apps/"+esc(string(app))+"/run", bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "bulwark-terminal")
	res, err := c.oldHTTP().send(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	if conn, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		return nil, conn, nil
	}
	defer res.Body.Close()
	var out Ran
	return &out, nil, json.NewDecoder(res.Body).Decode(&out)
}

// oldHTTP is the same client with HTTP/1.1, in which a request can become a connection.
func (c *Client) oldHTTP() *Client {
	t, ok := c.http.Transport.(*http.Transport)
	if !ok {
		return c
	}
	t = t.Clone()
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	return &Client{base: c.base, http: &http.Client{Transport: t, CheckRedirect: c.http.CheckRedirect}}
}
