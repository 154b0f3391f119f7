package base

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
)

// whiteout is the prefix that deletes a file of a lower layer (OCI image-spec, layer.md, "Whiteouts").
const whiteout = ".wh."

// diff returns the layer that turns ground into full: what is new or changed, with the directories above it, and a
// whiteout for what is gone. Times do not count as a change, a file that was merely made again is the same file.
func diff(ground, full tree) tree {
	out := tree{}
	for name, e := range full {
		if old := ground[name]; old != nil && facts(ground, old) == facts(full, e) {
			continue
		}
		out[name] = e
	}
	// A hard link has to have its target in the same layer, or it would be left with the target's old content.
	for _, e := range slices.Collect(maps.Values(out)) {
		if e.hdr.Typeflag == tar.TypeLink && full[e.hdr.Linkname] != nil {
			out[e.hdr.Linkname] = full[e.hdr.Linkname]
		}
	}
	for name := range ground {
		// A directory that is gone, or is none any more, takes what is below with it.
		if full[name] == nil && isDir(full, path.Dir(name)) {
			gone := path.Join(path.Dir(name), whiteout+path.Base(name))
			out[gone] = &entry{hdr: tar.Header{Typeflag: tar.TypeReg, Name: gone}}
		}
	}
	for _, name := range slices.Collect(maps.Keys(out)) {
		for dir := path.Dir(name); dir != "." && out[dir] == nil; dir = path.Dir(dir) {
			if full[dir] != nil {
				out[dir] = full[dir]
			}
		}
	}
	return out
}

func isDir(t tree, name string) bool {
	return name == "." || t[name] != nil && t[name].hdr.Typeflag == tar.TypeDir
}

// facts is all of an entry that a program can see, but for its times.
func facts(t tree, e *entry) string {
	sum := e.sum
	if e.hdr.Typeflag == tar.TypeLink {
		if target := t[e.hdr.Linkname]; target != nil {
			sum = sha256.Sum256([]byte(facts(t, target)))
		}
	}
	h := e.hdr
	return fmt.Sprintf("%c %o %d %d %q %d.%d %v %x", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, h.Devmajor, h.Devminor, xattrs(h), sum)
}
