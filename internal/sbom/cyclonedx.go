package sbom

import (
	"bytes"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// cyclone writes CycloneDX 1.6 as JSON.
func cyclone(image Image, c *Contents) ([]byte, error) {
	parts := c.Parts()
	components := make([]cdx.Component, 0, len(parts)+1)
	refs := make([]string, 0, len(parts))
	if c.os != nil {
		components = append(components, cdx.Component{BOMRef: "os:" + c.os.ID, Type: cdx.ComponentTypeOS, Name: c.os.ID, Version: c.os.Version})
		refs = append(refs, "os:"+c.os.ID)
	}
	for _, p := range parts {
		components = append(components, cycloneComponent(p))
		refs = append(refs, p.URL)
	}
	root := image.url()
	bom := cdx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + image.uuid()
	bom.Metadata = &cdx.Metadata{
		Timestamp: image.made(),
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "bulwark"}}},
		Component: &cdx.Component{BOMRef: root, Type: cdx.ComponentTypeContainer, Name: string(image.Name), Version: string(image.Digest),
			PackageURL: root, Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: image.Digest.Hex()}}},
	}
	properties := []cdx.Property{{Name: "bulwark:build", Value: string(image.Build)}, {Name: "bulwark:about", Value: about}}
	// "Complete" is never said: a program in C, say, tells of nothing.
	aggregate := cdx.CompositionAggregateUnknown
	for _, r := range c.Remarks() {
		aggregate = cdx.CompositionAggregateIncomplete
		properties = append(properties, cdx.Property{Name: "bulwark:remark", Value: r})
	}
	bom.Metadata.Properties = &properties
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: root, Dependencies: &refs}}
	bom.Compositions = &[]cdx.Composition{{Aggregate: aggregate, Assemblies: &[]cdx.BOMReference{cdx.BOMReference(root)}}}
	var out bytes.Buffer
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

func cycloneComponent(p Part) cdx.Component {
	out := cdx.Component{BOMRef: p.URL, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: p.URL}
	if p.Kind == inventory.NodeJS {
		out.Type, out.CPE = cdx.ComponentTypePlatform, cpe(p)
	}
	var places []cdx.EvidenceOccurrence
	for _, at := range p.Places {
		places = append(places, cdx.EvidenceOccurrence{Location: at.Path, AdditionalContext: "layer " + string(at.Layer)})
	}
	out.Evidence = &cdx.Evidence{Occurrences: &places}
	return out
}

// cpe is the name that the runtime has in lists of vulnerabilities; it has no package URL of its own there.
func cpe(p Part) string { return "cpe:2.3:a:nodejs:node.js:" + p.Version + ":*:*:*:*:*:*:*" }
