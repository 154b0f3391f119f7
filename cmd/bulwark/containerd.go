package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"time"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins" // the engine's plugins
	containerd "github.com/containerd/containerd/v2/cmd/containerd/command"

	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/engine"
	"github.com/bulwark-paas/bulwark/internal/install"
)

// runContainerd runs the engine, which is linked in, with a configuration of ours: its own root, state and socket, so that
// a host's own containerd or Docker is not touched, and nothing that we do not use.
func runContainerd(ctx context.Context, c *child) error {
	i := c.inst
	c.behindRequests()
	// containerd and runc set modes of their own where they matter and count on the usual mask elsewhere: a control group
	// that its own instance may not even look at makes runc inside a builder fail.
	syscall.Umask(0o022)
	root, state := filepath.Join(i.ContainerdDir(), "root"), filepath.Join(i.ContainerdDir(), "state")
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.nri.v1.nri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", %q]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, root, state, engine.Replaced,
		i.Socket(install.ContainerdSocket), i.Socket(install.ContainerdSocket)+".ttrpc")
	path := filepath.Join(i.ContainerdDir(), "config.toml")
	if err := atomicfile.Write(path, []byte(config), 0o600); err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			if conn, err := net.DialTimeout("unix", i.Socket(install.ContainerdSocket), time.Second); err == nil {
				conn.Close()
				c.ready()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	engine.Register(state, i.Socket(install.ContainerdSocket))
	if n, err := engine.EndLost(state, i.Socket(install.ContainerdSocket)); err != nil {
		return err
	} else if n > 0 {
		c.log.Info("ended shims whose start was cut off", "number", n)
	}
	return containerd.App().Run(ctx, []string{"containerd", "--config", path, "--log-level", "warn"})
}
