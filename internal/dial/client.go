package dial

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// Client is the node's side. After an error that is not a *bulwark.Error of dial's, and after dial's restart, make a
// new one and Sync. Its methods may be called by several goroutines.
type Client struct {
	mu   sync.Mutex // one request and its reply at a time
	conn *fdpass.Conn
}

// Entry is an instance to register: netns stays the caller's.
type Entry struct {
	Registration bulwark.Registration
	NetNS        *os.File
}

// Connect connects to the node's socket of dial at path.
func Connect(path string) (*Client, error) {
	conn, err := fdpass.Dial(path)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindUnavailable, "Dial cannot be reached.", "Try again when it has started.", err)
	}
	return &Client{conn: conn}, nil
}

// Close hangs up. What was registered stays so.
func (c *Client) Close() error { return c.conn.Close() }

// Register makes an instance known or replaces what is known of it.
func (c *Client) Register(ctx context.Context, e Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.register(ctx, e)
}

func (c *Client) register(ctx context.Context, e Entry) error {
	// Dial, which has a namespace of its own, cannot know it for the host's.
	if same, err := here(e.NetNS); err != nil || same {
		return bulwark.Fail(bulwark.KindInvalid, "The instance's network namespace is that of the host.", "Register its own one.", err)
	}
	_, err := c.ask(ctx, nodeRequest{Op: opRegister, Registration: &e.Registration}, e.NetNS)
	return err
}

// Unregister forgets an instance; connections that were made stay. KindNotFound if it is not known.
func (c *Client) Unregister(ctx context.Context, id bulwark.InstanceID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.ask(ctx, nodeRequest{Op: opUnregister, Instance: id})
	return err
}

// List returns the ids of all that is registered, in order.
func (c *Client) List(ctx context.Context) ([]bulwark.InstanceID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []bulwark.InstanceID
	for {
		req := nodeRequest{Op: opList}
		if len(all) > 0 {
			req.Instance = all[len(all)-1]
		}
		reply, err := c.ask(ctx, req)
		if err != nil {
			return nil, err
		}
		all = append(all, reply.Instances...)
		if len(reply.Instances) < listPage {
			return all, nil
		}
	}
}

// Sync replaces all that is registered by entries, at once or, if it fails, not at all.
func (c *Client) Sync(ctx context.Context, entries []Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.ask(ctx, nodeRequest{Op: opSync}); err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.register(ctx, e); err != nil {
			// The connection is in the middle of a sync: without it, what comes next would be staged and lost.
			c.conn.Close()
			return err
		}
	}
	_, err := c.ask(ctx, nodeRequest{Op: opCommit})
	return err
}

// ask sends a request and waits for its reply. The caller holds mu.
func (c *Client) ask(ctx context.Context, req nodeRequest, files ...*os.File) (nodeReply, error) {
	var reply nodeReply
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	err := c.conn.Send(req, files...)
	var got []*os.File
	if err == nil {
		got, err = c.conn.Receive(&reply)
		fdpass.CloseAll(got)
	}
	if !stop() && err == nil {
		err = ctx.Err() // the deadline has been spoilt
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		c.conn.Close() // the next reply would belong to this request
		return nodeReply{}, bulwark.Fail(bulwark.KindUnavailable, "Dial did not answer.", "Connect again and sync.", err)
	}
	if reply.Error != nil {
		return nodeReply{}, reply.Error
	}
	return reply, nil
}

// here tells whether a network namespace is the one that this process is in.
func here(netns *os.File) (bool, error) {
	own, err := Home()
	if err != nil {
		return false, err
	}
	defer own.Close()
	var a, b unix.Stat_t
	if err := errors.Join(stat(own, &a), stat(netns, &b)); err != nil {
		return false, err
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}
