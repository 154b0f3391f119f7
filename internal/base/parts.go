package base

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// addPart puts a toolchain or our own programs into a tree. The function it returns is called when the tree is written.
func (m *maker) addPart(ctx context.Context, t tree, part string) (func(), error) {
	switch part {
	case "go":
		return m.addGo(ctx, t, pins()[part])
	case "go-std":
		return m.addGoStd(ctx, t, pins()["go"])
	case "node", "npm":
		return func() {}, m.addNPM(ctx, t, part, pins()[part])
	case "buildkit":
		return func() {}, m.addBuildKit(t)
	}
	return nil, fmt.Errorf("no part is called %q", part)
}

// addBuildKit copies the engine's programs under the names that buildkitd looks for.
func (m *maker) addBuildKit(t tree) error {
	if m.opt.EngineBin == "" {
		return errNoEngine()
	}
	for from, to := range map[string]string{"buildkitd": "usr/local/bin/buildkitd", "runc": "usr/local/bin/buildkit-runc"} {
		file := filepath.Join(m.opt.EngineBin, from)
		info, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", from, err)
		}
		open := func() (io.ReadCloser, error) { return os.Open(file) } //nolint:gosec // the operator's own setting
		if err := t.addStream(to, 0o755, info.Size(), open); err != nil {
			return err
		}
	}
	return nil
}

func errNoEngine() error {
	return bulwark.Invalid("The base \"builder\" needs the engine's programs.", "Name the directory that \"make engine-tools\" prints.")
}

// addGo unpacks a Go toolchain to usr/local/go. The go command checks it against the checksum database on download; the
// sum over the archive that is read here is computed again and compared with the one in this package.
func (m *maker) addGo(ctx context.Context, t tree, p pin) (func(), error) {
	file, err := m.downloadModule(ctx, p)
	if err != nil {
		return nil, err
	}
	sum, err := dirhash.HashZip(file, dirhash.Hash1)
	if err != nil {
		return nil, fmt.Errorf("cannot hash %s: %w", p.Name, err)
	}
	if sum != p.Sum {
		return nil, wrongSum(p, sum)
	}
	archive, err := zip.OpenReader(file)
	if err != nil {
		return nil, fmt.Errorf("cannot open the archive of %s: %w", p.Name, err)
	}
	done := func() { _ = archive.Close() }
	for _, f := range archive.File {
		name, ok := strings.CutPrefix(f.Name, p.Name+"@"+p.Version+"/")
		if !ok || strings.HasSuffix(name, "/") || !wantGo(name) {
			continue
		}
		if name, err = cleanName(name); err != nil {
			done()
			return nil, err
		}
		// Module archives hold no modes and no go.mod files below the first; the go command itself puts both right so.
		mode := int64(0o644)
		if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "pkg/tool/") {
			mode = 0o755
		}
		if path.Base(name) == "_go.mod" {
			name = path.Join(path.Dir(name), "go.mod")
		}
		if err := t.addStream("usr/local/go/"+name, mode, int64(f.UncompressedSize64), f.Open); err != nil { //nolint:gosec // checked by its sum
			done()
			return nil, err
		}
	}
	t.addDir("go", 0o755)
	return done, nil
}

// wantGo leaves out the tests of the standard library: half of its files, which each app's builder would unpack.
func wantGo(name string) bool {
	return !strings.HasPrefix(name, "src/") || !strings.HasSuffix(name, "_test.go") && !strings.Contains(name, "/testdata/")
}

// goStd is where the Go base has the compiled standard library, as files of a build cache (GOCACHE). A builder copies them
// into its app's own cache: the first build of an app compiles the app alone.
const goStd = "usr/local/share/go-build"

// addGoStd compiles the standard library with the toolchain of the base, as planners have it compiled.
func (m *maker) addGoStd(ctx context.Context, t tree, p pin) (func(), error) {
	program, err := findProgram(m.opt.Go, "Go", goPlaces...)
	if err != nil {
		return nil, err
	}
	cache, err := os.MkdirTemp(m.dir, ".work-go-std-") // goes like the other unfinished things if this process is killed
	if err != nil {
		return nil, fmt.Errorf("cannot make a build cache: %w", err)
	}
	done := func() { _ = os.RemoveAll(cache) }
	_, version, _ := strings.Cut(strings.TrimSuffix(p.Version, ".linux-amd64"), "-")
	m.say("compiling the standard library of %s", version)
	err = process.Run(ctx, process.Cmd{Path: program, Dir: cache, Args: []string{"build", "std"},
		Env: append(m.downloadEnv(program), "GOMODCACHE="+filepath.Join(m.opt.CacheDir, "gomod"), "GOCACHE="+cache, "GOTOOLCHAIN="+version,
			"GOFLAGS=-modcacherw -trimpath", "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64"),
	})
	if err == nil {
		err = addGoCache(t, cache)
	}
	if err != nil {
		done()
		return nil, fmt.Errorf("cannot compile Go's standard library: %w", err)
	}
	return done, nil
}

// addGoCache adds the entries of a build cache: "-d" files are outputs, "-a" files say which output an action has, and when
// it was stored. That time is made the same for all, so that the same cache makes the same base.
func addGoCache(t tree, cache string) error {
	const timeField = len("12345678901234567890\n")
	root, err := os.OpenRoot(cache)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := path.Join(goStd, file)
		switch {
		case strings.HasSuffix(file, "-a"):
			b, err := root.ReadFile(file)
			if err != nil {
				return err
			}
			if len(b) < timeField || b[len(b)-timeField-1] != ' ' {
				return fmt.Errorf("the build cache has an entry of another form: %q", b)
			}
			t.addBytes(name, 0o644, fmt.Appendf(b[:len(b)-timeField:len(b)-timeField], "%20d\n", int64(epoch)*1e9))
		case strings.HasSuffix(file, "-d"):
			info, err := d.Info()
			if err != nil {
				return err
			}
			// The tree is written when the root is closed already.
			return t.addStream(name, 0o644, info.Size(), func() (io.ReadCloser, error) { return os.Open(filepath.Join(cache, file)) })
		}
		return nil // what the go command notes for itself
	})
}

// goPlaces is where the host's own Go may be.
var goPlaces = []string{"/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/usr/bin/go"}

// downloadModule returns the archive of a module in the go command's cache.
func (m *maker) downloadModule(ctx context.Context, p pin) (string, error) {
	program, err := findProgram(m.opt.Go, "Go", goPlaces...)
	if err != nil {
		return "", err
	}
	cache := filepath.Join(m.opt.CacheDir, "gomod")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", fmt.Errorf("cannot make the cache for downloads: %w", err)
	}
	m.say("fetching %s@%s", p.Name, p.Version)
	out, err := process.Output(ctx, process.Cmd{Path: program, Dir: cache,
		Args: []string{"mod", "download", "-json", p.Name + "@" + p.Version},
		Env:  append(m.downloadEnv(program), "GOMODCACHE="+cache, "GOTOOLCHAIN=local", "GOFLAGS=-modcacherw", "GOWORK=off"),
	})
	var got struct{ Zip, Error string }
	if jerr := json.Unmarshal(out, &got); err == nil {
		err = jerr
	}
	if err != nil || got.Zip == "" {
		return "", bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("%s@%s could not be downloaded.", p.Name, p.Version),
			"Check that this host reaches a Go module proxy (GOPROXY).", errors.Join(err, fmt.Errorf("go mod download: %q", got.Error)))
	}
	return got.Zip, nil
}

func wrongSum(p pin, got string) error {
	return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("%s@%s has the checksum %s; it should be %s.", p.Name, p.Version, got, p.Sum),
		"Somebody changed it on the way, or the download is damaged: remove the cache and try again, and do not change the pin.", nil)
}

// downloadEnv is the caller's environment and a PATH on which the program's own interpreter is found.
func (m *maker) downloadEnv(program string) []string {
	env := slices.DeleteFunc(slices.Clone(m.opt.Env), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		env = append(env, "HOME="+m.opt.CacheDir)
	}
	return append(env, "PATH="+filepath.Dir(program)+":/usr/local/bin:/usr/bin:/bin")
}

func findProgram(set, what string, usual ...string) (string, error) {
	if set != "" {
		usual = []string{set}
	}
	for _, name := range usual {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("%s is not installed; looked for %s.", what, strings.Join(usual, ", ")),
		"It is needed once, to download a toolchain: install it, or name it in the settings.", nil)
}
