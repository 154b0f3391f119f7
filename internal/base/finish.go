package base

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// finish turns what mmdebstrap made into a base: it takes out what is of this machine or of one moment, takes setuid
// from every file, and adds the app's user and directories.
func finish(t tree) error {
	_, hasApt := t["usr/bin/apt-get"]
	for name, e := range t {
		switch {
		case dropped(name, hasApt):
			delete(t, name)
		case e.hdr.Typeflag == tar.TypeReg || e.hdr.Typeflag == tar.TypeLink:
			// Apps run with no_new_privs, so these bits do nothing for them; without the bits they cannot be a hole either.
			e.hdr.Mode &^= 0o6000
		case e.hdr.Typeflag == tar.TypeDir, e.hdr.Typeflag == tar.TypeSymlink:
		default:
			delete(t, name) // a device or a FIFO
		}
	}
	for _, f := range []struct{ name, line string }{
		{"etc/passwd", fmt.Sprintf("app:x:%d:%d:app:/app:/usr/sbin/nologin\n", appID, appID)},
		{"etc/group", fmt.Sprintf("app:x:%d:\n", appID)},
	} {
		if err := appendLine(t, f.name, f.line); err != nil {
			return err
		}
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "app"} {
		t.addDir(dir, 0o755)
	}
	t.addDir("tmp", 0o1777)
	t["app"].hdr.Uid, t["app"].hdr.Gid = appID, appID
	// The runtime mounts its own files over these; they have to be there because the root is read-only.
	for _, name := range []string{"etc/hostname", "etc/hosts", "etc/resolv.conf"} {
		t.addBytes(name, 0o644, nil)
	}
	return nil
}

// dropped tells what does not belong into a base: the files below directories that hold state, and apt without apt.
func dropped(name string, hasApt bool) bool {
	for _, dir := range []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/tmp/", "var/log/", "var/cache/", "var/lib/apt/lists/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	if !hasApt && (name == "etc/apt" || strings.HasPrefix(name, "etc/apt/") || name == "var/lib/apt" || strings.HasPrefix(name, "var/lib/apt/")) {
		return true
	}
	return strings.HasPrefix(name, "var/lib/dpkg/") && (strings.HasSuffix(name, "-old") || strings.HasPrefix(path.Base(name), "lock"))
}

// appendLine adds a line to a small file and keeps the file's owner and mode.
func appendLine(t tree, name, line string) error {
	b, err := t.bytes(name)
	if err != nil {
		return err
	}
	old := t[name].hdr
	t.addBytes(name, old.Mode, append(b, line...))
	t[name].hdr.Uid, t[name].hdr.Gid = old.Uid, old.Gid
	return nil
}

// keep returns the part of t that a recipe names, with the parents of what it keeps, and with a package database that
// lists only what is in it: the bill of materials is read from that.
func keep(t tree, paths, packages []string) (tree, error) {
	out := tree{}
	for name, e := range t {
		for _, want := range paths {
			if name == want || strings.HasPrefix(name, want+"/") {
				out[name] = e
			}
		}
	}
	for name := range out {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if out[dir] == nil && t[dir] != nil {
				out[dir] = t[dir]
			}
		}
	}
	status, err := t.bytes("var/lib/dpkg/status")
	if err != nil {
		return nil, err
	}
	var kept [][]byte
	for stanza := range bytes.SplitSeq(status, []byte("\n\n")) {
		first, _, _ := bytes.Cut(bytes.TrimSpace(stanza), []byte("\n"))
		if name, ok := bytes.CutPrefix(first, []byte("Package: ")); ok && slices.Contains(packages, string(name)) {
			kept = append(kept, append(bytes.TrimSpace(stanza), '\n', '\n'))
		}
	}
	if len(kept) != len(packages) {
		return nil, fmt.Errorf("the package database has %d of the %d packages %v", len(kept), len(packages), packages)
	}
	out.addBytes("var/lib/dpkg/status", 0o644, bytes.Join(kept, nil))
	return out, nil
}
