package resolver

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

const (
	maxControls = 8        // connections of the node: orders, a subscription, and those of its predecessor
	maxTable    = 64 << 20 // bytes
)

// request is a message from the node. A table comes as sealed memory, since it may be larger than a message.
type request struct {
	Verb verb   `json:"verb"`
	Name string `json:"name,omitempty"` // of sockets
	Ack  uint64 `json:"ack,omitempty"`
}

type verb string

const (
	verbTable     verb = "table"
	verbListen    verb = "listen"
	verbUnlisten  verb = "unlisten"
	verbSubscribe verb = "subscribe"
	verbAck       verb = "ack"
)

// response is the answer to a request, or after a subscription a report.
type response struct {
	Error    *bulwark.Error `json:"error,omitempty"`
	Seq      uint64         `json:"seq,omitempty"` // to be acknowledged; 0 for what was known before
	Resolved *Resolved      `json:"resolved,omitempty"`
}

// Run serves until ctx ends; then it closes every socket and returns nil. The node's own copies of the sockets live on,
// so that queries wait in them until the next process was given them.
func Run(ctx context.Context, c Config) error {
	if c.Control == nil {
		return bulwark.Failf(bulwark.KindInvalid, "The resolver was given no control socket.")
	}
	ctx, cancel := context.WithCancel(ctx)
	r := newResolver(ctx, c)
	defer r.close()
	defer cancel()
	node := fdpass.Server{Listener: c.Control, User: c.NodeUID, Most: maxControls, Log: r.log, Serve: r.obey}
	if err := node.Run(ctx); err != nil {
		return bulwark.Fail(bulwark.KindInternal, "The resolver's control socket failed.", "", err)
	}
	return nil
}

// obey does what the node asks on one connection, until it hangs up.
func (r *resolver) obey(conn *fdpass.Conn) {
	for {
		var req request
		files, err := conn.Receive(&req)
		if err != nil {
			return
		}
		if req.Verb == verbSubscribe {
			fdpass.CloseAll(files)
			r.subscription(conn)
			return
		}
		err = r.order(req, files)
		fdpass.CloseAll(files)
		var answer response
		if err != nil {
			answer.Error = asError(err)
		}
		if conn.Send(answer) != nil {
			return
		}
	}
}

func (r *resolver) order(req request, files []*os.File) error {
	switch req.Verb {
	case verbTable:
		if len(files) != 1 {
			return bulwark.Failf(bulwark.KindInvalid, "A table comes in one file.")
		}
		b, err := fdpass.ReadSealed(files[0], maxTable)
		if err != nil {
			return err
		}
		var t Table
		if err := fdpass.Decode(b, &t); err != nil {
			return err
		}
		return r.setTable(t)
	case verbListen:
		if len(files) == 0 || req.Name == "" || len(req.Name) > 255 {
			return bulwark.Failf(bulwark.KindInvalid, "Sockets need a name of 1 to 255 bytes, and there must be one at least.")
		}
		return r.listen(req.Name, files)
	case verbUnlisten:
		return r.unlisten(req.Name)
	}
	return bulwark.Failf(bulwark.KindInvalid, "The resolver knows no such order.")
}

// subscription turns a connection into a stream of reports; what comes back are acknowledgements.
func (r *resolver) subscription(conn *fdpass.Conn) {
	sub := r.subscribers.add()
	defer r.subscribers.remove(sub)
	defer sub.hangUp()
	var writer sync.WaitGroup
	defer writer.Wait()
	defer conn.Close() // first of all three: it ends the writer
	if conn.Send(response{}) != nil {
		return
	}
	writer.Go(func() {
		defer conn.Close() // ends the reader below
		for _, v := range r.known() {
			if conn.Send(response{Resolved: &v}) != nil {
				return
			}
		}
		for {
			select {
			case <-sub.gone:
				return
			case t := <-sub.queue:
				if conn.Send(response{Seq: t.seq, Resolved: &t.r}) != nil {
					return
				}
			}
		}
	})
	for {
		var req request
		files, err := conn.Receive(&req)
		fdpass.CloseAll(files)
		if err != nil || req.Verb != verbAck {
			sub.hangUp()
			return
		}
		sub.acknowledge(req.Ack)
	}
}

func asError(err error) *bulwark.Error {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return e
	}
	return &bulwark.Error{Kind: bulwark.KindInternal, Message: "The resolver failed.", Cause: err}
}
