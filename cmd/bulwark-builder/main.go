// Command bulwark-builder is the main process of a builder container; see package builder for what it promises.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/bulwark-paas/bulwark/internal/build/builder"
	"github.com/containerd/log"
)

func main() {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// The libraries' warnings (such as that the output's file system has no fs-verity) are not worth a line a build.
	_ = log.SetLevel("error")
	code := builder.Run(ctx, builder.Config{
		Buildkitd: "/usr/local/bin/buildkitd",
		Runc:      "/usr/local/bin/buildkit-runc",
		Static:    filepath.Join(filepath.Dir(self), "bulwark-static"),
		Runtime:   "/run",
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
	})
	stop()
	os.Exit(code)
}
