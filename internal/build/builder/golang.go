package builder

import (
	"context"
	"fmt"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client/llb"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// planGo builds a Go module: its main packages go to /app/bin, what is not Go source to /app, on the runtime base.
//
// There is one step. The compiler's caches are kept between builds, and the step writes straight into what becomes the
// image's last layer, so that nothing is copied afterwards.
func planGo(_ context.Context, p *planning) (*recipe, error) {
	mod, err := p.goModule()
	if err != nil {
		return nil, err
	}
	mains, err := p.goMains(mod)
	if err != nil {
		return nil, err
	}
	tools, err := p.bases.open(baseGo)
	if err != nil {
		return nil, err
	}
	runtime, err := p.bases.open(baseRun)
	if err != nil {
		return nil, err
	}
	argv := []string{"go", "build", "-o", stepTarget + "/app/bin/"}
	for _, m := range mains {
		argv = append(argv, m.pkg)
	}
	target := runtime.state()
	if p.goAssets() {
		target = target.File(llb.Copy(p.source(), "/", "/app", &llb.CopyInfo{
			CopyDirContentsOnly: true, CreateDestPath: true, ExcludePatterns: goExcluded(),
		}), llb.WithCustomName("files beside the Go source"))
	}
	// Once for an app: the compiled standard library into its cache, whose files must have times of their own, because the
	// go command throws away what looks old. The build needs the result, which is nothing, so that it comes after.
	seeded := p.run(tools.state(), step{name: "the compiled standard library", dir: "/", env: map[string]string{"PATH": systemPath}, mounts: []llb.RunOption{cache("go", stepCache)},
		argv: []string{"cp", "-r", "--no-clobber", "/" + goStd + "/.", stepCache + "/build"}}, llb.ReadonlyRootFS()).AddMount("/seeded", llb.Scratch())
	exec := p.run(tools.state(), step{
		name: "go build " + strings.Join(argv[4:], " "), argv: argv, dir: stepSource, env: p.goEnv(), own: true,
		mounts: []llb.RunOption{
			llb.AddMount(stepSource, p.source(), llb.Readonly),
			llb.AddMount("/run/seeded", seeded, llb.Readonly),
			cache("go", stepCache),
		},
	}, llb.ReadonlyRootFS())
	return &recipe{
		state:    exec.AddMount(stepTarget, target),
		config:   runtimeConfig(runtime, "/app/bin"),
		defaults: goProcesses(mod.Module.Mod.Path, mains),
		missing:  "Name the processes in a Procfile, for example \"web: server\".",
	}, nil
}

// goStd is where the base "go" has the compiled standard library; package base puts it there.
const goStd = "usr/local/share/go-build"

func (p *planning) goModule() (*modfile.File, error) {
	text, ok, err := p.tree.read("go.mod")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, bulwark.Invalid(fmt.Sprintf("There is no %s.", p.tree.file("go.mod")), "Run \"go mod init\" and commit go.mod and go.sum.")
	}
	mod, err := modfile.ParseLax(p.tree.file("go.mod"), []byte(text), nil)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, strings.TrimSpace(err.Error())+".", "Correct go.mod; \"go mod verify\" shows the same error.", err)
	}
	if mod.Module == nil {
		return nil, bulwark.Invalid(fmt.Sprintf("%s names no module.", p.tree.file("go.mod")), "Its first line is \"module\" and the module's path.")
	}
	version := "no Go version"
	if mod.Go != nil {
		version = "go " + mod.Go.Version
	}
	if mod.Toolchain != nil {
		version += ", toolchain " + mod.Toolchain.Name
	}
	p.ev.note(fmt.Sprintf("go.mod says %s; a newer toolchain than the builder's comes by the module proxy", version))
	if len(mod.Require) > 0 && !p.tree.has("go.sum") && !p.tree.hasDir("vendor") {
		p.ev.note("Warning: there is no go.sum; the build fails unless no module outside is needed")
	}
	return mod, nil
}

// goEnv is the environment of the compiler. The host's module proxy and checksum database decide where modules and
// toolchains come from.
func (p *planning) goEnv() map[string]string {
	flags := "-trimpath -buildvcs=false -ldflags=-s"
	if !p.tree.has("vendor/modules.txt") {
		flags += " -mod=readonly"
	}
	env := map[string]string{
		"PATH": "/usr/local/go/bin:" + systemPath, "HOME": stepCache, "TMPDIR": stepCache, "GOTMPDIR": stepCache,
		"GOPATH": stepCache + "/path", "GOCACHE": stepCache + "/build", "GOMODCACHE": stepCache + "/mod",
		"GOFLAGS": flags, "GOTOOLCHAIN": "auto", "CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": "amd64",
	}
	for name, v := range map[string]string{"GOPROXY": p.job.Go.Proxy, "GOSUMDB": p.job.Go.SumDB, "GONOSUMDB": p.job.Go.NoSum} {
		if v != "" {
			env[name] = v
		}
	}
	return env
}

// goMain is one main package.
type goMain struct {
	pkg    string // "./cmd/x", or "." for the root
	binary string // its file name in /app/bin
}

// goMains finds the main packages that are built: the root and those in cmd/; if there is none, the only one elsewhere.
func (p *planning) goMains(mod *modfile.File) ([]goMain, error) {
	name := func(dir string) string {
		if dir != "." {
			return path.Base(dir)
		}
		prefix, _, ok := module.SplitPathVersion(mod.Module.Mod.Path)
		if !ok {
			prefix = mod.Module.Mod.Path
		}
		return path.Base(prefix)
	}
	var usual, elsewhere []goMain
	err := fs.WalkDir(p.tree.root.FS(), ".", func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		base := path.Base(dir)
		if dir != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || base == "node_modules" || dir == "vendor" || p.tree.has(path.Join(dir, "go.mod"))) {
			return fs.SkipDir
		}
		if !p.goIsMain(dir) {
			return nil
		}
		m := goMain{pkg: "./" + dir, binary: name(dir)}
		if dir == "." {
			m.pkg = "."
		}
		if dir == "." || path.Dir(dir) == "cmd" {
			usual = append(usual, m)
		} else {
			elsewhere = append(elsewhere, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return pickMains(usual, elsewhere)
}

func pickMains(usual, elsewhere []goMain) ([]goMain, error) {
	if len(usual) == 0 && len(elsewhere) == 1 {
		usual = elsewhere
	}
	if len(usual) == 0 {
		hint := "Put package main at the root of the module or into cmd/NAME."
		if len(elsewhere) > 1 {
			hint = fmt.Sprintf("There are several elsewhere, such as %s and %s: move those that run into cmd/NAME.", elsewhere[0].pkg, elsewhere[1].pkg)
		}
		return nil, bulwark.Invalid("The module has no main package at its root or in cmd/.", hint)
	}
	seen := map[string]string{}
	for _, m := range usual {
		if other, dup := seen[m.binary]; dup {
			return nil, bulwark.Invalid(fmt.Sprintf("The main packages %s and %s would both become the program %q.", other, m.pkg, m.binary), "Rename one of the two directories.")
		}
		seen[m.binary] = m.pkg
	}
	return usual, nil
}

// goIsMain reports whether the files of a directory that are compiled for Linux belong to package main.
func (p *planning) goIsMain(dir string) bool {
	ctx := build.Default
	ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", "amd64", p.man.env["CGO_ENABLED"] == "1"
	ctx.BuildTags = nil
	for _, e := range p.tree.entries(dir) {
		file := path.Join(dir, e.Name())
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || !p.tree.has(file) {
			continue
		}
		if ok, err := ctx.MatchFile(filepath.Join(p.tree.dir, dir), e.Name()); err != nil || !ok {
			continue
		}
		text, _, err := p.tree.read(file)
		if err != nil {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.PackageClauseOnly)
		if err == nil {
			return f.Name.Name == "main"
		}
	}
	return false
}

// goProcesses is the default without a Procfile: a single program is the web process. Of several, each becomes a process
// type of its name; "web", "server", the module's own name or the one at the root is the web process.
func goProcesses(mod string, mains []goMain) map[bulwark.ProcessType]bulwark.Command {
	command := func(m goMain) bulwark.Command { return bulwark.Command{Argv: []string{"/app/bin/" + m.binary}} }
	if len(mains) == 1 {
		return map[bulwark.ProcessType]bulwark.Command{bulwark.ProcessWeb: command(mains[0])}
	}
	web := slices.IndexFunc(mains, func(m goMain) bool { return m.pkg == "." })
	for _, name := range []string{"web", "server", path.Base(mod)} {
		if i := slices.IndexFunc(mains, func(m goMain) bool { return m.binary == name }); i >= 0 {
			web = i
			break
		}
	}
	procs := map[bulwark.ProcessType]bulwark.Command{}
	for i, m := range mains {
		typ, err := bulwark.ParseProcessType(strings.ReplaceAll(strings.ToLower(m.binary), "_", "-"))
		if i == web {
			typ = bulwark.ProcessWeb
		} else if err != nil {
			continue // its name cannot be one of a process type: it is in the image and can be run by hand
		}
		procs[typ] = command(m)
	}
	return procs
}

// goExcluded are patterns of what a running Go program does not read.
func goExcluded() []string {
	return []string{
		"**/*.go", "**/testdata", "**/go.mod", "**/go.sum", "go.work", "go.work.sum", "vendor", ".*", "**/.*",
		procfileName, manifestName, "Makefile", "Dockerfile", "README*", "LICENSE*", "CHANGELOG*", "*.md",
	}
}

// goAssets reports whether anything is left when goExcluded is taken out: templates, static files, migrations.
func (p *planning) goAssets() bool {
	found := false
	_ = fs.WalkDir(p.tree.root.FS(), ".", func(file string, d fs.DirEntry, err error) error {
		base := path.Base(file)
		switch {
		case err != nil, file == ".":
			return nil
		case base[0] == '.', base == "testdata", file == "vendor":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir(), strings.HasSuffix(file, ".go"), base == "go.mod", base == "go.sum":
			return nil
		}
		if path.Dir(file) == "." {
			for _, pattern := range goExcluded() {
				if ok, _ := path.Match(pattern, file); ok {
					return nil
				}
			}
		}
		found = true
		return fs.SkipAll
	})
	return found
}
