package builder

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client/llb"
)

// pythonVersion is what Debian 12 has. There is no other: distributions of other versions cannot be verified here.
const pythonVersion = "3.11"

// pythonEnv is the virtual environment of an app's packages. It lies outside /app, so that the source cannot hide it.
const pythonEnv = "/opt/venv"

// planPython installs requirements.txt into a virtual environment and copies the source. Packages come from wheels/ or
// vendor/ in the repository if there are any, else from the index. The environment is made from the requirements alone,
// so an edit of the source installs nothing.
func planPython(_ context.Context, p *planning) (*recipe, error) {
	if err := p.pythonVersion(); err != nil {
		return nil, err
	}
	tools, err := p.bases.open(basePythonBuild)
	if err != nil {
		return nil, err
	}
	runtime, err := p.bases.open(basePython)
	if err != nil {
		return nil, err
	}
	reqs, err := p.requirements()
	if err != nil {
		return nil, err
	}
	target := runtime.state()
	if reqs.any {
		target = p.pipInstall(tools, target, reqs)
	} else { // a virtual environment has both names
		target = target.File(llb.Symlink("/usr/bin/python3", "/usr/local/bin/python"), llb.WithCustomName("python is python3"))
	}
	target = target.File(llb.Copy(p.source(), "/", "/app", &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true,
		ExcludePatterns: []string{"**/__pycache__", ".venv", "venv"}}), llb.WithCustomName("copy the source"))
	bin := ""
	if reqs.any {
		bin = pythonEnv + "/bin"
	}
	return &recipe{
		state:    target,
		config:   runtimeConfig(runtime, bin, "PYTHONDONTWRITEBYTECODE=1"),
		defaults: p.pythonProcesses(reqs),
		missing:  "Name the processes in a Procfile, for example \"web: python3 app.py\" or \"web: gunicorn app:app --bind 0.0.0.0:$PORT\".",
	}, nil
}

// pythonVersion refuses any version but the one there is.
func (p *planning) pythonVersion() error {
	for _, file := range []string{".python-version", "runtime.txt"} {
		text, ok, err := p.tree.read(file)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		n := 0
		for line := range strings.Lines(text) {
			n++
			line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			v := strings.TrimPrefix(line, "python-")
			if v != pythonVersion && !strings.HasPrefix(v, pythonVersion+".") && v != "3" {
				return at(p.tree.file(file), n, fmt.Sprintf("the version %+q is asked for, and the platform has Python %s only", short(line), pythonVersion),
					fmt.Sprintf("Write %s, or remove the file.", pythonVersion))
			}
			break
		}
	}
	p.ev.note("Python " + pythonVersion)
	return nil
}

// requirements is what requirements.txt tells.
type requirements struct {
	any   bool            // it names at least one package
	local bool            // it names a part of the repository, so the whole tree is needed to install
	names map[string]bool // of packages, in lower case
	wheel string          // folder with wheels, "" for none
}

var requirementName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*`)

func (p *planning) requirements() (*requirements, error) {
	r := &requirements{names: map[string]bool{}}
	text, ok, err := p.tree.read("requirements.txt")
	if err != nil {
		return nil, err
	}
	if !ok {
		for _, other := range [][2]string{{"uv.lock", "uv export --no-dev > requirements.txt"}, {"poetry.lock", "poetry export > requirements.txt"},
			{"Pipfile", "pipenv requirements > requirements.txt"}, {"pyproject.toml", "pip-compile pyproject.toml > requirements.txt"}, {"setup.py", "pip-compile setup.py > requirements.txt"}} {
			if p.tree.has(other[0]) {
				return nil, bulwark.Invalid(fmt.Sprintf("There is a %s, but no requirements.txt, which is what the builder installs from.", p.tree.file(other[0])),
					fmt.Sprintf("Run \"%s\" and commit the file; an empty one is right for an app without dependencies.", other[1]))
			}
		}
		return r, nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
			continue
		case strings.HasPrefix(line, "-e"), strings.HasPrefix(line, "--editable"), line[0] == '.', line[0] == '/', strings.HasPrefix(line, "file:"):
			r.local = true
		case strings.HasPrefix(line, "-"):
			r.any = r.any || strings.HasPrefix(line, "-r") || strings.HasPrefix(line, "--requirement")
			continue
		}
		r.any = true
		r.names[strings.ToLower(requirementName.FindString(line))] = true
	}
	for _, dir := range []string{"wheels", "vendor"} {
		for _, e := range p.tree.entries(dir) {
			if r.wheel == "" && strings.HasSuffix(e.Name(), ".whl") {
				r.wheel = dir
			}
		}
	}
	return r, nil
}

// pipInstall makes the virtual environment in target.
func (p *planning) pipInstall(tools *base, target llb.State, reqs *requirements) llb.State {
	src := p.source()
	if !reqs.local {
		src = llb.Scratch().File(llb.Copy(src, "/", "/", &llb.CopyInfo{CopyDirContentsOnly: true,
			IncludePatterns: []string{"requirements*.txt", "requirements/**", "constraints*.txt", "wheels/**", "vendor/**"}}), llb.WithCustomName("copy the requirements"))
	}
	env := map[string]string{
		"PATH": systemPath, "HOME": stepCache, "LANG": "C.UTF-8", "PIP_CACHE_DIR": stepCache, "PIP_DISABLE_PIP_VERSION_CHECK": "1",
		"PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1",
	}
	in := func(s step, on llb.State) llb.State {
		s.env, s.dir = env, stepSource
		s.mounts = []llb.RunOption{llb.AddMount(stepSource, src, llb.Readonly), cache("pip", stepCache), llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs())}
		return p.run(tools.state(), s, llb.ReadonlyRootFS()).AddMount("/opt", on, llb.SourcePath("/opt"))
	}
	venv := in(step{name: "make a virtual environment", argv: []string{"python3", "-m", "venv", "--without-pip", pythonEnv}}, target)
	argv := []string{"python3", "-m", "pip", "--python", pythonEnv + "/bin/python3", "install", "-r", "requirements.txt"}
	if reqs.wheel != "" {
		p.ev.note("Packages come from " + p.tree.file(reqs.wheel) + "/ only")
		argv = append(argv, "--no-index", "--find-links", path.Join(stepSource, reqs.wheel))
	}
	return in(step{name: "pip install -r requirements.txt", argv: argv, own: true}, venv)
}

// pythonProcesses is the default without a Procfile: nothing, unless the app's form is obvious and the server it needs is
// among its requirements.
func (p *planning) pythonProcesses(reqs *requirements) map[bulwark.ProcessType]bulwark.Command {
	web := func(argv ...string) map[bulwark.ProcessType]bulwark.Command {
		return map[bulwark.ProcessType]bulwark.Command{bulwark.ProcessWeb: {Argv: argv, Expand: true}}
	}
	gunicorn := func(app string) map[bulwark.ProcessType]bulwark.Command {
		return web("gunicorn", app, "--bind", "0.0.0.0:${PORT}")
	}
	if p.tree.has("manage.py") && reqs.names["gunicorn"] {
		if files, _ := fs.Glob(p.tree.root.FS(), "*/wsgi.py"); len(files) == 1 {
			return gunicorn(path.Dir(files[0]) + ".wsgi")
		}
	}
	for _, file := range []string{"app.py", "main.py", "wsgi.py", "asgi.py"} {
		text, _, _ := p.tree.read(file)
		mod := strings.TrimSuffix(file, ".py")
		switch {
		case reqs.names["gunicorn"] && regexp.MustCompile(`(?m)^app\s*=\s*Flask\(`).MatchString(text):
			return gunicorn(mod + ":app")
		case reqs.names["uvicorn"] && regexp.MustCompile(`(?m)^app\s*=\s*(FastAPI|Starlette)\(`).MatchString(text):
			return web("uvicorn", mod+":app", "--host", "0.0.0.0", "--port", "${PORT}")
		}
	}
	return nil
}
