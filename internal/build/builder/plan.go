package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// recipe is what a planner decided: how the image is made, and how it runs unless the app says otherwise.
type recipe struct {
	state    llb.State         // the image's file system; unless frontend is set
	frontend map[string]string // attributes of the Dockerfile frontend
	config   ocispecs.ImageConfig
	defaults map[bulwark.ProcessType]bulwark.Command // may be empty if the app has a Procfile
	missing  string                                  // what to say if there is neither; a hint
	port     uint16
	fixUser  bool // the Dockerfile's user has to be checked in the image that it made
}

// planner is one way to build.
type planner struct {
	name  string
	title string
	// evidence returns the file that shows that the planner fits, "" for none.
	evidence func(*tree) string
	plan     func(context.Context, *planning) (*recipe, error)
}

// planners are all of them in the order in which they are tried.
func planners() []planner {
	return []planner{
		{"dockerfile", "a Dockerfile", firstOf("Dockerfile"), planDockerfile},
		{"go", "Go", firstOf("go.mod"), planGo},
		{"node", "Node.js", firstOf("package.json"), planNode},
		{"python", "Python", firstOf("requirements.txt", "pyproject.toml", "Pipfile", "setup.py", "manage.py", "app.py", "main.py"), planPython},
		{"static", "a static site", firstOf("index.html", "public/index.html"), planStatic},
	}
}

func firstOf(names ...string) func(*tree) string {
	return func(t *tree) string {
		for _, n := range names {
			if t.has(n) {
				return n
			}
		}
		return ""
	}
}

// planning is one build on its way from a tree to a recipe and through BuildKit.
type planning struct {
	job     *job
	config  Config
	secrets map[string]string
	bases   *bases
	ev      *events

	man     *manifest // bulwark.toml
	tree    *tree
	planner planner
	result  bulwark.Plan
	images  []bulwark.ImageUsed // of registries, see used
}

// plan reads the app's own files, chooses a planner, and asks it.
func (p *planning) plan(ctx context.Context) (*recipe, error) {
	if err := p.open(); err != nil {
		return nil, err
	}
	procs, from, err := p.processes()
	if err != nil {
		return nil, err
	}
	if err := p.choose(); err != nil {
		return nil, err
	}
	r, err := p.planner.plan(ctx, p)
	if err != nil {
		return nil, err
	}
	p.result = p.man.plan
	p.result.Planner = p.planner.name
	p.result.Processes = procs
	if procs == nil {
		from = "the planner's default"
		p.result.Processes = r.defaults
	}
	if len(p.result.Processes) == 0 && !r.fixUser {
		return nil, bulwark.Invalid("There is no Procfile, and the builder cannot tell how the app starts.", r.missing)
	}
	if p.result.Port == 0 {
		p.result.Port = r.port
	}
	if len(p.result.Processes) > 0 {
		p.showProcesses(from)
	}
	return r, nil
}

func (p *planning) open() error {
	top, err := openTree(p.job.Source, "")
	if err != nil {
		return err
	}
	text, ok, err := top.read(manifestName)
	if err != nil {
		return err
	}
	p.man, p.tree = &manifest{}, top
	if !ok {
		return nil
	}
	if p.man, err = parseManifest(text); err != nil {
		return err
	}
	for _, name := range p.man.secrets {
		if _, ok := p.secrets[name]; !ok {
			return at(manifestName, lineOf(text, []string{"build", "secrets"}, 0), fmt.Sprintf("the build secret %s is not set", name), "Set it for builds of this app, or remove it from [build] secrets.")
		}
	}
	if p.man.dir != "" {
		p.tree, err = openTree(p.job.Source, p.man.dir)
	}
	return err
}

// processes returns what the app itself says about its processes, nil if nothing.
func (p *planning) processes() (procs map[bulwark.ProcessType]bulwark.Command, from string, err error) {
	if p.man.processes != nil {
		return p.man.processes, manifestName, nil
	}
	text, ok, err := p.tree.read(procfileName)
	if err != nil || !ok {
		return nil, "", err
	}
	procs, err = parseProcfile(p.tree.file(procfileName), text)
	return procs, procfileName, err
}

// choose picks the planner and says why.
func (p *planning) choose() error {
	var others []string
	for _, pl := range planners() {
		found := pl.evidence(p.tree)
		switch {
		case p.man.planner == pl.name:
			p.planner = pl
			p.ev.heading(fmt.Sprintf("Building %s: %s says so", pl.title, manifestName))
			return nil
		case p.man.planner != "" || found == "":
		case p.planner.name == "":
			p.planner = pl
			p.ev.heading(fmt.Sprintf("Detected %s: there is a %s", pl.title, p.tree.file(found)))
		default:
			others = append(others, found)
		}
	}
	if p.planner.name == "" {
		return bulwark.Invalid("The builder cannot tell what language this app is written in.",
			"It looks for a Dockerfile, go.mod, package.json, requirements.txt or index.html at the root of the repository; if the app is in a sub-folder, name it in bulwark.toml: [build] dir = \"folder\".")
	}
	if len(others) > 0 && p.planner.name != "dockerfile" {
		p.ev.note(fmt.Sprintf("(%s would fit, too; [build] planner in %s chooses)", strings.Join(others, ", "), manifestName))
	}
	return nil
}

func (p *planning) showProcesses(from string) {
	p.ev.note("Processes from " + from + ":")
	for _, t := range slices.Sorted(maps.Keys(p.result.Processes)) {
		c := p.result.Processes[t]
		p.ev.note(fmt.Sprintf("  %s: %s", t, strings.Join(c.Argv, " ")))
	}
	if _, ok := p.result.Processes[bulwark.ProcessWeb]; !ok {
		p.ev.note("  There is no \"web\" process, so the app gets no requests.")
	}
}
