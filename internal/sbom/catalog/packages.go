package catalog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/bulwark-paas/bulwark/internal/sbom/inventory"
)

// maxLine bounds a line that is looked at; the rest of a longer one is passed over. No field that counts is as long.
const maxLine = 4 << 10

// fields goes through the paragraphs of "Name: value" lines that Debian and Python write, calling set for each field and
// end at each paragraph's end, until it returns an error. Lines that go on an earlier one are passed over.
func fields(r io.Reader, set func(name, value string), end func() error) error {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		text := string(bytes.TrimRight(line, "\r\n"))
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		switch name, value, ok := strings.Cut(text, ":"); {
		case text == "":
			if e := end(); e != nil {
				return e
			}
		case text[0] == ' ' || text[0] == '\t' || !ok || long:
		default:
			set(name, strings.TrimSpace(value))
		}
		if errors.Is(err, io.EOF) {
			return end()
		}
		if err != nil {
			return err
		}
	}
}

// dpkg reads a status file, of which the packages that are installed count, or one of the files that images without dpkg
// have in its place, which hold no state.
func dpkg(r io.Reader, state bool) ([]inventory.Component, error) {
	var out []inventory.Component
	c := inventory.Component{Kind: inventory.Debian}
	installed := !state
	set := func(name, value string) {
		switch name {
		case "Package":
			c.Name = value
		case "Version":
			c.Version = value
		case "Architecture":
			c.Arch = value
		case "Source":
			c.Source, _, _ = strings.Cut(value, " ")
		case "Status":
			words := strings.Fields(value)
			installed = len(words) == 3 && words[2] == "installed"
		}
	}
	err := fields(r, set, func() error {
		if c.Name != "" && installed {
			if c.Source == c.Name {
				c.Source = ""
			}
			out = append(out, c)
		}
		c, installed = inventory.Component{Kind: inventory.Debian}, !state
		if len(out) > inventory.MaxComponents {
			return errFull // find says that it is too much
		}
		return nil
	})
	if errors.Is(err, errFull) {
		err = nil
	}
	return out, err
}

// system reads what the operating system is called.
func (c *cataloguer) system(name string) error {
	if c.out.OS != nil && name != "etc/os-release" { // etc's wins, as it does on a machine
		return nil
	}
	f, err := c.img.Open(name)
	if err != nil {
		c.remark(name, inventory.Unreadable)
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		c.remark(name, inventory.Unreadable)
		return nil
	}
	if o := osRelease(b); o.Good() {
		c.out.OS = &o
	}
	return nil
}

func osRelease(b []byte) inventory.OS {
	var o inventory.OS
	for line := range bytes.Lines(b) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		value = strings.Trim(value, `"'`)
		switch name {
		case "ID":
			o.ID = value
		case "VERSION_ID":
			o.Version = value
		}
	}
	return o
}

// installedNPM reports whether a folder is one that npm, yarn or pnpm installs a package into: node_modules/NAME or
// node_modules/@SCOPE/NAME. A package.json anywhere else is a part of a package.
func installedNPM(dir string) bool {
	up := path.Dir(dir)
	if strings.HasPrefix(path.Base(up), "@") {
		up = path.Dir(up)
	}
	return path.Base(up) == "node_modules"
}

// npm reads the package.json of an installed package.
func npm(r io.Reader) ([]inventory.Component, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var p struct{ Name, Version string }
	if err := json.Unmarshal(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), &p); err != nil {
		return nil, err
	}
	if p.Name == "" && p.Version == "" {
		return nil, nil // a folder that only says what kind of modules it holds
	}
	return []inventory.Component{{Kind: inventory.NPM, Name: p.Name, Version: p.Version}}, nil
}

// isPython reports whether a file holds the core metadata of an installed distribution.
func isPython(name string) bool {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	return base == "METADATA" && strings.HasSuffix(dir, ".dist-info") || base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info") ||
		strings.HasSuffix(base, ".egg-info")
}

// python reads core metadata, of which only the first paragraph counts: behind it is the description.
func python(r io.Reader) ([]inventory.Component, error) {
	c := inventory.Component{Kind: inventory.Python}
	err := fields(r, func(name, value string) {
		switch name {
		case "Name":
			c.Name = value
		case "Version":
			c.Version = value
		}
	}, func() error { return errFull })
	if errors.Is(err, errFull) {
		err = nil
	}
	if err == nil && c.Name == "" {
		err = errors.New("catalog: the metadata names nothing")
	}
	if err != nil {
		return nil, err
	}
	return []inventory.Component{c}, nil
}
