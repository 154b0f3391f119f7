package node

import (
	"context"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/sbom"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// sbom writes what an admitted image is made of, in each format, and names the documents in its provenance, before that
// is signed. A layer that cannot be looked into does not stop a build: the documents say what they do not tell of.
func (b *builds) sbom(ctx context.Context, p *statement.Provenance, layers []ledger.Layer, r *buildRun) error {
	var contents sbom.Contents
	for _, y := range layers {
		l, err := b.images.Inventory(ctx, y)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case l == nil:
			b.log.Warn("a layer is missing in an SBOM", "build", p.Predicate.RunDetails.Metadata.InvocationID, "error", err)
			contents.Fail(y.Blob)
		case err != nil: // it was looked into, and the disk is full
			return err
		default:
			contents.Add(y.Blob, l)
		}
	}
	built, err := builtOf(p, nil)
	if err != nil {
		return err
	}
	run := p.Predicate.RunDetails.Metadata
	image := sbom.Image{Name: p.Predicate.BuildDefinition.ExternalParameters.Name, Digest: built.Image, Build: bulwark.BuildID(run.InvocationID), Made: run.FinishedOn}
	for _, f := range sbom.Formats() {
		document, err := sbom.Write(f, image, &contents)
		if err != nil {
			return err
		}
		d, err := b.images.KeepDocument(document)
		if err != nil {
			return err
		}
		p.Predicate.RunDetails.Byproducts = append(p.Predicate.RunDetails.Byproducts,
			statement.Resource{Name: "sbom." + string(f) + ".json", MediaType: f.MediaType(), Digest: map[string]string{"sha256": d.Hex()}})
	}
	if !contents.Whole() {
		r.add(nodeapi.BuildEvent{Log: "       Warning: not everything in the image could be looked into; bulwark builds sbom says what"})
	}
	return nil
}

// sbomOf returns a document about a build's image, with the provenance that names it.
func (b *builds) sbomOf(ctx context.Context, in nodeapi.SBOM) (*nodeapi.SBOMDocument, error) {
	f := sbom.Format(in.Format)
	if f != sbom.SPDX && f != sbom.CycloneDX {
		return nil, bulwark.Invalid("The format of an SBOM is spdx or cyclonedx.", "")
	}
	env, p, err := b.ledger.Provenance(ctx, in.Build)
	if err != nil {
		return nil, err
	}
	d := p.Byproduct(f.MediaType())
	if d == "" {
		return nil, bulwark.Fail(bulwark.KindNotFound, "The build is older than SBOMs are.", "Deploy the app again.", nil)
	}
	document, err := b.images.Document(d)
	return &nodeapi.SBOMDocument{Document: document, MediaType: f.MediaType(), Provenance: env}, err
}
