package builder

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client/llb"
)

// Where the package manager is put if it is not npm, which the base has.
const (
	managerDir = "/opt/package-manager"
	managerBin = managerDir + "/node_modules/.bin"
)

// manager is the program that installs what package.json names: the one whose lock file is there.
type manager struct {
	program string   // as in argv: "npm", "pnpm" or "yarn"
	pkg     string   // what npm installs to have it, "" for npm
	files   []string // beside package.json, what an installation reads
	whole   string   // why it installs in the source tree only, "" if it need not
	env     map[string]string
	// install and prune are its commands: with the development dependencies or without, and to take those away afterwards.
	install func(dev bool) []string
	prune   []string
	// pinned has it read a lock file that names the host of each package for the registry of the build.
	pinned bool
}

// chooseManager finds out who installs, by the lock file and by "packageManager" or "engines" in package.json.
func (n *nodePlan) chooseManager() error {
	var err error
	switch {
	case n.tree.has("package-lock.json") || n.tree.has("npm-shrinkwrap.json"):
		n.by = npm("ci")
	case n.tree.has("pnpm-lock.yaml"):
		n.by, err = n.pnpm()
	case n.tree.has("yarn.lock"):
		n.by, err = n.yarn()
	case n.tree.has("bun.lock"), n.tree.has("bun.lockb"):
		return bulwark.Invalid("There is a lock file of Bun, and the builder installs with npm, pnpm or Yarn, which would ignore it.",
			"Run \"npm install\" once and commit package-lock.json, or describe the build in a Dockerfile.")
	default:
		n.ev.note("Warning: there is no package-lock.json, so every build may get other versions; commit the one that \"npm install\" writes")
		n.by = npm("install")
	}
	if err == nil && n.by.pkg != "" {
		n.ev.note(fmt.Sprintf("Installing with %s", n.by.pkg))
	}
	return err
}

func npm(install string) *manager {
	return &manager{program: "npm", files: []string{"package-lock.json", "npm-shrinkwrap.json", ".npmrc"},
		install: func(dev bool) []string {
			if dev {
				return []string{install, "--include=dev"}
			}
			return []string{install, "--omit=dev"}
		},
		prune: []string{"prune", "--omit=dev", "--ignore-scripts"}}
}

var (
	pnpmLockVersion = regexp.MustCompile(`(?m)^lockfileVersion: '?([0-9]+)`)
	yarnLockVersion = regexp.MustCompile(`(?m)^__metadata:\r?\n  version: ([0-9]+)`)
	workspaceFolder = regexp.MustCompile(`(?m)^packages:`)
)

func (n *nodePlan) pnpm() (*manager, error) {
	lock, err := n.head("pnpm-lock.yaml")
	if err != nil {
		return nil, err
	}
	space, _, err := n.tree.read("pnpm-workspace.yaml")
	if err != nil {
		return nil, err
	}
	version := ""
	switch m := pnpmLockVersion.FindStringSubmatch(lock); {
	case m == nil:
	case m[1] == "9" && space != "" && !workspaceFolder.MatchString(space):
		version = "10" // before it, that file did nothing but name folders
	case m[1] == "9":
		version = "9"
	case m[1] == "6":
		version = "8"
	}
	if want := strings.TrimSpace(n.pkg.Engines["pnpm"]); want != "" {
		if _, err := semver.NewConstraint(want); err != nil || len(want) > 100 || strings.ContainsAny(want, "/:@") {
			return nil, at(n.tree.file("package.json"), 0, fmt.Sprintf("engines.pnpm %+q is not a range of versions", short(want)),
				"Give a range as npm knows it, such as \"9.x\" or \">=9\".")
		}
		version = want
	}
	if version, err = n.managerVersion("pnpm", version); err != nil {
		return nil, err
	}
	if version == "" {
		return nil, bulwark.Invalid(fmt.Sprintf("%s does not tell which version of pnpm it is for, or is for one before 8.", n.tree.file("pnpm-lock.yaml")),
			"Run \"pnpm install\" with a newer pnpm and commit the file, or name the version in package.json: \"packageManager\": \"pnpm@9.15.9\".")
	}
	m := &manager{program: "pnpm", pkg: "pnpm@" + version, files: []string{"pnpm-lock.yaml", ".npmrc", ".pnpmfile.cjs"},
		env: map[string]string{"npm_config_manage_package_manager_versions": "false", "npm_config_store_dir": stepCache + "/pnpm"},
		install: func(dev bool) []string {
			return []string{"install", "--frozen-lockfile", fmt.Sprintf("--prod=%t", !dev)}
		},
		prune: []string{"install", "--frozen-lockfile", "--prod=true", "--offline", "--ignore-scripts"}}
	if space != "" {
		m.whole = "there is a pnpm-workspace.yaml"
	} else if n.tree.hasDir("patches") {
		m.whole = "there are patches"
	}
	return m, nil
}

func (n *nodePlan) yarn() (*manager, error) {
	lock, err := n.head("yarn.lock")
	if err != nil {
		return nil, err
	}
	newer := yarnLockVersion.FindStringSubmatch(lock)
	version := "1"
	if newer != nil {
		// A Yarn that would write the file in a newer form refuses the older one.
		switch newer[1] {
		case "4", "5", "6", "7":
			version = "3"
		case "8":
			version = "4.12.x"
		case "9":
			version = "4.14.x"
		default:
			version = "4.x"
		}
	}
	if version, err = n.managerVersion("yarn", version); err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(version, "2") || strings.HasPrefix(version, "3"):
		return nil, bulwark.Invalid(fmt.Sprintf("%s is of Yarn 2 or 3, and the builder installs with Yarn 1 or 4.", n.tree.file("yarn.lock")),
			"Run \"yarn set version stable\" and \"yarn install\", and commit package.json and yarn.lock.")
	case (newer == nil) != (version == "1" || strings.HasPrefix(version, "1.")):
		return nil, at(n.tree.file("package.json"), 0, fmt.Sprintf("packageManager is %+q, and %s is of another Yarn", short(n.pkg.PackageManager), n.tree.file("yarn.lock")),
			"Run \"yarn install\" with the one that you use, and commit yarn.lock.")
	case newer == nil:
		return &manager{program: "yarn", pkg: "yarn@" + version, files: []string{"yarn.lock", ".yarnrc", ".npmrc"}, pinned: true,
			env: map[string]string{"YARN_CACHE_FOLDER": stepCache + "/yarn"},
			install: func(dev bool) []string {
				return []string{"install", "--frozen-lockfile", "--non-interactive", fmt.Sprintf("--production=%t", !dev)}
			},
			prune: []string{"install", "--frozen-lockfile", "--non-interactive", "--production=true", "--ignore-scripts", "--prefer-offline"}}, nil
	}
	env := map[string]string{"YARN_CACHE_FOLDER": stepCache + "/yarn4", "YARN_ENABLE_GLOBAL_CACHE": "false", "YARN_ENABLE_TELEMETRY": "0",
		"YARN_NODE_LINKER": "node-modules", "YARN_IGNORE_PATH": "1", "YARN_ENABLE_IMMUTABLE_INSTALLS": "true"}
	if n.job.NPM != "" {
		env["YARN_NPM_REGISTRY_SERVER"] = strings.TrimSuffix(n.job.NPM, "/")
	}
	if n.job.Proxy != "" {
		env["YARN_HTTP_PROXY"], env["YARN_HTTPS_PROXY"] = n.job.Proxy, n.job.Proxy
	}
	if n.job.CA != "" {
		env["YARN_HTTPS_CA_FILE_PATH"] = stepCA
	}
	return &manager{program: "yarn", pkg: "@yarnpkg/cli-dist@" + version, whole: "that is how Yarn 4 installs", env: env,
		install: func(bool) []string { return []string{"install", "--immutable"} },
		prune:   []string{"workspaces", "focus", "--all", "--production"}}, nil
}

// head reads the beginning of a file, which says of which version it is.
func (n *nodePlan) head(name string) (string, error) {
	f, err := n.tree.root.Open(name)
	if err != nil {
		return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%s cannot be read.", n.tree.file(name)), "It must be a file, or a link to a file in the source tree.", err)
	}
	defer f.Close()
	b := make([]byte, 1024)
	size, err := f.Read(b)
	if err != nil && size == 0 {
		return "", nil // it is empty
	}
	return string(b[:size]), nil
}

// managerVersion is the version that package.json names by "packageManager", or else is.
func (n *nodePlan) managerVersion(name, is string) (string, error) {
	who, version, ok := strings.Cut(n.pkg.PackageManager, "@")
	if !ok {
		return is, nil
	}
	file := n.tree.file("package.json")
	if who != name {
		return "", at(file, 0, fmt.Sprintf("packageManager is %+q, and the lock file is of %s", short(n.pkg.PackageManager), name),
			"Commit the lock file of the one that you use, and no other.")
	}
	version, _, _ = strings.Cut(version, "+")
	if v, err := semver.StrictNewVersion(version); err != nil || v.Prerelease() != "" {
		return "", at(file, 0, fmt.Sprintf("packageManager %+q is not a name and a version", short(n.pkg.PackageManager)), "Write it as in \"pnpm@9.15.9\".")
	}
	return version, nil
}

// unpin has each package of a lock file come from the build's registry: Yarn 1 wrote its own host there, and asks that one whatever is
// configured. The file says what is in each package, too (integrity), so this changes where it comes from and not what it is. Hosts that
// the repository configures itself stay.
const unpin = `const fs = require("fs"), read = f => { try { return fs.readFileSync(f, "utf8") } catch { return "" } };
const own = read(".npmrc") + read(".yarnrc"), to = process.env.npm_config_registry.replace(/\/+$/, "");
fs.writeFileSync("yarn.lock", read("yarn.lock").replace(/^(  resolved "?)https?:\/\/([^\/"]+)(\/(?:@[^\/"]+\/)?[^\/"]+\/-\/[^"\n]+)/gm,
  (all, before, host, path) => own.includes(host) ? all : before + to + path));`

// fetchManager makes the package manager, which is not the app's own code: its build variables and secrets stay out.
func (n *nodePlan) fetchManager() {
	if n.by.pkg == "" {
		return
	}
	exec := n.run(n.tools.state(), step{name: "install " + n.by.pkg, dir: "/", env: n.env(),
		argv:   []string{"npm", "install", "--no-save", "--no-package-lock", "--prefix", managerDir, n.by.pkg},
		mounts: append(n.nodeMount(), cache("npm", stepCache))}, llb.ReadonlyRootFS())
	n.manager = exec.AddMount(managerDir, llb.Scratch())
}

// unpinned returns the tree with a lock file for this build's registry.
func (n *nodePlan) unpinned(on llb.State) llb.State {
	if !n.by.pinned || n.job.NPM == "" {
		return on
	}
	exec := n.run(n.tools.state(), step{name: "yarn.lock for this registry", argv: []string{"node", "-e", unpin}, dir: "/app", env: n.env(), mounts: n.nodeMount()},
		llb.ReadonlyRootFS())
	return exec.AddMount("/app", on, llb.SourcePath("/app"))
}

// nodeMount has another Node.js than the base's in a step.
func (n *nodePlan) nodeMount() []llb.RunOption {
	if !n.other {
		return nil
	}
	return []llb.RunOption{llb.AddMount(nodeDir, n.target, llb.SourcePath(nodeDir), llb.Readonly)}
}
