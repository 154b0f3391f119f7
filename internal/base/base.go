// Package base makes the images that apps are built in and run on: small Debian 12 systems, made on the spot from
// Debian's signed packages, and toolchains pinned by checksum. Nothing is pulled from a container registry.
//
// It promises: every file in a base comes from a package whose repository index Debian's keys signed, from a toolchain
// whose checksum is written in this package, or from this package itself; nothing of the machine that makes it (its CA
// bundle, resolver, host name) gets in; no file is setuid or setgid; the same inputs give the same digest; and a base
// is either whole on disk or not there.
//
// Whoever owns this package, or can write to its directory, owns every app that is built from then on: its code ends in
// the compilers and the C library. The directory belongs to root alone, and what uses a base names it by digest.
package base

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Options says where things come from. The zero value is right on a Debian host that has Go and npm, but for EngineBin.
type Options struct {
	// Mirrors are lines as in sources.list(5); empty means those of this host, see HostMirrors.
	Mirrors []string
	// EngineBin is the directory that holds buildkitd and runc. The base "builder" needs it.
	EngineBin string
	// Go and NPM are the programs that download toolchains; empty means the usual places.
	Go, NPM string
	// CacheDir keeps downloads between runs; empty means ".cache" in the directory of the bases.
	CacheDir string
	// Env is what the downloading programs get: HOME, proxies, a CA file, GOPROXY. None of it reaches an image.
	Env []string
	// Only names the bases that are wanted; empty means all. "run" is always made, the others lie on it.
	Only []string
	// Serial, if set, is part of the key: a caller that wants Debian's newest security fixes sets today's date.
	Serial string
}

// Image is one base on disk.
type Image struct {
	Layout string         `json:"layout"` // the OCI image layout; absolute here, relative in index.json
	Digest bulwark.Digest `json:"digest"` // of the manifest
	// Versions are those of the toolchains that are not Debian packages, by name.
	Versions map[string]string `json:"versions,omitempty"`
}

// Index is the bases by name.
type Index map[string]Image

// indexFile is written last: where it is, every base is.
const indexFile = "index.json"

// Make makes every base that is not in dir yet and returns the index. The layouts are in dir/KEY/NAME, where KEY is a
// hash over the recipes and all that goes into them. It must run as root. Two at once are safe: the second waits.
func Make(ctx context.Context, dir string, opt Options, progress io.Writer) (Index, error) {
	m, err := newMaker(dir, opt, progress)
	if err != nil {
		return nil, err
	}
	if index, err := load(m.dir); err == nil && m.complete(index) {
		return index, nil
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil { //nolint:gosec // public packages; apt's own user has to get in
		return nil, fmt.Errorf("cannot make the directory of the bases: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(m.dir, ".lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	return m.all(ctx)
}

// Find returns the newest complete index in dir, which may also be the directory of one KEY, and makes nothing.
func Find(dir string) (Index, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*", indexFile))
	if err != nil {
		return nil, fmt.Errorf("cannot look for bases in %s: %w", dir, err)
	}
	names = append(names, filepath.Join(dir, indexFile))
	var newest Index
	var at time.Time
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || !info.ModTime().After(at) {
			continue
		}
		if index, err := load(filepath.Dir(name)); err == nil {
			newest, at = index, info.ModTime()
		}
	}
	if newest == nil {
		return nil, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There are no base images in %s.", dir),
			"Add those of the release with \"bulwark bases add FILE\", or make them with \"bulwark bases make\".", nil)
	}
	return newest, nil
}

// load reads the index of one key and checks that every layout it names is there.
func load(dir string) (Index, error) {
	b, err := os.ReadFile(filepath.Join(dir, indexFile)) //nolint:gosec // the directory is the caller's own
	if err != nil {
		return nil, fmt.Errorf("cannot read the index of the bases: %w", err)
	}
	var index Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("the index of the bases in %s is damaged; remove the directory and make them again: %w", dir, err)
	}
	for name, img := range index {
		if !filepath.IsLocal(img.Layout) {
			return nil, fmt.Errorf("the index of the bases names %q, which is outside its directory", img.Layout)
		}
		img.Layout = filepath.Join(dir, img.Layout)
		if _, err := os.Stat(filepath.Join(img.Layout, "oci-layout")); err != nil {
			return nil, fmt.Errorf("the base %s is in the index but not on disk; remove %s and make them again: %w", name, dir, err)
		}
		index[name] = img
	}
	return index, nil
}
