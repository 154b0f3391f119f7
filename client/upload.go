package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/bulwark-paas/bulwark"
)

// Upload sends what a statement of kind app.deploy is about to name: a folder as a tar stream, or an OCI archive. source
// is the digest that the statement has, size the number of bytes in body. An error of body is returned as it is.
func (c *Client) Upload(ctx context.Context, app bulwark.AppName, source string, body io.Reader, size int64) error {
	in := &upload{r: body}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+"/v1/apps/"+esc(string(app))+"/sources?digest="+url.QueryEscape(source), in)
	if err != nil {
		return err
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := c.send(ctx, req)
	if failed := in.failed(); failed != nil && ctx.Err() == nil {
		err = failed
	}
	if res != nil {
		res.Body.Close()
	}
	return err
}

// upload remembers why the body could not be read: the connection's own error hides it.
type upload struct {
	r   io.Reader
	mu  sync.Mutex // guards err
	err error
}

// Read implements [io.Reader].
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		u.mu.Lock()
		u.err = err
		u.mu.Unlock()
	}
	return n, err
}

func (u *upload) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
