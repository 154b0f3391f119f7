package edge

import (
	"context"
	"net"
	"slices"

	"github.com/bulwark-paas/bulwark"
)

func dialer2(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// sameTable says whether two tables mean the same.
func sameTable(a, b bulwark.Table) bool {
	if a.Generation != b.Generation || len(a.Routes) != len(b.Routes) || len(a.Apps) != len(b.Apps) {
		return false
	}
	for h, id := range a.Routes {
		if b.Routes[h] != id {
			return false
		}
	}
	for id, x := range a.Apps {
		y, ok := b.Apps[id]
		if !ok || x.Name != y.Name || x.FirstByte != y.FirstByte || x.Idle != y.Idle || x.Queue != y.Queue || !slices.Equal(x.Instances, y.Instances) {
			return false
		}
	}
	return true
}
