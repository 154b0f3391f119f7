package server

import (
	"context"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// sbomIn names a document about the image of a build.
type sbomIn struct {
	AppPath
	Number uint64 `path:"number"`
	Format string `query:"format" enum:"spdx,cyclonedx" default:"spdx"`
}

// packagesIn names a package.
type packagesIn struct {
	Name    string `query:"name" required:"true" minLength:"1" maxLength:"300" doc:"of a package, or of the Debian source that one was made of"`
	Version string `query:"version" maxLength:"200" doc:"any if empty"`
}

func (packagesIn) Resource() access.Resource { return access.Platform() }

// packages says which releases that serve contain a package, of the apps that who asks may look at.
func (s *Server) packages(ctx context.Context, actor access.Actor, in *packagesIn) (client.Packages, error) {
	out := client.Packages{Found: []client.PackageFound{}, Unknown: []bulwark.AppName{}}
	all, err := app.All(ctx, s.db.Reader(), actor.Tenant())
	if err != nil {
		return out, err
	}
	names := map[bulwark.AppID]bulwark.AppName{}
	ask := nodeapi.Package{Name: in.Name, Version: in.Version, Apps: []bulwark.AppID{}}
	for _, a := range all {
		if s.decide(ctx, actor, access.ReadApp, access.App(a.Name)) == nil {
			names[a.ID] = a.Name
			ask.Apps = append(ask.Apps, a.ID)
		}
	}
	var got nodeapi.PackageUse
	if err := s.node.Call(ctx, "packages", ask, &got); err != nil {
		return out, err
	}
	for _, f := range got.Found {
		out.Found = append(out.Found, client.PackageFound{App: names[f.App], Release: f.Release, Image: f.Image, Kind: f.Kind, Name: f.Name, Version: f.Version, URL: f.URL})
	}
	for _, id := range got.Unknown {
		out.Unknown = append(out.Unknown, names[id])
	}
	return out, nil
}

// sbom passes on what the node wrote about a build's image. Its digest is in the provenance, which the node signed: whoever
// asks need not believe this process.
func (s *Server) sbom(ctx context.Context, actor access.Actor, in *sbomIn) (client.SBOM, error) {
	found, err := s.getBuild(ctx, actor, &buildIn{AppPath: in.AppPath, Number: in.Number})
	if err != nil {
		return client.SBOM{}, err
	}
	var out nodeapi.SBOMDocument
	if err := s.node.Call(ctx, "sbom", nodeapi.SBOM{Build: found.ID, Format: in.Format}, &out); err != nil {
		return client.SBOM{}, err
	}
	return client.SBOM{Build: found.Number, Image: found.Image, Format: in.Format, MediaType: out.MediaType, Digest: bulwark.Sum(out.Document),
		Document: out.Document, Provenance: out.Provenance}, nil
}
