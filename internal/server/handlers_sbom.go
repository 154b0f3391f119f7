package server

import (
	"context"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
)

// sbomIn names a document about the image of a build.
type sbomIn struct {
	AppPath
	Number uint64 `path:"number"`
	Format string `query:"format" enum:"spdx,cyclonedx" default:"spdx"`
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
