// Package sbom says what an image is made of: it lays the inventories of its layers one upon the other, as an overlay lies,
// and writes the result as SPDX 2.3 and as CycloneDX 1.6, with the libraries of those formats.
//
// It promises that the same inventories give the same documents, that a document is bounded, and that one which does not
// tell of everything that was there says so. It reads nothing of an image itself: inventories come from package inventory,
// which checked each word. Whoever owns this package owns the node, which is why nothing here parses a stranger's bytes.
package sbom

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	packageurl "github.com/package-url/packageurl-go"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// Bounds of an image, over all its layers.
const (
	maxComponents = inventory.MaxComponents
	maxText       = inventory.MaxText
	maxPlaces     = 5 // of one component that are written down
)

// Contents are what an image is made of.
type Contents struct {
	os      *inventory.OS
	finds   map[string]found
	remarks []Remark
}

// found is a find, and the layer that it is of.
type found struct {
	layer      bulwark.Digest
	components []inventory.Component
}

// Remark is an inventory's, and the layer that it is of; the layer is empty if it is about the whole image.
type Remark struct {
	Layer bulwark.Digest
	inventory.Remark
}

// Part is one component of an image.
type Part struct {
	inventory.Component
	URL    string // its package URL
	Places []Place
}

// Place is where a component was found.
type Place struct {
	Layer bulwark.Digest
	Path  string
}

// Add lays a layer on top.
func (c *Contents) Add(layer bulwark.Digest, l *inventory.Layer) {
	if c.finds == nil {
		c.finds = map[string]found{}
	}
	c.hide(l)
	if l.OS != nil {
		c.os = l.OS
	}
	for _, f := range l.Finds {
		if _, had := c.finds[f.Path]; len(f.Components) == 0 && !had {
			continue // it would hide nothing
		}
		c.finds[f.Path] = found{layer, f.Components}
	}
	for _, r := range l.Remarks {
		c.remark(layer, r)
	}
	c.bound()
}

// hide takes away what the layer takes away: it asks of each find whether anything above it is gone, so that neither list
// makes the other dear.
func (c *Contents) hide(l *inventory.Layer) {
	gone, opaque := map[string]bool{}, map[string]bool{}
	for _, p := range l.Gone {
		gone[p] = true
	}
	for _, p := range l.Opaque {
		opaque[p] = true
	}
	maps.DeleteFunc(c.finds, func(p string, _ found) bool {
		if gone[p] {
			return true
		}
		for up := path.Dir(p); up != "." && up != "/"; up = path.Dir(up) {
			if gone[up] || opaque[up] {
				return true
			}
		}
		return false
	})
}

// bound leaves out what is more than an image may have, from the end, and says so.
func (c *Contents) bound() {
	components, text, cut := 0, 0, false
	for _, p := range slices.Sorted(maps.Keys(c.finds)) {
		f := c.finds[p]
		components += len(f.components)
		for _, k := range f.components {
			text += len(p) + k.Size() // the path is written once for each
		}
		if components > maxComponents || text > maxText {
			delete(c.finds, p)
			cut = true
		}
	}
	if cut {
		c.remark("", inventory.Remark{Why: inventory.TooMany})
	}
}

func (c *Contents) remark(layer bulwark.Digest, r inventory.Remark) {
	if n := (Remark{layer, r}); len(c.remarks) < inventory.MaxRemarks && !slices.Contains(c.remarks, n) {
		c.remarks = append(c.remarks, n)
	}
}

// Fail says that a layer could not be looked into.
func (c *Contents) Fail(layer bulwark.Digest) {
	c.remark(layer, inventory.Remark{Why: inventory.Failed})
}

// Whole reports whether everything was looked into that the layers have of the kinds that are looked for.
func (c *Contents) Whole() bool { return len(c.remarks) == 0 }

// Remarks says what was not.
func (c *Contents) Remarks() []string {
	var out []string
	for _, r := range c.remarks {
		s := words[r.Why]
		if r.Path != "" {
			s += ": " + r.Path
		}
		if r.Layer != "" {
			s += " (layer " + string(r.Layer) + ")"
		}
		out = append(out, s)
	}
	return out
}

// words are the reasons in sentences.
var words = map[inventory.Why]string{
	inventory.Unreadable: "This is not what its name says, and was not read",
	inventory.TooLarge:   "This is too large to be read",
	inventory.TooMany:    "There is more than is listed",
	inventory.BadName:    "A package with an impossible name or version was left out",
	inventory.Failed:     "The layer could not be looked into",
}

// Parts are the components, each once, in a fixed order.
func (c *Contents) Parts() []Part {
	parts := map[inventory.Component]*Part{}
	for _, p := range slices.Sorted(maps.Keys(c.finds)) {
		f := c.finds[p]
		for _, k := range f.components {
			part := parts[k]
			if part == nil {
				part = &Part{Component: k, URL: c.url(k)}
				parts[k] = part
			}
			if place := (Place{f.layer, p}); len(part.Places) < maxPlaces && !slices.Contains(part.Places, place) {
				part.Places = append(part.Places, place)
			}
		}
	}
	out := make([]Part, 0, len(parts))
	for _, p := range parts {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Part) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch),
			cmp.Compare(a.Source, b.Source))
	})
	// Names that differ in capitals alone can have one URL, which stands for a thing in both formats.
	seen := map[string]bool{}
	return slices.DeleteFunc(out, func(p Part) bool {
		had := seen[p.URL]
		seen[p.URL] = true
		return had
	})
}

// url is the package URL of a component.
func (c *Contents) url(k inventory.Component) string {
	u := packageurl.PackageURL{Type: string(k.Kind), Name: k.Name, Version: k.Version}
	switch k.Kind {
	case inventory.Debian:
		u.Namespace = "debian"
		q := map[string]string{}
		if c.os != nil {
			u.Namespace = c.os.ID
			if c.os.Version != "" {
				q["distro"] = c.os.ID + "-" + c.os.Version
			}
		}
		if k.Arch != "" {
			q["arch"] = k.Arch
		}
		if k.Source != "" {
			q["upstream"] = k.Source
		}
		u.Qualifiers = packageurl.QualifiersFromMap(q)
	case inventory.Go, inventory.NPM:
		if i := strings.LastIndexByte(k.Name, '/'); i >= 0 {
			u.Namespace, u.Name = k.Name[:i], k.Name[i+1:]
		}
	case inventory.NodeJS:
		u.Type = packageurl.TypeGeneric
	}
	if err := u.Normalize(); err != nil {
		return "" // no kind of ours has a name that its type refuses; such a part would fall out in Parts as one
	}
	return u.ToString()
}
