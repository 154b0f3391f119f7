package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	solvererrdefs "github.com/moby/buildkit/solver/errdefs"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
)

// planDockerfile builds as a Dockerfile says, by the frontend that is part of BuildKit.
//
// The file is read here first, for two reasons: an image that nobody can fetch makes BuildKit wait for a long time and
// then name an address, and a "# syntax=" line would have a program from a registry do the build. Images with well-known
// names are taken from the platform's own bases, which the log says.
func planDockerfile(ctx context.Context, p *planning) (*recipe, error) {
	name := p.man.dockerfile
	if name == "" {
		name = "Dockerfile"
	}
	text, ok, err := p.tree.read(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, bulwark.Invalid(fmt.Sprintf("There is no %s.", p.tree.file(name)), "Add one, or correct [build] in bulwark.toml.")
	}
	check := dockerCheck{file: p.tree.file(name), args: p.man.env}
	for _, r := range p.job.Images {
		check.hosts = append(check.hosts, r.Host)
	}
	images, err := check.run([]byte(text))
	if err != nil {
		return nil, err
	}
	attrs := map[string]string{"filename": name}
	for _, img := range images {
		if img.base == "" {
			if err := p.resolveImage(ctx, check.file, &img); err != nil {
				return nil, err
			}
			attrs["context:"+img.context] = "docker-image://" + img.pinned()
			p.images = append(p.images, bulwark.ImageUsed{Ref: img.named.String(), Digest: bulwark.Digest(img.digest)})
			p.ev.note(fmt.Sprintf("FROM %s: from its registry, which the operator allows, by the digest %s", img.ref, img.digest))
			continue
		}
		b, err := p.bases.openRoot(img.base)
		if err != nil {
			return nil, err
		}
		attrs["context:"+img.context] = "oci-layout://" + b.name + "@" + b.digest.String()
		p.ev.note(fmt.Sprintf("FROM %s is the platform's base %q%s", img.ref, img.base, img.remark))
	}
	for k, v := range p.man.env {
		attrs["build-arg:"+k] = v
	}
	if p.job.Proxy != "" {
		for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
			attrs["build-arg:"+k] = p.job.Proxy
		}
		attrs["build-arg:NO_PROXY"], attrs["build-arg:no_proxy"] = "localhost,127.0.0.1", "localhost,127.0.0.1"
	}
	for _, note := range check.notes {
		p.ev.note(note)
	}
	return &recipe{
		frontend: attrs, fixUser: true,
		missing: "Give the Dockerfile a CMD or an ENTRYPOINT, or name the processes in a Procfile.",
	}, nil
}

// dockerCheck reads a Dockerfile before BuildKit does.
type dockerCheck struct {
	file  string
	args  map[string]string // build arguments
	hosts []string          // registries that may be asked
	notes []string
	found []dockerImage
}

// dockerImage is an image that a Dockerfile names.
type dockerImage struct {
	ref     string // as the Dockerfile names it
	context string // as the frontend asks for it
	base    string // the base that stands for it; empty for one from a registry
	remark  string
	named   reference.Named // with a tag or a digest
	line    int             // that first names it
	digest  digest.Digest   // of one from a registry, once it was asked
}

// pinned is the image's name with its digest, so that it is what the registry said once.
func (i *dockerImage) pinned() string {
	if d, err := reference.WithDigest(i.named, i.digest); err == nil {
		return d.String()
	}
	return i.named.String()
}

func (c *dockerCheck) run(text []byte) ([]dockerImage, error) {
	if syntax, _, where, ok := parser.DetectSyntax(text); ok {
		return nil, at(c.file, firstLine(where), fmt.Sprintf("\"# syntax=%s\" asks for another builder than the platform's, which would come from a registry", short(syntax)),
			"Remove the line: the built-in frontend knows heredocs, RUN --mount and COPY --link.")
	}
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, c.syntax(err)
	}
	stages, meta, err := instructions.Parse(ast.AST, nil)
	if err != nil {
		return nil, c.syntax(err)
	}
	if len(stages) == 0 {
		return nil, at(c.file, 0, "there is no FROM", "A Dockerfile begins with a line such as \"FROM debian:12\".")
	}
	env := c.metaArgs(meta, ast.EscapeToken)
	lex := shell.NewLex(ast.EscapeToken)
	known := []string{} // names of the stages so far
	for i, s := range stages {
		line := firstLine(s.Location)
		ref, _, err := lex.ProcessWord(s.BaseName, env)
		if err != nil || ref == "" {
			return nil, at(c.file, line, fmt.Sprintf("FROM %s names no image", short(s.BaseName)), "If the name comes from an ARG, give the ARG a value before the first FROM.")
		}
		if platform, _, _ := lex.ProcessWord(s.Platform, env); platform != "" && platform != "linux/amd64" && !strings.HasPrefix(platform, "linux/amd64/") {
			return nil, at(c.file, line, fmt.Sprintf("the platform %+q is not built here", short(platform)), "Everything runs on linux/amd64; remove --platform.")
		}
		if err := c.image(ref, line, known); err != nil {
			return nil, err
		}
		if err := c.commands(&stages[i], known); err != nil {
			return nil, err
		}
		known = append(known, strings.ToLower(s.Name), strconv.Itoa(i))
	}
	return c.found, nil
}

// metaArgs returns what ${NAME} in a FROM line stands for: the ARGs before the first FROM, build arguments first.
func (c *dockerCheck) metaArgs(meta []instructions.ArgCommand, escape rune) shell.EnvGetter {
	env := []string{"BUILDPLATFORM=linux/amd64", "TARGETPLATFORM=linux/amd64", "BUILDOS=linux", "TARGETOS=linux", "BUILDARCH=amd64", "TARGETARCH=amd64"}
	lex := shell.NewLex(escape)
	for _, cmd := range meta {
		for _, a := range cmd.Args {
			if v, ok := c.args[a.Key]; ok {
				env = append(env, a.Key+"="+v)
			} else if a.Value != nil {
				v, _, _ := lex.ProcessWord(*a.Value, shell.EnvsFromSlice(env))
				env = append(env, a.Key+"="+v)
			}
		}
	}
	return shell.EnvsFromSlice(env)
}

// commands checks the instructions of a stage: other images that they name, and what has no effect here.
func (c *dockerCheck) commands(s *instructions.Stage, known []string) error {
	for _, cmd := range s.Commands {
		line := firstLine(cmd.Location())
		switch cmd := cmd.(type) {
		case *instructions.CopyCommand:
			if cmd.From != "" {
				if err := c.image(cmd.From, line, known); err != nil {
					return err
				}
			}
		case *instructions.RunCommand:
			if err := cmd.Expand(func(w string) (string, error) { return w, nil }); err != nil {
				return at(c.file, line, err.Error(), "")
			}
			if instructions.GetNetwork(cmd) == instructions.NetworkHost {
				return at(c.file, line, "RUN --network=host is not allowed", "Remove the flag: the way out of a builder is its proxy, with or without it.")
			}
			if instructions.GetSecurity(cmd) == instructions.SecurityInsecure {
				return at(c.file, line, "RUN --security=insecure is not allowed", "Remove the flag.")
			}
			for _, m := range instructions.GetMounts(cmd) {
				if m.From != "" {
					if err := c.image(m.From, line, known); err != nil {
						return err
					}
				}
			}
		case *instructions.HealthCheckCommand:
			c.notes = append(c.notes, fmt.Sprintf("%s:%d: HEALTHCHECK is not used; set [web] health in bulwark.toml", c.file, line))
		case *instructions.VolumeCommand:
			c.notes = append(c.notes, fmt.Sprintf("%s:%d: VOLUME is not used; name the paths in bulwark.toml: writable = [\"/path\"]", c.file, line))
		}
	}
	return nil
}

// image finds out where an image comes from.
func (c *dockerCheck) image(ref string, line int, known []string) error {
	if ref == "scratch" || slices.Contains(known, strings.ToLower(ref)) {
		return nil
	}
	if strings.Contains(ref, "$") {
		return at(c.file, line, fmt.Sprintf("the name of the image %+q is not known before the build", short(ref)), "Name the stage or the image itself.")
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return at(c.file, line, fmt.Sprintf("%+q is not the name of an image or an earlier stage", short(ref)), "")
	}
	img := dockerImage{ref: ref, named: reference.TagNameOnly(named), line: line}
	img.context = strings.TrimSuffix(reference.FamiliarString(img.named), ":latest")
	host := reference.Domain(named)
	img.base, img.remark, err = baseFor(named)
	switch {
	case err != nil && !slices.Contains(c.hosts, host):
		return at(c.file, line, fmt.Sprintf("the image %s cannot be had: %v", short(ref), err),
			"Build on "+offered+", or have an operator allow the registry: bulwark registries allow "+host)
	case err != nil:
		img.base = ""
	}
	if !slices.ContainsFunc(c.found, func(o dockerImage) bool { return o.context == img.context }) {
		c.found = append(c.found, img)
	}
	return nil
}

// offered says which names lead to a base.
const offered = "bulwark/run, bulwark/static, debian:12, golang:1, node:22, python:3.11 or scratch"

var (
	goTag     = regexp.MustCompile(`^1(\.[0-9]+){0,2}(-bookworm)?$`)
	nodeTag   = regexp.MustCompile(`^(22(\.[0-9]+){0,2}|lts|jod)(-bookworm)?(-slim)?$`)
	pythonTag = regexp.MustCompile(`^3\.11(\.[0-9]+)?(-slim)?(-bookworm)?$`)
	debianTag = regexp.MustCompile(`^(12(\.[0-9]+)?|bookworm)(-slim)?$`)
)

// baseFor returns the base that stands for an image, and what the log adds; the error says why there is none.
func baseFor(named reference.Named) (base, remark string, err error) {
	name := reference.FamiliarName(named)
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if _, ok := named.(reference.Digested); ok {
		return "", "", errors.New("it is fixed by digest, and no registry can be asked")
	}
	if own, ok := strings.CutPrefix(name, "bulwark/"); ok {
		if slices.Contains([]string{baseRun, baseStatic, baseDebian, baseGo, baseNode, baseNodeBuild, basePython, basePythonBuild}, own) && tag == "latest" {
			return own, "", nil
		}
		return "", "", errors.New("the platform has no such base")
	}
	if strings.Contains(tag, "alpine") {
		return "", "", errors.New("the platform has no Alpine, whose packages and C library differ")
	}
	slim := strings.Contains(tag, "-slim")
	pick := func(re *regexp.Regexp, full, small, what string) (string, string, error) {
		if tag != "latest" && !re.MatchString(tag) {
			return "", "", fmt.Errorf("the platform has %s only", what)
		}
		if slim {
			full = small
		}
		return full, " (" + what + ")", nil
	}
	switch name {
	case "debian":
		return pick(debianTag, baseDebian, baseDebian, "Debian 12")
	case "golang":
		return pick(goTag, baseGo, baseGo, "Go 1 on Debian 12; go.mod chooses the version")
	case "node":
		return pick(nodeTag, baseNodeBuild, baseNode, "Node.js 22 on Debian 12")
	case "python":
		return pick(pythonTag, basePythonBuild, basePython, "Python 3.11 on Debian 12")
	}
	return "", "", errors.New("it is not one of the platform's bases, and its registry is not allowed")
}

var lineInError = regexp.MustCompile(`line ([0-9]+): `)

// syntax turns an error of the parser into one with a place.
func (c *dockerCheck) syntax(err error) error {
	line, text := 0, err.Error()
	if m := lineInError.FindStringSubmatchIndex(text); m != nil {
		line, _ = strconv.Atoi(text[m[2]:m[3]])
		text = text[m[1]:]
	}
	if le, ok := errors.AsType[*parser.LocationError](err); ok && line == 0 && len(le.Locations) > 0 {
		line = firstLine(le.Locations[0])
	}
	return at(c.file, line, text, "")
}

func firstLine(where []parser.Range) int {
	if len(where) == 0 {
		return 0
	}
	return where[0].Start.Line
}

// imagePolicy has BuildKit itself refuse what the check above may have missed.
func (p *planning) imagePolicy() *spb.Policy {
	deny := func(s string, a spb.PolicyAction) *spb.Rule {
		return &spb.Rule{Action: a, Selector: &spb.Selector{Identifier: s, MatchType: spb.MatchType_WILDCARD}}
	}
	rules := []*spb.Rule{deny("docker-image://*", spb.PolicyAction_DENY)}
	for _, r := range p.job.Images {
		rules = append(rules, deny("docker-image://"+r.Host+"/*", spb.PolicyAction_ALLOW))
	}
	return &spb.Policy{Version: 1, Rules: rules}
}

// explainDockerfile turns an error of the frontend into one with a place, nil if it is none of the app's.
func (p *planning) explainDockerfile(err error) error {
	if p.planner.name != "dockerfile" {
		return nil
	}
	name := p.man.dockerfile
	if name == "" {
		name = "Dockerfile"
	}
	// What is left is what the frontend or a source says: a file that is not there, an address that the proxy refuses. A full
	// disk is ours.
	text := strings.TrimPrefix(err.Error(), "failed to solve: ")
	if strings.Contains(text, "no space left") {
		return nil
	}
	line := 0
	for _, src := range solvererrdefs.Sources(err) {
		if len(src.Ranges) > 0 && src.Ranges[0].Start != nil {
			line = int(src.Ranges[0].Start.Line)
		}
	}
	why, hint, ok := whyNotFetched(text)
	if !ok {
		why = text
	}
	be := at(p.tree.file(name), line, why, hint).(*bulwark.Error)
	return bulwark.Fail(bulwark.KindFailed, be.Message, be.Hint, err)
}
