package node

import (
	"context"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/sbom"
)

// maxContents bounds how many images' contents are kept in memory.
const maxContents = 500

// packages says which releases that serve contain a package. What an image is made of was found out when it was admitted and
// lies beside its layers; the answer takes no look into an image.
func (b *builds) packages(ctx context.Context, in nodeapi.Package) (*nodeapi.PackageUse, error) {
	if in.Name == "" || len(in.Name) > 300 || len(in.Version) > 200 || len(in.Apps) > 10_000 {
		return nil, bulwark.Invalid("A package has a name.", "For example openssl, or openssl@3.0.17-1~deb12u2.")
	}
	out := &nodeapi.PackageUse{Found: []nodeapi.PackageFound{}, Unknown: []bulwark.AppID{}}
	serving, err := b.ledger.Serving(ctx)
	if err != nil {
		return nil, err
	}
	for _, app := range in.Apps {
		r, ok := serving[app]
		if !ok {
			continue
		}
		contents, err := b.contents(ctx, r.Image)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil || !contents.whole {
			out.Unknown = append(out.Unknown, app)
		}
		if err != nil {
			b.log.Warn("nobody can say what a release is made of", "app", app, "error", err)
			continue
		}
		for _, p := range contents.parts {
			if same(p, in) {
				out.Found = append(out.Found, nodeapi.PackageFound{App: app, Release: r.Generation, Image: r.Image, Kind: string(p.Kind), Name: p.Name,
					Version: p.Version, URL: p.URL})
			}
		}
	}
	return out, nil
}

// same tells whether a component is the package that was asked for: by its name, or by that of the Debian source that it was made of.
// Versions of Go modules begin with a "v" that not everybody writes.
func same(p sbom.Part, in nodeapi.Package) bool {
	if !strings.EqualFold(p.Name, in.Name) && !strings.EqualFold(p.Source, in.Name) {
		return false
	}
	return in.Version == "" || strings.TrimPrefix(p.Version, "v") == strings.TrimPrefix(in.Version, "v")
}

// imageContents are the components of an image, and whether all of it could be looked into.
type imageContents struct {
	parts []sbom.Part
	whole bool
}

func (b *builds) contents(ctx context.Context, image bulwark.Digest) (*imageContents, error) {
	b.contentsMu.Lock()
	have := b.known[image]
	b.contentsMu.Unlock()
	if have != nil {
		return have, nil
	}
	layers, _, err := b.ledger.Layers(ctx, image)
	if err != nil {
		return nil, err
	}
	var c sbom.Contents
	for _, y := range layers {
		l, err := b.images.Inventory(ctx, y)
		if err != nil {
			return nil, err
		}
		c.Add(y.Blob, l)
	}
	have = &imageContents{parts: c.Parts(), whole: c.Whole()}
	b.contentsMu.Lock()
	defer b.contentsMu.Unlock()
	if len(b.known) >= maxContents || b.known == nil {
		b.known = map[bulwark.Digest]*imageContents{}
	}
	b.known[image] = have
	return have, nil
}
