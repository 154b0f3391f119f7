package resolver

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// Client is the node's side of the control socket. Its methods may be called by several goroutines. After an error of
// kind unavailable it is of no more use: the node dials again, sends its table, then its sockets, and subscribes anew.
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

// Close hangs up. The table and the sockets stay in use.
func (c *Client) Close() error { return c.conn.Close() }

// SetTable replaces the table as a whole. The node sends it before the first sockets, or instances are refused.
func (c *Client) SetTable(ctx context.Context, t Table) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if len(b) > maxTable {
		return bulwark.Failf(bulwark.KindTooLarge, "The table for the resolver is larger than %d bytes.", maxTable)
	}
	f, err := fdpass.Sealed("table", b)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.call(ctx, request{Verb: verbTable}, f)
}

// Listen has the resolver answer on sockets (bound UDP, listening TCP, up to fdpass.MaxFiles), which stay the caller's
// too. Sockets that were handed over under the same name before are closed.
func (c *Client) Listen(ctx context.Context, name string, sockets ...*os.File) error {
	return c.call(ctx, request{Verb: verbListen, Name: name}, sockets...)
}

// Unlisten closes the resolver's copies of the sockets of a name.
func (c *Client) Unlisten(ctx context.Context, name string) error {
	return c.call(ctx, request{Verb: verbUnlisten, Name: name})
}

// Subscribe calls each for every host on an allow-list that was resolved: first for all that is known, then as it comes.
// An instance gets its answer when each has returned, so each opens the firewall and does nothing else. Subscribe
// returns when ctx ends, each fails or the resolver is away; the Client is then closed. It can do nothing beside it.
func (c *Client) Subscribe(ctx context.Context, each func(Resolved) error) error {
	if err := c.call(ctx, request{Verb: verbSubscribe}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.conn.Close()
	defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })()
	for {
		var got response
		files, err := c.conn.Receive(&got)
		fdpass.CloseAll(files)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return away(err)
		}
		if got.Resolved == nil {
			return away(io.ErrUnexpectedEOF)
		}
		if err := each(*got.Resolved); err != nil {
			return err
		}
		if got.Seq == 0 {
			continue
		}
		if err := c.conn.Send(request{Verb: verbAck, Ack: got.Seq}); err != nil {
			return away(err)
		}
	}
}

func (c *Client) call(ctx context.Context, req request, files ...*os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	// Once an order was sent and its answer was not awaited, the next answer would be the wrong one: a context that
	// ends closes the connection.
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var answer response
	err := c.conn.Send(req, files...)
	if bulwark.KindOf(err) == bulwark.KindTooLarge {
		return err // nothing was sent
	}
	if err == nil {
		var got []*os.File
		got, err = c.conn.Receive(&answer)
		fdpass.CloseAll(got)
	}
	if err == nil && !stop() {
		err = io.ErrClosedPipe
	}
	if err != nil {
		c.conn.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return away(err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

func away(cause error) error {
	return bulwark.Fail(bulwark.KindUnavailable, "The resolver is away.", "Try again.", cause)
}
