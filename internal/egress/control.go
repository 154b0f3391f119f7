package egress

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// Config is what the egress process is started with.
type Config struct {
	// Control is a listening unixpacket socket on which the node gives its orders. Run closes it.
	Control *net.UnixListener
	// NodeUID is the only user who may connect to Control.
	NodeUID uint32
	// Lookup resolves names; nil asks the host's own resolver, without its search domains.
	Lookup Lookup
	// Connected returns the subnets that the host itself is part of; nil reads /proc/net.
	Connected func() ([]netip.Prefix, error)
	// Idle is how long a connection may be silent both ways, DefaultIdle if 0.
	Idle time.Duration
	// Log gets the first connection of each kind; nil for none.
	Log *slog.Logger
}

// maxControls is how many connections the node may hold at once: one, and the one of its predecessor.
const maxControls = 8

// request is a message from the node. A registration comes with a listener's descriptor; its policy lies in sealed
// memory behind it, since an allow-list may be larger than a message.
type request struct {
	Verb  verb            `json:"verb"`
	Build bulwark.BuildID `json:"build,omitzero"`
}

type verb string

const (
	verbRegister verb = "register"
	verbReport   verb = "report"
	verbRelease  verb = "release"
	verbList     verb = "list"
	verbTransit  verb = "transit" // instances' way out: a table in sealed memory, and the listener
)

// response is the answer; a report comes as sealed memory.
type response struct {
	Error  *bulwark.Error    `json:"error,omitempty"`
	Builds []bulwark.BuildID `json:"builds,omitempty"`
}

const maxMemory = 4 << 20 // of a policy or a report

// Run serves until ctx ends; then it closes every listener and connection and returns nil. The node's own copies of the
// listeners live on, so that connections wait in them until the next process was given them.
func Run(ctx context.Context, c Config) error {
	if c.Control == nil {
		return bulwark.Failf(bulwark.KindInvalid, "The egress proxy was given no control socket.")
	}
	p := newProxy(settings{lookup: c.Lookup, connected: c.Connected, idle: c.Idle, log: c.Log})
	defer p.close()
	node := fdpass.Server{Listener: c.Control, User: c.NodeUID, Most: maxControls, Log: p.log, Serve: p.obey}
	if err := node.Run(ctx); err != nil {
		return bulwark.Fail(bulwark.KindInternal, "The egress proxy's control socket failed.", "", err)
	}
	return nil
}

// obey does what the node asks on one connection, until it hangs up.
func (p *proxy) obey(conn *fdpass.Conn) {
	for {
		var req request
		files, err := conn.Receive(&req)
		if err != nil {
			return
		}
		answer, file, err := p.order(req, files)
		fdpass.CloseAll(files)
		if err != nil {
			answer = response{Error: asError(err)}
		}
		if file != nil {
			err = conn.Send(answer, file)
			file.Close()
		} else {
			err = conn.Send(answer)
		}
		if err != nil {
			return
		}
	}
}

// order does what the node asks.
func (p *proxy) order(req request, files []*os.File) (response, *os.File, error) {
	switch req.Verb {
	case verbRegister:
		return response{}, nil, p.orderRegister(req.Build, files)
	case verbTransit:
		return response{}, nil, p.transit.order(files)
	case verbReport:
		b, err := p.get(req.Build)
		if err != nil {
			return response{}, nil, err
		}
		return inMemory(b.report())
	case verbRelease:
		b, err := p.release(req.Build)
		if err != nil {
			return response{}, nil, err
		}
		return inMemory(b.report())
	case verbList:
		p.mu.Lock()
		defer p.mu.Unlock()
		var ids []bulwark.BuildID
		for id := range p.builds {
			ids = append(ids, id)
		}
		return response{Builds: ids}, nil, nil
	}
	return response{}, nil, bulwark.Failf(bulwark.KindInvalid, "The egress proxy knows no such order.")
}

func (p *proxy) orderRegister(id bulwark.BuildID, files []*os.File) error {
	if len(files) != 2 || id == "" {
		return bulwark.Failf(bulwark.KindInvalid, "A registration needs a build, a listener and a policy.")
	}
	b, err := fdpass.ReadSealed(files[1], maxMemory)
	if err != nil {
		return err
	}
	var policy Policy
	if err := fdpass.Decode(b, &policy); err != nil {
		return err
	}
	if policy.App == "" {
		return bulwark.Failf(bulwark.KindInvalid, "A registration needs an app.")
	}
	ln, err := listener(files[0])
	if err != nil {
		return err
	}
	if err := p.register(id, ln, policy); err != nil {
		ln.Close()
		return err
	}
	return nil
}

// listener makes a TCP listener of f, and nothing else: a connected socket or one of another family would make this
// process serve somebody that the node did not mean.
func listener(f *os.File) (net.Listener, error) {
	bad := func(cause error) (net.Listener, error) {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The descriptor is not a listening TCP socket.", "", cause)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return bad(err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		ln.Close()
		return bad(nil)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		ln.Close()
		return bad(err)
	}
	listening := 0
	if cerr := raw.Control(func(fd uintptr) {
		listening, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}); cerr != nil || err != nil || listening == 0 {
		ln.Close()
		return bad(errors.Join(cerr, err))
	}
	return tcp, nil
}

func marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err == nil && len(b) > maxMemory {
		err = bulwark.Failf(bulwark.KindTooLarge, "The table is larger than %d bytes.", maxMemory)
	}
	return b, err
}

func inMemory(v any) (response, *os.File, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return response{}, nil, err
	}
	f, err := fdpass.Sealed("egress", b)
	return response{}, f, err
}

func asError(err error) *bulwark.Error {
	if e, ok := errors.AsType[*bulwark.Error](err); ok {
		return e
	}
	return &bulwark.Error{Kind: bulwark.KindInternal, Message: "The egress proxy failed.", Cause: err}
}
