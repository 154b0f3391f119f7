package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Client calls the verbs.
type Client struct {
	http *http.Client
}

// NewClient returns a client for the node's socket at path.
func NewClient(path string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		MaxIdleConnsPerHost: 16,
	}}}
}

// Call posts in to a verb and decodes the answer into out; out may be nil.
func (c *Client) Call(ctx context.Context, verb string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	for again := 0; ; again++ {
		err := c.once(ctx, verb, b, out)
		if again == attempts || bulwark.KindOf(err) != bulwark.KindUnavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(again+1) * 100 * time.Millisecond):
		}
	}
}

// attempts is how often a verb is asked again when the node went away in the middle: its socket outlives it, each verb may
// be repeated, and a new node takes part of a second.
const attempts = 5

func (c *Client) once(ctx context.Context, verb string, body []byte, out any) error {
	res, err := c.do(ctx, http.MethodPost, verb, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	b, err := io.ReadAll(res.Body) // the node bounds what it answers
	if err != nil {
		return away(err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		// It is here, and says what is not understood: asking again leads to the same. What is not understood is nobody's bad input.
		return fmt.Errorf("nodeapi: the answer to %s: %v", verb, err) //nolint:errorlint // as above
	}
	return nil
}

// Upload sends a source to a verb, with query parameters.
func (c *Client) Upload(ctx context.Context, verb string, query url.Values, body io.Reader) error {
	res, err := c.do(ctx, http.MethodPut, verb+"?"+query.Encode(), "application/octet-stream", body)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Build runs or joins a build and passes each event on; it returns what was built. Along with an error it returns what
// the build had reached, nil if that is not known.
func (c *Client) Build(ctx context.Context, in Build, event func(BuildEvent)) (*Built, error) {
	var out *Built
	var reached []Reached
	err := Stream(ctx, c, "build", in, func(e BuildEvent) error {
		if e.Reached != nil {
			reached = e.Reached
			return nil
		}
		if e.Error != nil {
			return e.Error
		}
		if e.Done != nil {
			out = e.Done
			return nil
		}
		event(e)
		return nil
	})
	if err == nil && out == nil {
		err = away(io.ErrUnexpectedEOF)
	}
	if err != nil && reached != nil {
		out = &Built{Reached: reached}
	}
	return out, err
}

// Stream posts in to a verb that answers with JSON lines and passes each on, until the end, an error of f or ctx.
func Stream[T any](ctx context.Context, c *Client, verb string, in any, f func(T) error) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	res, err := c.do(ctx, http.MethodPost, verb, "application/json", bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 64<<20) // the list of thousands of instances is one line
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return away(err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return away(err)
	}
	return nil
}

// Raw posts in to a verb and returns the body of the answer, which the caller closes.
func (c *Client) Raw(ctx context.Context, verb string, in any) (io.ReadCloser, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	res, err := c.do(ctx, http.MethodPost, verb, "application/json", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

func (c *Client) do(ctx context.Context, method, verb, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node/v1/"+verb, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	return c.send(req)
}

// send returns an answer that is none of an error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
		return nil, away(err)
	}
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusSwitchingProtocols {
		return res, nil
	}
	defer res.Body.Close()
	var e bulwark.Error
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&e); err != nil || e.Kind == "" {
		return nil, away(errors.Join(errors.New(res.Status), err))
	}
	return nil, &e
}

func away(err error) error {
	return bulwark.Fail(bulwark.KindUnavailable, "The node does not answer.", "Try again; on the machine, see bulwark status.", err)
}
