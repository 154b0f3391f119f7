package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client"
)

// daemonConfig is buildkitd's configuration. Steps share the builder's network namespace, which has nothing but
// loopback and the proxy ("host" means the builder, not the machine). Frontends from images are off: a "# syntax=" line
// must not choose what runs. The state is bounded by parts of the file system that it lies on, which is the app's own and of
// a size that the operator chose; what is rebuilt most easily goes first.
const daemonConfig = `root = %q
[log]
  level = "warn"
[grpc]
  address = [%q]
[history]
  maxEntries = 1
[cdi]
  disabled = true
[frontend."gateway.v0"]
  enabled = false
[system]
  platformsCacheMaxAge = "24h"
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  rootless = true
  snapshotter = "overlayfs"
  networkMode = "host"
  binary = %q
  platforms = ["linux/amd64"]
  gc = true
  reservedSpace = "10%%"
  maxUsedSpace = "40%%"
  [[worker.oci.gcpolicy]]
    filters = ["type==source.local"]
    keepDuration = "72h"
    maxUsedSpace = "5%%"
  [[worker.oci.gcpolicy]]
    all = true
    reservedSpace = "10%%"
    maxUsedSpace = "40%%"
`

// daemon is a running buildkitd, our child.
type daemon struct {
	cmd    *exec.Cmd
	socket string
	exited chan struct{} // closed when it has ended
	log    tail
}

// startDaemon starts buildkitd and returns at once.
func startDaemon(c Config, job *bulwark.BuildSetup) (*daemon, error) {
	dir, err := os.MkdirTemp(c.Runtime, "buildkit-")
	if err != nil {
		return nil, err
	}
	d := &daemon{socket: filepath.Join(dir, "buildkitd.sock"), exited: make(chan struct{})}
	config := filepath.Join(dir, "buildkitd.toml")
	registries, err := registryConfig(dir, job.Images)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(daemonConfig, filepath.Join(job.State, "buildkit"), "unix://"+d.socket, c.Runc) + registries
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	tmp := filepath.Join(job.State, "tmp")
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err != nil {
		return nil, err
	}
	d.cmd = exec.Command(c.Buildkitd, "--config", config)
	d.cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=" + tmp, "XDG_RUNTIME_DIR=" + dir,
		// The log is bounded by us, by its whole length; BuildKit's own bound drops lines by speed.
		"BUILDKIT_STEP_LOG_MAX_SIZE=16777216", "BUILDKIT_STEP_LOG_MAX_SPEED=-1",
	}
	if job.Proxy != "" {
		d.cmd.Env = append(d.cmd.Env, "HTTP_PROXY="+job.Proxy, "HTTPS_PROXY="+job.Proxy)
	}
	if job.CA != "" {
		d.cmd.Env = append(d.cmd.Env, "SSL_CERT_FILE="+job.CA)
	}
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	// If we die, it must not live on; in a container that is so anyway, in a test it may not.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.exited)
	}()
	return d, nil
}

// connect waits until the daemon takes connections and returns a client.
func (d *daemon) connect(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
		if err == nil {
			conn.Close()
			return client.New(ctx, "unix://"+d.socket)
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("connect to buildkitd: %w", err)
		}
		select {
		case <-d.exited:
			return nil, fmt.Errorf("buildkitd ended at once: %s", d.log.String())
		case <-ctx.Done():
			return nil, fmt.Errorf("buildkitd is not ready: %w: %s", context.Cause(ctx), d.log.String())
		case <-tick.C:
		}
	}
}

// stop ends the daemon. Its databases survive a kill, but what it is asked to remove should be removed, so it gets a
// moment; the container's end takes the rest.
func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(2 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
	os.RemoveAll(filepath.Dir(d.socket))
}

// tail keeps the last part of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

const tailSize = 16 << 10

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > tailSize {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailSize:]...)
	}
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
