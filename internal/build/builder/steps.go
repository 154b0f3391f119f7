package builder

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Where a build step finds things.
const (
	stepSource = "/src"    // the source tree
	stepTarget = "/target" // the image's file system as it grows
	stepCache  = "/cache"  // kept between builds of the app
	stepCA     = "/run/bulwark-ca.pem"
	secretCA   = "bulwark_ca"
)

// localTools is the name of the builder's own directory of programs for BuildKit.
const localTools = "tools"

// systemPath is PATH in bases.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// source is the app's tree as BuildKit's steps see it. Every file is sent each time: to send only those whose size or
// time changed would build stale code whenever a checkout keeps times, and sending costs less than it saves (measured).
func (p *planning) source(exclude ...string) llb.State {
	return llb.Local("src", llb.SharedKeyHint("src"), llb.ExcludePatterns(append([]string{".git"}, exclude...)),
		llb.Differ(llb.DiffNone, true), llb.WithCustomName("source"))
}

// step describes one run of a program of the app's build.
type step struct {
	name   string
	argv   []string
	dir    string
	env    map[string]string
	mounts []llb.RunOption
	own    bool // it runs the app's own code or compiler: counted, and given build variables and secrets
}

// run adds a step on top of a state, whose root file system is read-only to it unless its output is used.
func (p *planning) run(on llb.State, s step, opts ...llb.RunOption) llb.ExecState {
	env := maps.Clone(s.env)
	if p.job.CA != "" {
		for _, name := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} {
			env[name] = stepCA
		}
		opts = append(opts, llb.AddSecret(stepCA, llb.SecretID(secretCA), llb.SecretFileOpt(0, 0, 0o444)))
	}
	if s.own {
		maps.Copy(env, p.man.env)
		for _, name := range p.man.secrets {
			opts = append(opts, llb.AddSecretWithDest(name, nil, llb.SecretAsEnvName(name)))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		opts = append(opts, llb.AddEnv(k, env[k]))
	}
	if p.job.Proxy != "" {
		opts = append(opts, llb.WithProxy(llb.ProxyEnv{HTTPProxy: p.job.Proxy, HTTPSProxy: p.job.Proxy, NoProxy: "localhost,127.0.0.1"}))
	}
	name := s.name
	if name == "" {
		name = strings.Join(s.argv, " ")
	}
	if s.own {
		name = ownPrefix + name
	}
	opts = append(opts, llb.Args(s.argv), llb.Dir(s.dir), llb.WithCustomName(name))
	return on.Run(append(opts, s.mounts...)...)
}

// cache keeps a directory between builds of the app.
func cache(id, at string) llb.RunOption {
	return llb.AddMount(at, llb.Scratch(), llb.AsPersistentCacheDir("bulwark-"+id, llb.CacheMountLocked))
}

// runtimeConfig is the configuration of an image made by a planner: no entry point, so that the plan's argv is what runs.
func runtimeConfig(run *base, path string, env ...string) ocispecs.ImageConfig {
	if path != "" {
		path += ":"
	}
	all := []string{"PATH=" + path + systemPath}
	for _, e := range run.config.Env {
		if !strings.HasPrefix(e, "PATH=") {
			all = append(all, e)
		}
	}
	return ocispecs.ImageConfig{
		User:       "1000:1000",
		WorkingDir: "/app",
		Env:        append(all, env...),
	}
}
