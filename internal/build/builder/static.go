package builder

import (
	"context"
	"path/filepath"

	"github.com/bulwark-paas/bulwark"
	"github.com/moby/buildkit/client/llb"
)

// Where a static site's image has its parts.
const (
	staticProgram = "/usr/local/bin/bulwark-static"
	staticSite    = "/app/public"
)

// planStatic puts files and a small file server onto the smallest base: public/ if there is one with an index.html, else
// all of the tree but what begins with a dot and what is meant for the platform. No program runs in the build.
func planStatic(_ context.Context, p *planning) (*recipe, error) {
	runtime, err := p.bases.open(baseStatic)
	if err != nil {
		return nil, err
	}
	from := "/"
	if p.tree.has("public/index.html") {
		from = "/public"
	} else if !p.tree.has("index.html") {
		return nil, bulwark.Invalid("There is no index.html at the root or in public/.", "Add one, or name the folder in bulwark.toml: [build] dir = \"folder\".")
	}
	name := filepath.Base(p.config.Static)
	server := llb.Local(localTools, llb.IncludePatterns([]string{name}), llb.SharedKeyHint(localTools), llb.WithCustomName("source of "+name))
	mode := &llb.ChmodOpt{Mode: 0o755}
	state := runtime.state().
		File(llb.Copy(server, "/"+name, staticProgram, &llb.CopyInfo{CreateDestPath: true, Mode: mode}), llb.WithCustomName("copy the file server")).
		File(llb.Copy(p.source(), from, staticSite, &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true,
			ExcludePatterns: []string{".*", "!.well-known", procfileName, manifestName}}), llb.WithCustomName("copy the site"))
	return &recipe{
		state:    state,
		config:   runtimeConfig(runtime, ""),
		defaults: map[bulwark.ProcessType]bulwark.Command{bulwark.ProcessWeb: {Argv: []string{staticProgram, staticSite}}},
	}, nil
}
