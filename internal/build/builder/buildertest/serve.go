package buildertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"
)

// Serve unpacks a build's image, runs its web process in it as the image's user, and returns the answer to one request.
// It is a chroot on the host's network, not an instance: it shows that the image works, not that it is contained.
func (a *App) Serve(ctx context.Context, r *bulwark.BuildResult, path string, env ...string) (string, error) {
	img, err := ReadImage(a.Output, r.Image)
	if err != nil {
		return "", err
	}
	root, unmount, err := a.Host.mount(ctx, img)
	if err != nil {
		return "", err
	}
	defer unmount()
	port, err := freePort()
	if err != nil {
		return "", err
	}
	env = append(append([]string{"PORT=" + port}, img.Config.Config.Env...), env...)
	c := r.Plan.Processes[bulwark.ProcessWeb]
	argv, err := resolve(root, c, env)
	if err != nil {
		return "", err
	}
	uid, _, _ := strings.Cut(img.Config.Config.User, ":")
	id, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return "", fmt.Errorf("the image's user is %q", img.Config.Config.User)
	}
	var out bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &out
	cmd.Dir = img.Config.Config.WorkingDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %q: %w", argv, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer cmd.Process.Kill()
	return get(ctx, "http://127.0.0.1:"+port+path, exited, &out)
}

// mount puts an image's layers on top of each other, read-only; each layer is unpacked once.
func (h *Host) mount(ctx context.Context, img *Image) (root string, unmount func(), err error) {
	var lower []string
	for i, l := range img.Manifest.Layers {
		dir := filepath.Join(h.Dir, "layers", l.Digest.Encoded())
		one := *img
		one.Manifest.Layers = img.Manifest.Layers[i : i+1]
		if err := once(dir, func(to string) error {
			return one.Unpack(ctx, to, 0, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
		}); err != nil {
			return "", nil, err
		}
		lower = append([]string{dir}, lower...)
	}
	root, err = os.MkdirTemp(h.Dir, "image-")
	if err != nil {
		return "", nil, err
	}
	// overlayfs wants two lower directories when there is no upper one.
	empty, err := os.MkdirTemp(h.Dir, "empty-")
	if err != nil {
		return "", nil, err
	}
	lower = append(lower, empty)
	if err := unix.Mount("overlay", root, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "lowerdir="+strings.Join(lower, ":")); err != nil {
		return "", nil, fmt.Errorf("mount the image: %w", err)
	}
	return root, func() { unix.Unmount(root, unix.MNT_DETACH) }, nil
}

// get asks until something listens.
func get(ctx context.Context, url string, exited <-chan error, out fmt.Stringer) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return "", err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return resp.Status + " " + string(b), err
		}
		select {
		case err := <-exited:
			return "", fmt.Errorf("the app ended: %v: %s", err, out)
		case <-ctx.Done():
			return "", fmt.Errorf("the app does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// resolve fills in variables and finds the program on the image's PATH, as an instance's init does.
func resolve(root string, c bulwark.Command, env []string) ([]string, error) {
	vars := map[string]string{}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		vars[k] = v
	}
	var argv []string
	for _, a := range c.Argv {
		if c.Expand {
			a = os.Expand(a, func(k string) string { return vars[k] })
		}
		argv = append(argv, a)
	}
	if strings.Contains(argv[0], "/") {
		return argv, nil
	}
	for _, dir := range filepath.SplitList(vars["PATH"]) {
		if fi, err := os.Stat(filepath.Join(root, dir, argv[0])); err == nil && fi.Mode()&0o111 != 0 {
			argv[0] = filepath.Join(dir, argv[0])
			return argv, nil
		}
	}
	return nil, fmt.Errorf("%s is not on the image's PATH %s", argv[0], vars["PATH"])
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
