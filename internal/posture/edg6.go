package posture

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

func edg6() Control {
	return Control{ID: "EDG-6", Version: 1, Every: daily,
		Promise: "A shield can be raised over all apps within five seconds when a hole is published.",
		Tries: "Has the node raise a virtual patch against a mark that nobody else sends, first in its dry run and then in earnest, and sends the mark to an app of its own " +
			"until it is refused.",
		Probe: probeEDG6}
}

// raisedWithin is the promise.
const raisedWithin = 5 * time.Second

func probeEDG6(ctx context.Context, w *World, r *Record) error {
	_, v, err := w.model(ctx)
	if err != nil {
		return err
	}
	mark := randomHex(16)
	exploit := func() (int, error) {
		a, err := v.ask(ctx, http.MethodGet, "/", "", nodeapi.CanaryHeader, mark)
		if err != nil {
			return 0, err
		}
		return a.status, nil
	}
	if err := w.Person.node.Call(ctx, "canary", nodeapi.Canary{Mark: mark, DryRun: true}, &struct{}{}); err != nil {
		return err
	}
	status, err := exploit()
	if err != nil {
		return err
	}
	r.Proven("the exploit gets through where the patch is only tried out", status == http.StatusOK, fmt.Sprint(status))
	began := time.Now()
	if err := w.Person.node.Call(ctx, "canary", nodeapi.Canary{Mark: mark}, &struct{}{}); err != nil {
		return err
	}
	took := time.Duration(0)
	for {
		if status, err = exploit(); err != nil {
			return err
		}
		if took = time.Since(began); status == http.StatusForbidden || took > 2*raisedWithin {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.Refused("send an exploit five seconds after a patch against it was raised", status == http.StatusForbidden && took <= raisedWithin, fmt.Sprintf("%d after %s", status, took.Round(time.Millisecond)))
	a, err := v.ask(ctx, http.MethodGet, "/", "", nodeapi.CanaryHeader, randomHex(16))
	if err != nil {
		return err
	}
	r.Proven("what is harmless still gets through", a.status == http.StatusOK, fmt.Sprint(a.status))
	return w.Person.node.Call(ctx, "canary", nodeapi.Canary{}, &struct{}{})
}
