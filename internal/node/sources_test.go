package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// A deploy is canceled after its source came and before the build was asked for, or while the build waits for its turn: the source goes
// with it. And who brought one and never came back loses it after a while.
func TestSourceOfACanceledBuildGoes(t *testing.T) {
	for name, let := range map[string]func(*testing.T, *builds, nodeapi.Build){
		"before it was asked for": func(_ *testing.T, b *builds, in nodeapi.Build) { b.cancel(in.Build) },
		"in the queue": func(t *testing.T, b *builds, in nodeapi.Build) {
			var said []string
			must(t, b.build(t.Context(), in, func(e nodeapi.BuildEvent) error {
				if said = append(said, e.Log); e.Log != "" {
					_, err := os.Stat(b.dir(in.Build))
					b.cancel(in.Build)
					return err
				}
				return nil
			}))
			if len(said) != 2 {
				t.Fatalf("it did not wait: %q", said)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, push := pushedLedger(t)
			b := &builds{ledger: l, log: slog.New(slog.DiscardHandler), runs: map[bulwark.BuildID]*buildRun{}, slots: make(chan struct{})}
			b.config.Dir = t.TempDir()
			in := nodeapi.Build{Build: bulwark.NewBuildID(), Cause: push}
			must(t, os.MkdirAll(filepath.Join(b.dir(in.Build), "src"), 0o700))
			let(t, b, in)
			left, err := os.ReadDir(b.config.Dir)
			must(t, err)
			if len(left) > 0 {
				t.Fatalf("%s is left", left[0].Name())
			}
		})
	}
}
