package containerd

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/bulwark-paas/bulwark"
)

// People are told of an engine that is away or has no room; what else it says is for the log.
func TestFailed(t *testing.T) {
	own := bulwark.Failf(bulwark.KindConflict, "no space left on device")
	for name, c := range map[string]struct {
		err  error
		kind bulwark.Kind
	}{
		"away":              {fmt.Errorf("create: %w", errdefs.ErrUnavailable), bulwark.KindUnavailable},
		"no room":           {errors.New("write /x/meta.db: no space left on device"), bulwark.KindBusy},
		"no room, and away": {errors.Join(errdefs.ErrUnavailable, errors.New("mkdir /x: no space left on device")), bulwark.KindBusy},
		"broken":            {errors.New("write /x/meta.db: input/output error"), bulwark.KindInternal},
		"said before":       {own, bulwark.KindConflict},
	} {
		if got := failed(c.err); bulwark.KindOf(got) != c.kind || !errors.Is(got, c.err) {
			t.Errorf("%s: %v, of kind %s", name, got, bulwark.KindOf(got))
		}
	}
	if failed(nil) != nil {
		t.Error("nothing became a failure")
	}
}
