package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
)

// solve has BuildKit make the image and returns the build's result.
func (p *planning) solve(ctx context.Context, cl *client.Client, r *recipe, d *daemon) (*bulwark.BuildResult, error) {
	store, err := newStore(p.job.Output)
	if err != nil {
		return nil, fmt.Errorf("open the output store: %w", err)
	}
	opt, def, err := p.solveOpt(ctx, r, store)
	if err != nil {
		return nil, err
	}
	stream := make(chan *client.SolveStatus)
	pr := newProgress(p.ev, p.isOwn(r))
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		pr.follow(stream)
	}()
	resp, err := cl.Solve(ctx, def, opt, stream)
	<-followed
	if err != nil {
		return nil, p.explain(err, pr, d)
	}
	digest, err := bulwark.ParseDigest(resp.ExporterResponse[exptypes.ExporterImageDigestKey])
	if err != nil {
		return nil, errNoResult
	}
	if r.frontend != nil {
		if digest, err = p.finishDockerfile(ctx, store, digest, r); err != nil {
			return nil, err
		}
	}
	return &bulwark.BuildResult{Image: digest, Plan: p.result, Own: bulwark.Duration(pr.own.Round(time.Millisecond)), Used: p.used()}, nil
}

func (p *planning) solveOpt(ctx context.Context, r *recipe, store content.Store) (client.SolveOpt, *llb.Definition, error) {
	src, err := fsutil.NewFS(p.tree.dir)
	if err != nil {
		return client.SolveOpt{}, nil, err
	}
	opt := client.SolveOpt{
		// No history: it would keep the log on disk as the steps printed it, secrets and all.
		Internal:  true,
		OCIStores: p.bases.stores,
		Session:   []session.Attachable{secretsprovider.NewSecretProvider(buildSecrets{p})},
		Exports: []client.ExportEntry{{Type: client.ExporterOCI, OutputStore: store, Attrs: map[string]string{
			"tar": "false", "oci-mediatypes": "true", "compression": "uncompressed",
		}}},
	}
	if r.frontend != nil {
		opt.Frontend, opt.FrontendAttrs = "dockerfile.v0", r.frontend
		opt.LocalMounts = map[string]fsutil.FS{"context": src, "dockerfile": src}
		// The frontend sends only files whose size or time changed since the last build with the same key. A checkout may
		// keep times, so each build has its own key.
		opt.SharedKey = string(p.job.Build)
		opt.SourcePolicy = p.imagePolicy()
		return opt, nil, nil
	}
	tools, err := fsutil.NewFS(filepath.Dir(p.config.Static))
	if err != nil {
		return opt, nil, err
	}
	opt.LocalMounts = map[string]fsutil.FS{"src": src, localTools: tools}
	config, err := json.Marshal(ocispecs.Image{Platform: platform, Config: r.config})
	if err != nil {
		return opt, nil, err
	}
	opt.Exports[0].Attrs[exptypes.ExporterImageConfigKey] = string(config)
	def, err := r.state.Marshal(ctx, llb.Platform(platform))
	return opt, def, err
}

// isOwn tells the app's own build commands from the platform's work.
func (p *planning) isOwn(r *recipe) func(string) bool {
	if r.frontend == nil {
		return func(name string) bool { return strings.HasPrefix(name, ownPrefix) }
	}
	return func(name string) bool { return strings.HasPrefix(name, "[") && strings.Contains(name, "] RUN ") }
}

// explain turns a solve's error into one for the user.
func (p *planning) explain(err error, pr *progress, d *daemon) error {
	if exit, ok := errors.AsType[*gatewaypb.ExitError](err); ok {
		step := strings.TrimPrefix(pr.failed, ownPrefix)
		if exit.ExitCode == 137 {
			return bulwark.Fail(bulwark.KindFailed, fmt.Sprintf("The build step %q was killed (exit code 137).", short(step)),
				"Most likely it needed more memory than a builder has.", err)
		}
		return bulwark.Fail(bulwark.KindFailed, fmt.Sprintf("The build step %q failed with exit code %d.", short(step), exit.ExitCode),
			"Its output above says why; the same command should fail on your machine, too.", err)
	}
	select {
	case <-d.exited:
		return fmt.Errorf("buildkitd ended: %w: %s", err, d.log.String())
	default:
	}
	if e := p.explainDockerfile(err); e != nil {
		return e
	}
	return fmt.Errorf("solve: %w: %s", err, d.log.String())
}

// buildSecrets hands a build secret to a step that asks for it by name.
type buildSecrets struct{ p *planning }

// GetSecret implements [secrets.SecretStore].
func (s buildSecrets) GetSecret(_ context.Context, id string) ([]byte, error) {
	if id == secretCA && s.p.job.CA != "" {
		return os.ReadFile(s.p.job.CA)
	}
	if v, ok := s.p.secrets[id]; ok {
		return []byte(v), nil
	}
	return nil, fmt.Errorf("%s: %w", id, secrets.ErrNotFound)
}

// newStore opens the store that receives the image.
func newStore(dir string) (content.Store, error) { return contentlocal.NewStore(dir) }
