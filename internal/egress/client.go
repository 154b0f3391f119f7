package egress

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// Client is the node's side of the control socket. Its methods may be called by several goroutines. After an error of
// kind unavailable it is of no more use: the node dials again and registers all its builds anew.
type Client struct {
	conn *fdpass.Conn
	mu   sync.Mutex // one order at a time: answers come in the order of the questions
}

// Dial connects to the control socket at path.
func Dial(path string) (*Client, error) {
	conn, err := fdpass.Dial(path)
	if err != nil {
		return nil, away(err)
	}
	return NewClient(conn), nil
}

// NewClient makes a Client of a connection, which it then owns.
func NewClient(conn *fdpass.Conn) *Client { return &Client{conn: conn} }

// Close hangs up. The builds stay registered.
func (c *Client) Close() error { return c.conn.Close() }

// Register has the proxy serve a build on ln, a listening TCP socket inside the builder's network namespace. ln stays
// the caller's, who keeps it for the next registration; a build that is registered already gets the new listener and
// policy.
func (c *Client) Register(ctx context.Context, build bulwark.BuildID, ln *os.File, policy Policy) error {
	b, err := json.Marshal(policy)
	if err != nil {
		return err
	}
	if len(b) > maxMemory {
		return bulwark.Failf(bulwark.KindTooLarge, "The allow-list of %s is too long.", policy.App)
	}
	memory, err := fdpass.Sealed("policy", b)
	if err != nil {
		return err
	}
	defer memory.Close()
	_, _, err = c.call(ctx, request{Verb: verbRegister, Build: build}, ln, memory)
	return err
}

// Report returns what a build reached and was refused so far.
func (c *Client) Report(ctx context.Context, build bulwark.BuildID) (Report, error) {
	return c.report(ctx, request{Verb: verbReport, Build: build})
}

// Release closes a build's listener and connections and returns its final report.
func (c *Client) Release(ctx context.Context, build bulwark.BuildID) (Report, error) {
	return c.report(ctx, request{Verb: verbRelease, Build: build})
}

// List returns the builds that are registered, so that a node which was restarted can release those that are over.
func (c *Client) List(ctx context.Context) ([]bulwark.BuildID, error) {
	answer, _, err := c.call(ctx, request{Verb: verbList})
	slices.Sort(answer.Builds)
	return answer.Builds, err
}

func (c *Client) report(ctx context.Context, req request) (Report, error) {
	_, b, err := c.call(ctx, req)
	if err != nil {
		return Report{}, err
	}
	var r Report
	return r, fdpass.Decode(b, &r)
}

// call sends an order and returns the answer, and the sealed memory that came with it, if any.
func (c *Client) call(ctx context.Context, req request, files ...*os.File) (response, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return response{}, nil, err
	}
	// Once an order was sent and its answer was not awaited, the next answer would be the wrong one: a context that
	// ends closes the connection.
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	fail := func(err error) (response, []byte, error) {
		c.conn.Close()
		if ctx.Err() != nil {
			return response{}, nil, ctx.Err()
		}
		return response{}, nil, away(err)
	}
	if err := c.conn.Send(req, files...); err != nil {
		return fail(err)
	}
	var answer response
	got, err := c.conn.Receive(&answer)
	if err != nil {
		return fail(err)
	}
	defer fdpass.CloseAll(got)
	if !stop() {
		return fail(io.ErrClosedPipe)
	}
	if answer.Error != nil {
		return response{}, nil, answer.Error
	}
	if len(got) == 0 {
		return answer, nil, nil
	}
	b, err := fdpass.ReadSealed(got[0], maxMemory)
	return answer, b, err
}

func away(cause error) error {
	return bulwark.Fail(bulwark.KindUnavailable, "The egress proxy is away.", "Try again.", cause)
}
