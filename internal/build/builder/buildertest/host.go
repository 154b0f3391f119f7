// Package buildertest runs builds in real builder containers, made by the real runc from the spec that the node uses.
//
// It stands in for the node in tests: it needs root, the engine's programs and the base images ("make engine-tools" and
// "make bases"), which it looks for where the Makefile puts them or where BULWARK_ENGINE_BIN and BULWARK_BASES say. It is
// for tests only: it trusts whoever runs it, and an attacker who owns it is root already.
package buildertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
)

// UIDBase is the first host id of the tests' builders.
const UIDBase = 1_000_000

// Host is what all builders of a test share.
type Host struct {
	Runc     string // program
	Rootfs   string // unpacked builder base, owned by UIDBase and up
	Bases    string // OCI layouts, readable by UIDBase
	Programs string // bulwark-builder and bulwark-static of this tree
	Dir      string // for containers
	Go       bulwark.GoProxy
	NPM      string // the host's own npm registry
}

// NewHost prepares a host. What is slow (unpacking, copying) is kept in a directory of its own below the system's
// temporary directory, by digest.
func NewHost(ctx context.Context, dir string) (*Host, error) {
	bin, err := find("BULWARK_ENGINE_BIN", "/var/cache/bulwark/tools/*/bin/buildkitd")
	if err != nil {
		return nil, err
	}
	from, err := find("BULWARK_BASES", "/var/cache/bulwark/bases/*/builder/index.json")
	if err != nil {
		return nil, err
	}
	if filepath.Base(from) == "builder" {
		from = filepath.Dir(from)
	}
	keep := filepath.Join(os.TempDir(), "bulwark-buildertest", filepath.Base(from))
	h := &Host{Runc: filepath.Join(bin, "runc"), Bases: filepath.Join(keep, "bases"), Rootfs: filepath.Join(keep, "rootfs"),
		Programs: filepath.Join(dir, "programs"), Dir: dir,
		Go: bulwark.GoProxy{Proxy: goEnv(ctx, "GOPROXY"), SumDB: goEnv(ctx, "GOSUMDB"), NoSum: goEnv(ctx, "GONOSUMDB")}, NPM: npmRegistry(ctx)}
	if err := once(h.Bases, func(to string) error { return copyReadable(from, to) }); err != nil {
		return nil, err
	}
	if err := once(h.Rootfs, func(to string) error { return unpack(ctx, filepath.Join(h.Bases, "builder"), to) }); err != nil {
		return nil, err
	}
	return h, h.compile(ctx)
}

// find returns the directory that an environment variable names, or that of the newest file that matches.
func find(env, pattern string) (string, error) {
	if dir := os.Getenv(env); dir != "" {
		return dir, nil
	}
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("nothing matches %s: run \"make engine-tools bases\" first, or set %s", pattern, env)
	}
	slices.SortFunc(files, func(a, b string) int { return modTime(b) - modTime(a) })
	return filepath.Dir(files[0]), nil
}

func modTime(file string) int {
	fi, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return int(fi.ModTime().Unix())
}

// once makes a directory unless it is there; it appears whole.
func once(dir string, make func(to string) error) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := make(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// copyReadable copies the layouts' files with mode 0644.
func copyReadable(from, to string) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, file)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}

// unpack unpacks an OCI layout's image and shifts its owners.
func unpack(ctx context.Context, layout, to string) error {
	img, err := ReadLayout(layout)
	if err != nil {
		return err
	}
	for _, l := range img.Manifest.Layers {
		f, err := os.Open(img.blob(l.Digest))
		if err != nil {
			return err
		}
		r, err := compression.DecompressStream(f)
		if err == nil {
			_, err = archive.Apply(ctx, to, r)
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return Chown(to)
}

// Chown gives a tree to the builders' user namespace: the owner n becomes UIDBase+n.
func Chown(dir string) error {
	return filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		uid, gid, err := owner(file)
		if err != nil {
			return err
		}
		return os.Lchown(file, UIDBase+uid, UIDBase+gid)
	})
}

// compile builds the two programs of this tree.
func (h *Host) compile(ctx context.Context) error {
	if err := os.MkdirAll(h.Programs, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s", "-o", h.Programs+"/",
		"github.com/bulwark-paas/bulwark/cmd/bulwark-builder", "github.com/bulwark-paas/bulwark/cmd/bulwark-static")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile: %w: %s", err, out)
	}
	return nil
}

// goEnv returns one of the host's own Go settings.
func goEnv(ctx context.Context, name string) string {
	out, _ := exec.CommandContext(ctx, "go", "env", name).Output()
	return strings.TrimSpace(string(out))
}

func npmRegistry(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, "npm", "config", "get", "registry").Output()
	return strings.TrimSpace(string(out))
}
