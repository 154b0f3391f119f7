// Package inventory is what one layer of an image holds, as the process without rights that looked into it says it: which
// files tell of packages, what they tell, and which files of lower layers the layer takes away.
//
// It promises that whatever Decode returns is bounded, and that no text in it can drive a terminal, leave its place in a
// document or name a thing of another ecosystem: each name and version has the characters that its ecosystem allows and no
// others. That the words are true nobody can promise, for a layer's own author wrote what is read there. Whoever owns the
// process that looked can say of that layer what they like, within these bounds.
package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// Layer is the inventory of one layer.
type Layer struct {
	Finds []Find `json:"finds,omitempty"`
	// Gone are the files and folders of lower layers that this one takes away; Opaque the folders of which it takes away
	// all that lower layers put into them.
	Gone   []string `json:"gone,omitempty"`
	Opaque []string `json:"opaque,omitempty"`
	OS     *OS      `json:"os,omitempty"`
	// Remarks say what could not be looked into: an inventory with remarks is not whole.
	Remarks []Remark `json:"remarks,omitempty"`
}

// Find is a file that tells of packages. Without any it still stands in the place of one of a lower layer.
type Find struct {
	Path       string      `json:"path"`
	Components []Component `json:"components,omitempty"`
}

// Component is a package.
type Component struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // a program under development may have none
	Arch    string `json:"arch,omitempty"`    // of a Debian package
	Source  string `json:"source,omitempty"`  // the Debian source package, where it has another name
}

// OS is what etc/os-release says.
type OS struct {
	ID      string `json:"id"`
	Version string `json:"version,omitempty"`
}

// Remark says what could not be looked into; Path is empty if it is about the layer as a whole.
type Remark struct {
	Path string `json:"path,omitempty"`
	Why  Why    `json:"why"`
}

// Kind is the ecosystem that a package is of.
type Kind string

// The kinds.
const (
	Debian Kind = "deb"
	Go     Kind = "golang"
	NPM    Kind = "npm"
	Python Kind = "pypi"
	NodeJS Kind = "node" // the runtime itself, which is no package of any
)

// Why is the reason of a remark. It is one of a list, so that nobody's words but ours reach a reader.
type Why string

// The reasons.
const (
	Unreadable Why = "unreadable" // it is not what its name says
	TooLarge   Why = "too large"
	TooMany    Why = "too many"
	BadName    Why = "bad name" // a package whose name or version has characters that none has
	Failed     Why = "failed"   // the process that looked did not come to its end
)

// Bounds of an inventory.
const (
	MaxComponents = 20_000
	MaxText       = 8 << 20 // of all names, versions and paths together, in bytes
	MaxRemarks    = 100
	MaxPath       = 512
	maxName       = 214
	maxVersion    = 128
	// MaxEncoded is what Decode reads: the text, and what JSON puts around it.
	MaxEncoded = 24 << 20
)

// The characters of names, by kind.
var names = map[Kind]*regexp.Regexp{
	Debian: regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*$`),
	Go:     regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._~-]*(/[A-Za-z0-9._~+-]+)*$`),
	NPM:    regexp.MustCompile(`^(@[A-Za-z0-9~-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~_-][A-Za-z0-9._~-]*$`),
	Python: regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`),
	NodeJS: regexp.MustCompile(`^node$`),
}

var (
	versions = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+:~_!-]*$`)
	arches   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	systems  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)
	whys     = map[Why]bool{Unreadable: true, TooLarge: true, TooMany: true, BadName: true, Failed: true}
)

// Good reports whether a component has the characters and lengths that its kind allows.
func (c Component) Good() bool {
	name := names[c.Kind]
	return name != nil && len(c.Name) <= maxName && name.MatchString(c.Name) &&
		(c.Version == "" && c.Kind == Go || len(c.Version) <= maxVersion && versions.MatchString(c.Version)) &&
		(c.Arch == "" || c.Kind == Debian && arches.MatchString(c.Arch)) &&
		(c.Source == "" || c.Kind == Debian && len(c.Source) <= maxName && names[Debian].MatchString(c.Source))
}

// Size is how much of MaxText a component takes.
func (c Component) Size() int { return len(c.Name) + len(c.Version) + len(c.Arch) + len(c.Source) }

// Good reports whether the name of an operating system is one.
func (o OS) Good() bool {
	return systems.MatchString(o.ID) && (o.Version == "" || systems.MatchString(o.Version))
}

// Path returns a path in the form that inventories have: relative, and every byte that is not plain ASCII, and %, as %XX.
// Different paths stay different. It returns "" for one that is too long to be written down.
func Path(name string) string {
	name = strings.TrimLeft(name, "/")
	if strings.IndexFunc(name, func(r rune) bool { return unplain(r) || r == '%' }) >= 0 {
		var b strings.Builder
		for i := range len(name) {
			if c := name[i]; c < ' ' || c >= 0x7f || c == '%' {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
		name = b.String()
	}
	if len(name) > MaxPath {
		return ""
	}
	return name
}

func unplain(r rune) bool { return r < ' ' || r >= 0x7f }

// Decode reads an inventory strictly: what is unknown, too much or not well formed is refused.
func Decode(b []byte) (*Layer, error) {
	if len(b) > MaxEncoded {
		return nil, bulwark.Failf(bulwark.KindTooLarge, "The inventory of a layer is larger than %d MiB.", MaxEncoded>>20)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var l Layer
	if err := d.Decode(&l); err != nil {
		return nil, bad(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, bad(errors.New("something follows it"))
	}
	if err := l.check(); err != nil {
		return nil, bad(err)
	}
	return &l, nil
}

func bad(err error) error {
	return bulwark.Fail(bulwark.KindFailed, "The inventory of a layer is not well formed.", "", err)
}

func (l *Layer) check() error {
	text, components := 0, 0
	path := func(p string) error {
		text += len(p)
		if p == "" || p[0] == '/' || len(p) > MaxPath || strings.IndexFunc(p, unplain) >= 0 {
			return fmt.Errorf("%q is no path", p)
		}
		return nil
	}
	for _, f := range l.Finds {
		if err := path(f.Path); err != nil {
			return err
		}
		components += len(f.Components)
		for _, c := range f.Components {
			text += c.Size()
			if !c.Good() {
				return fmt.Errorf("%q %q of kind %q is no component", c.Name, c.Version, c.Kind)
			}
		}
	}
	for _, list := range [][]string{l.Gone, l.Opaque} {
		for _, p := range list {
			if err := path(p); err != nil {
				return err
			}
		}
	}
	for _, r := range l.Remarks {
		if r.Path != "" {
			if err := path(r.Path); err != nil {
				return err
			}
		}
		if !whys[r.Why] {
			return fmt.Errorf("%q is no reason", r.Why)
		}
	}
	switch {
	case l.OS != nil && !l.OS.Good():
		return fmt.Errorf("%q %q is no system", l.OS.ID, l.OS.Version)
	case components > MaxComponents || len(l.Remarks) > MaxRemarks || text > MaxText:
		return errors.New("it is too much")
	}
	return nil
}
