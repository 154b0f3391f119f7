package base

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// mmdebstrap is the program that makes a Debian system from packages, with apt's own check of the signatures.
const mmdebstrap = "/usr/bin/mmdebstrap"

// make makes one base at dir. Without a ground it makes the ground itself.
func (m *maker) make(ctx context.Context, work string, r Recipe, g *ground, dir string) (bulwark.Digest, error) {
	full, done, err := m.system(ctx, work, r, g)
	if err != nil {
		return "", err
	}
	defer done()
	for _, part := range r.Parts {
		closePart, err := m.addPart(ctx, full, part)
		if err != nil {
			return "", err
		}
		defer closePart()
	}
	var layers []v1.Layer
	content := full
	if g != nil && len(r.Keep) == 0 {
		layers = append(layers, g.layer)
		content = diff(g.tree, full)
	}
	l, err := writeLayer(content, filepath.Join(work, r.Name+".layer"))
	if err != nil {
		return "", err
	}
	top, err := compressed(l)
	if err != nil {
		return "", err
	}
	if len(layers) == 0 {
		g = nil // nothing is shared with the ground
	}
	return writeImage(r, g, append(layers, top), filepath.Join(work, r.Name), dir)
}

// system returns the Debian files of a base, and what to call when they are no longer read.
func (m *maker) system(ctx context.Context, work string, r Recipe, g *ground) (tree, func(), error) {
	nothing := func() {}
	switch {
	case g != nil && len(r.Keep) > 0:
		t, err := keep(g.tree, r.Keep, r.KeepPackages)
		return t, nothing, err
	case g != nil && len(r.Packages) == 0:
		return g.tree.clone(), nothing, nil
	}
	file := filepath.Join(work, r.Name+".tar")
	if err := m.bootstrap(ctx, work, r, file); err != nil {
		return nil, nothing, err
	}
	f, err := os.Open(file) //nolint:gosec // our own directory
	if err != nil {
		return nil, nothing, fmt.Errorf("cannot read what mmdebstrap made: %w", err)
	}
	done := func() { _ = f.Close(); _ = os.Remove(file) }
	t, err := readTree(f)
	if err == nil {
		err = finish(t)
	}
	if err != nil {
		done()
		return nil, nothing, err
	}
	return t, done, nil
}

// bootstrap runs mmdebstrap: essential packages without apt, those of the recipe, no recommended ones, no manuals.
func (m *maker) bootstrap(ctx context.Context, work string, r Recipe, file string) error {
	if _, err := os.Stat(mmdebstrap); err != nil {
		return bulwark.Fail(bulwark.KindUnavailable, "mmdebstrap is not installed.",
			"Install the package mmdebstrap, or run \"make deps\".", err)
	}
	m.say("base %s: installing Debian packages", r.Name)
	args := []string{
		"--quiet", "--mode=root", "--variant=essential", "--format=tar", "--architectures=amd64",
		// /usr is merged from the start, so that usr-is-merged can stand in for usrmerge and its Perl.
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--include=" + strings.Join(r.packages(), ","),
		`--aptopt=Apt::Install-Recommends "false"`,
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/info/*", "--dpkgopt=path-exclude=/usr/share/lintian/*",
		"--dpkgopt=path-exclude=/usr/share/bug/*",
		// Two tools for debugging compilers and programs; each app's builder would unpack their 60 MB.
		"--dpkgopt=path-exclude=/usr/bin/*-lto-dump-*", "--dpkgopt=path-exclude=/usr/lib/x86_64-linux-gnu/lib*san.so.*",
		suite, file,
	}
	env := []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TMPDIR=" + work, "DEBIAN_FRONTEND=noninteractive",
		// Clamps times, and makes Python's compiled files depend on their source's hash instead of its time.
		"SOURCE_DATE_EPOCH=" + strconv.Itoa(epoch),
	}
	for _, e := range m.opt.Env {
		if name, _, _ := strings.Cut(e, "="); strings.HasSuffix(strings.ToLower(name), "_proxy") {
			env = append(env, e)
		}
	}
	err := process.Run(ctx, process.Cmd{Path: mmdebstrap, Args: append(args, m.mirrors...), Env: env, Dir: work})
	if err != nil {
		return bulwark.Fail(bulwark.KindUnavailable, "Debian's packages could not be installed into the base "+r.Name+".",
			"Look at the cause: most often a mirror cannot be reached, or this is not root.", err)
	}
	return nil
}
