package base

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// addNPM unpacks a package of the npm registry: Node.js itself, which is one program, or npm.
func (m *maker) addNPM(ctx context.Context, t tree, part string, p pin) error {
	file, err := m.downloadNPM(ctx, p)
	if err != nil {
		return err
	}
	prefix := "usr/local/lib/node_modules/npm/"
	if part == "node" {
		prefix = "usr/local/"
	}
	err = eachMember(file, func(name string, h *tar.Header, r io.Reader) error {
		if part == "node" && name != "bin/node" && name != "LICENSE" {
			return nil
		}
		if name == "LICENSE" && part == "node" {
			name = "share/doc/node/LICENSE"
		}
		mode := int64(0o644)
		if h.Mode&0o111 != 0 || strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("cannot unpack %s: %w", p.Name, err)
		}
		t.addBytes(prefix+name, mode, b)
		return nil
	})
	if err != nil {
		return err
	}
	if part == "npm" {
		t.addLink("usr/local/bin/npm", "../lib/node_modules/npm/bin/npm-cli.js")
		t.addLink("usr/local/bin/npx", "../lib/node_modules/npm/bin/npx-cli.js")
	}
	return nil
}

// eachMember calls do for every file of a package's tarball, with its name below "package/".
func eachMember(file string, do func(name string, h *tar.Header, r io.Reader) error) error {
	f, err := os.Open(file) //nolint:gosec // our own cache
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", file, err)
	}
	defer func() { _ = f.Close() }()
	unzip, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("cannot unpack %s: %w", file, err)
	}
	r := tar.NewReader(unzip)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot unpack %s: %w", file, err)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		if _, rest, ok := strings.Cut(name, "/"); ok && h.Typeflag == tar.TypeReg {
			if err := do(rest, h, r); err != nil {
				return err
			}
		}
	}
}

// downloadNPM returns the tarball of a package, fetched with the host's npm and so with its registry, proxy and CA.
func (m *maker) downloadNPM(ctx context.Context, p pin) (string, error) {
	dir := filepath.Join(m.opt.CacheDir, "npm")
	file := filepath.Join(dir, p.Name+"-"+p.Version+".tgz")
	err := checkIntegrity(file, p)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	program, err := findProgram(m.opt.NPM, "npm", "/usr/bin/npm", "/usr/local/bin/npm")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make the cache for downloads: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", fmt.Errorf("cannot make the cache for downloads: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	m.say("fetching %s@%s", p.Name, p.Version)
	_, err = process.Output(ctx, process.Cmd{Path: program, Dir: tmp, Env: m.downloadEnv(program),
		Args: []string{"pack", "--ignore-scripts", "--pack-destination", tmp, p.Name + "@" + p.Version}})
	if err != nil {
		return "", bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("%s@%s could not be downloaded.", p.Name, p.Version),
			"Check that npm on this host reaches its registry.", err)
	}
	got := filepath.Join(tmp, filepath.Base(file))
	if err := checkIntegrity(got, p); err != nil {
		return "", err
	}
	if err := os.Rename(got, file); err != nil {
		return "", fmt.Errorf("cannot keep the download of %s: %w", p.Name, err)
	}
	return file, nil
}

// checkIntegrity compares a file with the pin's sum, in the form of Subresource Integrity.
func checkIntegrity(file string, p pin) error {
	f, err := os.Open(file) //nolint:gosec // our own cache
	if err != nil {
		return fmt.Errorf("cannot read the download of %s: %w", p.Name, err)
	}
	defer func() { _ = f.Close() }()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("cannot read the download of %s: %w", p.Name, err)
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil)); got != p.Sum {
		return wrongSum(p, got)
	}
	return nil
}
