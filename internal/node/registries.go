package node

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// registries are those that a Dockerfile's FROM may name.
func (b *builds) registries(ctx context.Context) ([]bulwark.ImageRegistry, error) {
	all, err := b.ledger.Registries(ctx)
	if err != nil {
		return nil, err
	}
	var out []bulwark.ImageRegistry
	for _, r := range all {
		if !r.Packages {
			out = append(out, bulwark.ImageRegistry{Host: r.To.HostPort(), CA: r.CA})
		}
	}
	return out, nil
}

// rules are where a build's proxy leads: what the host's own toolchains use, and what people opened.
//
// Only a host that was named in full may lead to an inner address: who wrote the name down means what it leads to. The
// rules of the toolchains and those for many hosts lead to the internet alone.
func (b *builds) rules(ctx context.Context) ([]netpolicy.Rule, error) {
	rules, err := netpolicy.Rules(b.config.Toolchains.Allow...)
	if err != nil {
		return nil, err
	}
	all, err := b.ledger.Registries(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Packages {
			rules = append(rules, netpolicy.Rule{To: r.To, Private: !r.To.Many()})
			continue
		}
		// Images come by TLS and nothing else.
		rules = append(rules, netpolicy.Rule{To: r.To.OnPort(443), Private: true})
		if r.To.HostPort() == dockerHub {
			more, err := netpolicy.Rules("registry-1.docker.io:443", "auth.docker.io:443")
			if err != nil {
				return nil, err
			}
			rules = append(rules, more...)
		}
	}
	return rules, nil
}

// dockerHub is the one registry whose images have another name than the host that they come from.
const dockerHub = "docker.io"

// maxUsed bounds what a builder may say that it used.
const maxUsed = 100

var (
	baseName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	imageRef = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,499}$`)
)

// addUsed adds to a provenance what the build began from. Which bases and images those were is the builder's word; the
// digest of a base is the node's own, and that of an image the one that the builder pinned, so it is a claim.
func (b *builds) addUsed(p *statement.Provenance, used []bulwark.ImageUsed) error {
	odd := bulwark.Fail(bulwark.KindFailed, "The builder's word on the images that it used is not well formed.", "Push again.", nil)
	if len(used) > maxUsed {
		return odd
	}
	to := &p.Predicate.BuildDefinition.ResolvedDependencies
	for _, u := range used {
		switch {
		case u.Ref == "" && baseName.MatchString(u.Base):
			d, err := layoutDigest(filepath.Join(b.config.Bases, u.Base))
			if err != nil {
				return fmt.Errorf("the base %q, which the builder names: %w", u.Base, err)
			}
			*to = append(*to, statement.Resource{URI: "bulwark-base:" + u.Base, Digest: map[string]string{"sha256": d.Hex()}})
		case u.Base == "" && imageRef.MatchString(u.Ref):
			d, err := bulwark.ParseDigest(string(u.Digest))
			if err != nil {
				return odd
			}
			*to = append(*to, statement.Resource{URI: "docker-image://" + u.Ref, Digest: map[string]string{"sha256": d.Hex()}})
		default:
			return odd
		}
	}
	return nil
}
