package supervise

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
)

// Client asks the supervisor of an installation. Only root's requests are answered.
type Client struct{ inst *install.Installation }

// NewClient returns a client; each call connects anew.
func NewClient(inst *install.Installation) *Client { return &Client{inst: inst} }

// Status returns the state of every process, in the order of their start.
func (c *Client) Status(ctx context.Context) ([]Status, error) {
	a, err := c.call(ctx, call{Verb: "status"})
	return a.Status, err
}

// Restart replaces one process and returns when the new one is ready.
func (c *Client) Restart(ctx context.Context, process string) error {
	_, err := c.call(ctx, call{Verb: "restart", Process: process})
	return err
}

// Down stops the instances and all processes and returns when they have ended. With force it goes on when the node
// cannot stop the instances.
func (c *Client) Down(ctx context.Context, force bool) error {
	_, err := c.call(ctx, call{Verb: "down", Force: force})
	return err
}

// Leave ends the supervisor alone: the processes go on serving and the next `bulwark up` takes them over. It is the way
// to put a new version of the supervisor in place.
func (c *Client) Leave(ctx context.Context) error {
	_, err := c.call(ctx, call{Verb: "leave"})
	return err
}

func (c *Client) call(ctx context.Context, r call) (answer, error) {
	path := c.inst.Socket(install.SupervisorSocket)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return answer{}, bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The installation at %s does not answer.", c.inst.Root),
			"Is it running, and are you root? Start it with: bulwark up --root "+c.inst.Root, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var a answer
	if err = json.NewEncoder(conn).Encode(r); err == nil {
		err = json.NewDecoder(conn).Decode(&a)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return answer{}, bulwark.Fail(bulwark.KindUnavailable, "The supervisor did not answer.", "See its log.", err)
	}
	if a.Error != nil {
		return a, a.Error
	}
	if r.Verb == "down" || r.Verb == "leave" {
		// Until the end of the connection: then all is let go of, and the next `bulwark up` can begin.
		if _, err := io.Copy(io.Discard, conn); err != nil && ctx.Err() != nil {
			return answer{}, ctx.Err()
		}
	}
	return a, nil
}
