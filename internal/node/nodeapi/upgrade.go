package nodeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
)

// Run passes a statement app.run to the node. For a detached command it returns the answer; for any other the connection, on
// which both ends speak what only they can read.
func (c *Client) Run(ctx context.Context, in Document) (*Ran, io.ReadWriteCloser, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/v1/run", bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Upgrade)
	res, err := c.send(req)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if conn, ok := res.Body.(io.ReadWriteCloser); ok {
			return nil, conn, nil
		}
	}
	defer res.Body.Close()
	var out Ran
	return &out, nil, json.NewDecoder(res.Body).Decode(&out)
}
