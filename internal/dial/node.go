package dial

import (
	"errors"
	"io"
	"net"
	"os"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/fdpass"
)

// What the node may ask. A full replacement is sync, any number of register, commit, over one connection: one packet
// would not hold it. Between the two, requests still see what was registered before.
const (
	opRegister   = "register" // with the namespace's descriptor
	opUnregister = "unregister"
	opList       = "list"
	opSync       = "sync"
	opCommit     = "commit"
)

// nodeRequest is a message of the node.
type nodeRequest struct {
	Op           string                `json:"op"`
	Registration *bulwark.Registration `json:"registration,omitempty"`
	Instance     bulwark.InstanceID    `json:"instance,omitempty"` // unregister this one; list those behind it
}

// nodeReply answers it.
type nodeReply struct {
	Error     *bulwark.Error       `json:"error,omitempty"`
	Instances []bulwark.InstanceID `json:"instances,omitempty"`
}

// listPage is how many ids one reply carries.
const listPage = 1000

// nodeConn is one connection of the node.
type nodeConn struct {
	registry *registry
	staged   map[bulwark.InstanceID]*target // not nil between sync and commit
}

// serveNode answers one message after the other until the node hangs up or sends what cannot be read.
func (s *server) serveNode(conn *fdpass.Conn) {
	n := &nodeConn{registry: s.registry}
	defer func() { closeTargets(n.staged) }()
	for {
		var req nodeRequest
		files, err := conn.Receive(&req)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.cfg.Logger.Error("lost the node", "error", err)
			}
			return
		}
		var reply nodeReply
		if err := n.handle(req, files, &reply); err != nil {
			s.cfg.Logger.Warn("refused a message of the node", "op", req.Op, "error", err)
			if e, ok := errors.AsType[*bulwark.Error](err); ok {
				reply.Error = e
			} else {
				reply.Error = &bulwark.Error{Kind: bulwark.KindInternal, Message: "Dial could not do that."}
			}
		}
		if err := conn.Send(reply); err != nil {
			return
		}
	}
}

// handle does one request. It takes over files.
func (n *nodeConn) handle(req nodeRequest, files []*os.File, reply *nodeReply) error {
	if req.Op == opRegister {
		return n.register(req.Registration, files)
	}
	fdpass.CloseAll(files)
	if len(files) > 0 {
		return bulwark.Invalid("Only a registration comes with a descriptor.", "")
	}
	switch req.Op {
	case opUnregister:
		if !n.registry.remove(req.Instance) {
			return bulwark.Fail(bulwark.KindNotFound, "That instance is not registered.", "", nil)
		}
	case opList:
		reply.Instances = n.registry.after(req.Instance, listPage)
	case opSync:
		closeTargets(n.staged)
		n.staged = map[bulwark.InstanceID]*target{}
	case opCommit:
		if n.staged == nil {
			return bulwark.Fail(bulwark.KindConflict, "There is nothing to commit.", "Begin with sync.", nil)
		}
		n.registry.replace(n.staged)
		n.staged = nil
	default:
		return bulwark.Invalid("Dial does not know that operation.", "Let node and dial be of the same version.")
	}
	return nil
}

func (n *nodeConn) register(reg *bulwark.Registration, files []*os.File) error {
	if reg == nil || len(files) != 1 {
		fdpass.CloseAll(files)
		return bulwark.Invalid("A registration comes with exactly one descriptor, the network namespace's.", "")
	}
	t, err := n.registry.newTarget(*reg, files[0])
	if err != nil {
		files[0].Close()
		return err
	}
	if n.staged == nil {
		n.registry.put(reg.Instance, t)
		return nil
	}
	if old := n.staged[reg.Instance]; old != nil {
		old.netns.Close()
	}
	n.staged[reg.Instance] = t
	return nil
}
