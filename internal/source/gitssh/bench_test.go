package gitssh_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark/internal/source/gitssh"
)

// BenchmarkPush measures what git and SSH cost in a push whose deploy takes no time: "whole-ms" is git push as a person
// waits for it, "before-ms" from Gate.Begin to Gate.Receive, "pack-ms" the pack of the tree, "after-ms" from Receive's
// return to the end of git push.
func BenchmarkPush(b *testing.B) {
	for _, files := range []int{10, 2000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			r := newRig(b)
			for i := range files {
				r.write(fmt.Sprintf("d%d/f%d", i%50, i), fmt.Sprintf("%0*d", 3000, i*7919))
			}
			r.git("add", ".")
			r.git("commit", "-q", "-m", "Files")
			var before, pack, after, whole time.Duration
			var returned time.Time
			r.gate.on(func(ctx context.Context, p gitssh.Push, _ io.Writer) error {
				before += time.Since(r.gate.when())
				start := time.Now()
				rc, err := p.Pack(ctx)
				if err != nil {
					return err
				}
				defer rc.Close()
				_, err = io.Copy(io.Discard, rc)
				pack += time.Since(start)
				returned = time.Now()
				return err
			})
			r.mustPush("bulwark", "main")
			before, pack = 0, 0
			for i := range b.N {
				b.StopTimer()
				r.commit("count", fmt.Sprint(i), "Change")
				b.StartTimer()
				start := time.Now()
				r.mustPush("bulwark", "main")
				whole += time.Since(start)
				after += time.Since(returned)
			}
			for name, d := range map[string]time.Duration{"whole-ms": whole, "before-ms": before, "pack-ms": pack, "after-ms": after} {
				b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name)
			}
		})
	}
}
