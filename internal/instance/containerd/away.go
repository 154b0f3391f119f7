package containerd

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"

	"github.com/bulwark-paas/bulwark"
)

// awayTime is how long a call waits for an engine that is being started again. With many images and instances that takes seconds.
const awayTime = 15 * time.Second

// reconnect has the connection come back soon after the engine has.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
	MinConnectTimeout: awayTime,
}

// patient has a call wait for the engine to be there, for a time. Nothing of it was sent until then.
func patient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	wait, cancel := context.WithTimeout(ctx, awayTime)
	defer cancel()
	for state := cc.GetState(); state != connectivity.Ready && state != connectivity.Shutdown; state = cc.GetState() {
		if state == connectivity.Idle {
			cc.Connect()
		}
		if !cc.WaitForStateChange(wait, state) {
			break // the call itself says why
		}
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// away tells of an error that it is the engine's absence.
func away(err error) bool { return errdefs.IsUnavailable(err) }

// failed makes an error that people can act on of one that says that the engine is not there, or went away in the middle, or that it has no
// room left: of the latter its text is all that comes here.
func failed(err error) error {
	_, said := errors.AsType[*bulwark.Error](err)
	switch {
	case err == nil || said:
		return err
	case strings.Contains(err.Error(), unix.ENOSPC.Error()):
		return bulwark.Fail(bulwark.KindBusy, "The machine's disk is full, so nothing starts; what runs goes on.", "Ask the operator to make room.", err)
	case !away(err):
		return err
	}
	return bulwark.Fail(bulwark.KindUnavailable, "The engine does not answer.", "Try again in a moment; on the machine, see bulwark status and containerd's log.", err)
}
