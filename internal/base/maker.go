package base

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bulwark-paas/bulwark"
)

// maker is one run of Make.
type maker struct {
	dir     string // of this key
	opt     Options
	recipes []Recipe
	mirrors []string
	say     func(format string, args ...any)
}

func newMaker(dir string, opt Options, progress io.Writer) (*maker, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot tell where %s is: %w", dir, err)
	}
	if opt.CacheDir == "" {
		opt.CacheDir = filepath.Join(dir, ".cache")
	}
	m := &maker{opt: opt, mirrors: opt.Mirrors, say: speaker(progress)}
	for _, r := range Recipes() {
		if len(opt.Only) == 0 || r.Name == Run || slices.Contains(opt.Only, r.Name) {
			m.recipes = append(m.recipes, r)
		}
	}
	for _, name := range opt.Only {
		if !slices.ContainsFunc(m.recipes, func(r Recipe) bool { return r.Name == name }) {
			return nil, bulwark.Invalid(fmt.Sprintf("There is no base called %q.", name), "")
		}
	}
	if opt.EngineBin == "" && slices.ContainsFunc(m.recipes, func(r Recipe) bool { return r.Name == Builder }) {
		return nil, errNoEngine()
	}
	if len(m.mirrors) == 0 {
		if m.mirrors, err = HostMirrors("/etc/apt"); err != nil {
			return nil, err
		}
	}
	key, err := m.key()
	if err != nil {
		return nil, err
	}
	m.dir = filepath.Join(dir, key)
	return m, nil
}

// key hashes all that decides what the bases hold, but for the state of Debian's archive (see Options.Serial).
func (m *maker) key() (string, error) {
	in := map[string]any{"format": format, "suite": suite, "recipes": Recipes(), "pins": pins(), "serial": m.opt.Serial}
	if m.opt.EngineBin != "" {
		sums := map[string]string{}
		for _, name := range []string{"buildkitd", "runc"} {
			sum, err := sumFile(filepath.Join(m.opt.EngineBin, name))
			if err != nil {
				return "", bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("%s is not in %s.", name, m.opt.EngineBin),
					"Build the engine's programs with \"make engine-tools\".", err)
			}
			sums[name] = sum
		}
		in["engine"] = sums
	}
	b, err := json.Marshal(in) // maps are marshalled in the order of their keys
	if err != nil {
		return "", fmt.Errorf("cannot hash the recipes: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}

func (m *maker) complete(index Index) bool {
	for _, r := range m.recipes {
		if _, ok := index[r.Name]; !ok {
			return false
		}
	}
	return true
}

// all makes what is missing: first "run", on which the others lie, then the others, two at a time because unpacking a
// Debian system keeps one core busy.
func (m *maker) all(ctx context.Context) (Index, error) {
	work, err := m.workDir()
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	index := Index{}
	var mu sync.Mutex
	one := func(ctx context.Context, r Recipe, ground *ground) error {
		img, err := m.ensure(ctx, work, r, ground)
		if err != nil {
			return fmt.Errorf("cannot make the base %s: %w", r.Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		index[r.Name] = img
		return nil
	}
	if err := one(ctx, m.recipes[0], nil); err != nil {
		return nil, err
	}
	g, err := loadGround(index[Run].Layout, work)
	if err != nil {
		return nil, err
	}
	defer g.close()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, r := range m.recipes[1:] {
		group.Go(func() error { return one(gctx, r, g) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if len(m.opt.Only) > 0 {
		return index, nil // not all, so no index on disk
	}
	return index, m.save(index)
}

// ensure returns the base of r, making it unless it is there.
func (m *maker) ensure(ctx context.Context, work string, r Recipe, g *ground) (Image, error) {
	img := Image{Layout: filepath.Join(m.dir, r.Name), Versions: r.versions()}
	digest, err := layoutDigest(img.Layout)
	if errors.Is(err, fs.ErrNotExist) {
		start := time.Now()
		if digest, err = m.make(ctx, work, r, g, img.Layout); err == nil {
			m.say("base %s made in %s", r.Name, time.Since(start).Round(100*time.Millisecond))
		}
	}
	img.Digest = digest
	return img, err
}

// workDir makes a directory for unfinished things, after it has removed those that an earlier run left when it was
// killed (the lock is held).
func (m *maker) workDir() (string, error) {
	old, err := filepath.Glob(filepath.Join(m.dir, ".work-*"))
	if err != nil {
		return "", fmt.Errorf("cannot look for unfinished bases: %w", err)
	}
	for _, name := range old {
		if err := os.RemoveAll(name); err != nil {
			return "", fmt.Errorf("cannot remove an unfinished base: %w", err)
		}
	}
	work, err := os.MkdirTemp(m.dir, ".work-")
	if err != nil {
		return "", fmt.Errorf("cannot make a working directory: %w", err)
	}
	// apt drops to its own user for downloading and has to get in.
	if err := os.Chmod(work, 0o755); err != nil { //nolint:gosec // holds public packages only
		return "", fmt.Errorf("cannot open the working directory to apt: %w", err)
	}
	return work, nil
}

func (m *maker) save(index Index) error {
	rel := Index{}
	for name, img := range index {
		img.Layout = filepath.Base(img.Layout)
		rel[name] = img
	}
	b, err := json.MarshalIndent(rel, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the index of the bases: %w", err)
	}
	return writeAtomic(filepath.Join(m.dir, indexFile), append(b, '\n'))
}
