package sbom_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	packageurl "github.com/package-url/packageurl-go"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/sbom"
	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

var image = sbom.Image{Name: "shop", Digest: bulwark.Sum([]byte("image")), Build: "bld_0000000000000000000000000c",
	Made: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)}

func deb(name, version string) inventory.Component {
	return inventory.Component{Kind: inventory.Debian, Name: name, Version: version, Arch: "amd64"}
}

func npm(name string) inventory.Component {
	return inventory.Component{Kind: inventory.NPM, Name: name, Version: "1.0.0"}
}

func find(path string, cs ...inventory.Component) inventory.Find {
	return inventory.Find{Path: path, Components: cs}
}

// contents lays layers upon each other, the first at the bottom.
func contents(layers ...inventory.Layer) *sbom.Contents {
	var c sbom.Contents
	for i, l := range layers {
		c.Add(bulwark.Sum([]byte{byte(i)}), &l)
	}
	return &c
}

func urls(c *sbom.Contents) []string {
	var out []string
	for _, p := range c.Parts() {
		out = append(out, p.URL)
	}
	return out
}

// Layers lie upon each other as they do in an instance.
func TestOverlay(t *testing.T) {
	const status = "var/lib/dpkg/status"
	base := inventory.Layer{OS: &inventory.OS{ID: "debian", Version: "12"},
		Finds: []inventory.Find{find(status, deb("bash", "5"), deb("apt", "2")), find("srv/node_modules/a/package.json", npm("a")), find("srv/x/node_modules/b/package.json", npm("b"))}}
	bash, apt := "pkg:deb/debian/bash@5?arch=amd64&distro=debian-12", "pkg:deb/debian/apt@2?arch=amd64&distro=debian-12"
	a, b := "pkg:npm/a@1.0.0", "pkg:npm/b@1.0.0"
	for name, c := range map[string]struct {
		top  inventory.Layer
		want []string
	}{
		"nothing on top":                  {inventory.Layer{}, []string{apt, bash, a, b}},
		"a new list of packages":          {inventory.Layer{Finds: []inventory.Find{find(status, deb("bash", "6"))}}, []string{"pkg:deb/debian/bash@6?arch=amd64&distro=debian-12", a, b}},
		"a list that cannot be read":      {inventory.Layer{Finds: []inventory.Find{find(status)}}, []string{a, b}},
		"a folder that is gone":           {inventory.Layer{Gone: []string{"srv"}}, []string{apt, bash}},
		"a file that is gone":             {inventory.Layer{Gone: []string{"srv/node_modules/a/package.json"}}, []string{apt, bash, b}},
		"a name that begins like another": {inventory.Layer{Gone: []string{"sr", "srv/node"}}, []string{apt, bash, a, b}},
		"a folder that is new":            {inventory.Layer{Opaque: []string{"srv/x"}, Finds: []inventory.Find{find("srv/x/node_modules/c/package.json", npm("c"))}}, []string{apt, bash, a, "pkg:npm/c@1.0.0"}},
		"the same again elsewhere":        {inventory.Layer{Finds: []inventory.Find{find("opt/node_modules/a/package.json", npm("a"))}}, []string{apt, bash, a, b}},
		"another system":                  {inventory.Layer{OS: &inventory.OS{ID: "ubuntu"}, Gone: []string{status, "srv"}, Finds: []inventory.Find{find("var/lib/dpkg/status.d/x", deb("x", "1"))}}, []string{"pkg:deb/ubuntu/x@1?arch=amd64"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := urls(contents(base, c.top)); !slices.Equal(got, c.want) {
				t.Fatalf("%q,\nwant %q", got, c.want)
			}
		})
	}
}

// Every kind of component has a package URL that its own library reads back as what it was.
func TestURL(t *testing.T) {
	for want, k := range map[string]inventory.Component{
		"pkg:golang/github.com/BurntSushi/toml@v1.6.0":   {Kind: inventory.Go, Name: "github.com/BurntSushi/toml", Version: "v1.6.0"},
		"pkg:golang/stdlib@1.26.8":                       {Kind: inventory.Go, Name: "stdlib", Version: "1.26.8"},
		"pkg:golang/shop":                                {Kind: inventory.Go, Name: "shop"},
		"pkg:npm/%40types/node@1.0.0":                    npm("@types/node"),
		"pkg:pypi/flask-login@0.6":                       {Kind: inventory.Python, Name: "Flask_Login", Version: "0.6"},
		"pkg:generic/node@22.1.0":                        {Kind: inventory.NodeJS, Name: "node", Version: "22.1.0"},
		"pkg:deb/debian/libc6@1:2?arch=amd64&upstream=g": {Kind: inventory.Debian, Name: "libc6", Version: "1:2", Arch: "amd64", Source: "g"},
	} {
		got := urls(contents(inventory.Layer{Finds: []inventory.Find{find("x", k)}}))
		if len(got) != 1 || !strings.EqualFold(got[0], want) {
			t.Errorf("%q, want %q", got, want)
		}
		if _, err := packageurl.FromString(got[0]); err != nil {
			t.Error(err)
		}
	}
}

// Both documents are what the libraries of their formats read, say the same, and say it again the same way.
func TestDocuments(t *testing.T) {
	base := inventory.Layer{OS: &inventory.OS{ID: "debian", Version: "12"}, Finds: []inventory.Find{find("var/lib/dpkg/status", deb("bash", "5.2"), deb("libc6", "2.36"))}}
	app := inventory.Layer{Finds: []inventory.Find{find("app/bin/shop", inventory.Component{Kind: inventory.Go, Name: "stdlib", Version: "1.26.8"},
		inventory.Component{Kind: inventory.Go, Name: "example.org/Shop"}), find("usr/local/bin/node", inventory.Component{Kind: inventory.NodeJS, Name: "node", Version: "22.1.0"}),
		find("a/node_modules/@a/b/package.json", npm("@a/b")), find("b/node_modules/@a/b/package.json", npm("@a/b"))}}
	for _, whole := range []bool{true, false} {
		if !whole {
			app.Remarks = []inventory.Remark{{Path: "var/lib/dpkg/status.d/x", Why: inventory.TooLarge}}
		}
		c := contents(base, app)
		if !whole {
			c.Fail(bulwark.Sum([]byte("lost")))
		}
		list := append(urls(c), "pkg:oci/shop@sha256%3A"+image.Digest.Hex())
		slices.Sort(list)
		if got := readSPDX(t, c, whole); !slices.Equal(got, list) {
			t.Errorf("SPDX has %q,\nwant %q", got, list)
		}
		if got := readCycloneDX(t, c, whole); !slices.Equal(got, list) {
			t.Errorf("CycloneDX has %q,\nwant %q", got, list)
		}
	}
	if _, err := sbom.Write("pdf", image, contents()); err == nil {
		t.Error("it was written as something else")
	}
}

func write(t *testing.T, f sbom.Format, c *sbom.Contents) []byte {
	t.Helper()
	b, err := sbom.Write(f, image, c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sbom.Write(f, image, c)
	if err != nil || !bytes.Equal(b, again) || b[len(b)-1] != '\n' {
		t.Fatal("the same contents gave another document", err)
	}
	return b
}

// readSPDX returns the package URLs that are related to the document.
func readSPDX(t *testing.T, c *sbom.Contents, whole bool) (out []string) {
	t.Helper()
	var doc v2_3.Document
	if err := spdxjson.ReadInto(bytes.NewReader(write(t, sbom.SPDX, c)), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" || doc.CreationInfo.Created != "2026-01-02T03:04:05Z" ||
		!strings.HasPrefix(doc.DocumentNamespace, "https://bulwark.dev/sbom/bld_") || strings.Contains(doc.DocumentComment, "incomplete") == whole {
		t.Errorf("%+v", doc)
	}
	related := map[string]bool{}
	for _, r := range doc.Relationships {
		related[string(r.RefB.ElementRefID)] = true
	}
	for _, p := range doc.Packages {
		if !related[string(p.PackageSPDXIdentifier)] {
			t.Errorf("%s hangs in the air", p.PackageName)
		}
		delete(related, string(p.PackageSPDXIdentifier)) // a second one of the same name hangs in the air too
		for _, r := range p.PackageExternalReferences {
			if r.RefType == "purl" {
				out = append(out, r.Locator)
			}
		}
	}
	slices.Sort(out)
	return out
}

func readCycloneDX(t *testing.T, c *sbom.Contents, whole bool) (out []string) {
	t.Helper()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(write(t, sbom.CycloneDX, c)), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.SpecVersion != cdx.SpecVersion1_6 || bom.Metadata.Timestamp != "2026-01-02T03:04:05Z" ||
		((*bom.Compositions)[0].Aggregate == cdx.CompositionAggregateIncomplete) == whole {
		t.Errorf("%+v", bom)
	}
	root := bom.Metadata.Component
	out = append(out, root.PackageURL)
	deps := map[string]bool{}
	for _, d := range *(*bom.Dependencies)[0].Dependencies {
		deps[d] = true
	}
	for _, k := range *bom.Components {
		if !deps[k.BOMRef] {
			t.Errorf("%s hangs in the air", k.Name)
		}
		delete(deps, k.BOMRef)
		if k.PackageURL != "" {
			out = append(out, k.PackageURL)
		}
	}
	slices.Sort(out)
	return out
}

// However much the layers of an image say, the documents have an end, and say that there is more.
func TestBounds(t *testing.T) {
	var layers []inventory.Layer
	for i := range 3 {
		var l inventory.Layer
		for j := range inventory.MaxComponents / 2 {
			l.Finds = append(l.Finds, find(fmt.Sprintf("l%d/%05d/%s/package.json", i, j, strings.Repeat("x", 100)), npm(fmt.Sprintf("p%d-%d", i, j))))
		}
		layers = append(layers, l)
	}
	c := contents(layers...)
	if n := len(c.Parts()); n > inventory.MaxComponents || n < 1000 || c.Whole() {
		t.Fatalf("%d components, whole: %t", n, c.Whole())
	}
	for _, f := range sbom.Formats() {
		if b, err := sbom.Write(f, image, c); err != nil {
			t.Error(err)
		} else {
			t.Logf("%s: %d bytes", f, len(b))
		}
	}
}
