package buildertest_test

import (
	"os"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark/internal/build/builder/buildertest"
)

// BenchmarkWarmGo measures a build after one file was edited, from before the container is made until it is gone.
func BenchmarkWarmGo(b *testing.B) {
	app, src := newApp(b), example(b, "go-hello")
	built(b, app, buildertest.Build{Source: src})
	var own time.Duration
	for b.Loop() {
		text, _ := os.ReadFile(src + "/main.go")
		write(b, src+"/main.go", string(text)+"\n// "+time.Now().String()+"\n")
		out := built(b, app, buildertest.Build{Source: src})
		own += time.Duration(out.Result.Own)
		for i, e := range out.Events {
			if e.Stage != "" {
				b.Logf("%v %s", out.Times[i], e.Stage)
			}
		}
		b.Log(out.Stderr)
	}
	b.ReportMetric(float64(own.Milliseconds())/float64(b.N), "own-ms/op")
}
