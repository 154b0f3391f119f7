package sbom

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// noAssertion is SPDX's word for "we do not say".
const noAssertion = "NOASSERTION"

// spdx writes SPDX 2.3 as JSON.
func spdx(image Image, c *Contents) ([]byte, error) {
	const root = common.ElementID("Image")
	purl := func(u string) *v2_3.PackageExternalReference {
		return &v2_3.PackageExternalReference{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: u}
	}
	pkg := func(id common.ElementID, name, version, purpose string, refs ...*v2_3.PackageExternalReference) *v2_3.Package {
		return &v2_3.Package{PackageName: name, PackageSPDXIdentifier: id, PackageVersion: version, PackageDownloadLocation: noAssertion,
			PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion, PackageCopyrightText: noAssertion,
			PrimaryPackagePurpose: purpose, PackageExternalReferences: refs}
	}
	relate := func(a common.ElementID, how string, b common.ElementID) *v2_3.Relationship {
		return &v2_3.Relationship{RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(b)), Relationship: how}
	}
	whole := pkg(root, string(image.Name), string(image.Digest), "CONTAINER", purl(image.url()))
	whole.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: image.Digest.Hex()}}
	doc := &v2_3.Document{SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: string(image.Name),
		DocumentNamespace: fmt.Sprintf("https://bulwark.dev/sbom/%s/%s", image.Build, image.uuid()),
		DocumentComment:   strings.Join(append([]string{about}, missing(c)...), "\n"),
		CreationInfo:      &v2_3.CreationInfo{Creators: []common.Creator{{CreatorType: "Tool", Creator: "bulwark"}}, Created: image.made()},
		Packages:          []*v2_3.Package{whole},
		Relationships:     []*v2_3.Relationship{relate("DOCUMENT", common.TypeRelationshipDescribe, root)}}
	add := func(p *v2_3.Package) {
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, relate(root, common.TypeRelationshipContains, p.PackageSPDXIdentifier))
	}
	if c.os != nil {
		add(pkg("OperatingSystem", c.os.ID, c.os.Version, "OPERATING-SYSTEM"))
	}
	for _, part := range c.Parts() {
		p := pkg(spdxID(part), part.Name, part.Version, "LIBRARY", purl(part.URL))
		if part.Kind == inventory.NodeJS {
			p.PrimaryPackagePurpose = "APPLICATION"
			p.PackageExternalReferences = append(p.PackageExternalReferences,
				&v2_3.PackageExternalReference{Category: common.CategorySecurity, RefType: common.TypeSecurityCPE23Type, Locator: cpe(part)})
		}
		var places []string
		for _, at := range part.Places {
			places = append(places, fmt.Sprintf("%s in layer %s", at.Path, at.Layer))
		}
		p.PackageSourceInfo = "found in " + strings.Join(places, ", ")
		add(p)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(doc)
	return out.Bytes(), err
}

func missing(c *Contents) []string {
	if c.Whole() {
		return nil
	}
	return append([]string{"The list is incomplete:"}, c.Remarks()...)
}

// spdxID is a part's name inside the document; its own name has characters that one cannot have.
func spdxID(p Part) common.ElementID {
	h := sha256.Sum256([]byte(p.URL))
	return common.ElementID(fmt.Sprintf("Package-%s-%x", p.Kind, h[:10]))
}
