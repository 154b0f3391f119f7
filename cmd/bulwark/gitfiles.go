package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// gitFiles lists what git knows of the current directory: what it tracks, and what is new and not ignored. ok is false if
// this is no git work tree. Where there is one and git cannot list it, that is an error: without git's word, files would
// be sent that a .gitignore keeps back.
func (c *cli) gitFiles(ctx context.Context) (paths []string, ok bool, err error) {
	if !c.inRepository() {
		return nil, false, nil
	}
	out, err := c.git(ctx, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	if ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	if err != nil {
		why := bulwark.Fail(bulwark.KindInvalid, "The folder is in a git repository, but git cannot list its files.", "See what git status says here.", err)
		if exit, ok := errors.AsType[*process.ExitError](err); ok && exit.Stderr != "" {
			why = bulwark.Fail(bulwark.KindInvalid, "The folder is in a git repository, but git cannot list its files: "+indent(exit.Stderr), "See what git status says here.", nil)
		}
		return nil, false, why
	}
	for p := range strings.SplitSeq(out, "\x00") {
		if p != "" {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), true, nil // a file in conflict is named once for each side
}

// inRepository looks for a repository here or above.
func (c *cli) inRepository() bool {
	for dir := c.cwd; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

// present leaves out what git names and is no file here: one that was deleted, also by putting a file or a link in the
// place of a folder above it, and other repositories inside this one, which git push leaves out too.
func (c *cli) present(paths []string) ([]string, error) {
	root, err := os.OpenRoot(c.cwd)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var out []string
	links := map[string]bool{}
	for _, p := range paths { // sorted, so a link comes before what seems to lie below it
		info, err := root.Lstat(strings.TrimSuffix(p, "/"))
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || below(p, links):
		case err != nil:
			return nil, bulwark.Fail(bulwark.KindInvalid, quote(p)+" cannot be read.", "Make it readable, or leave it out with a line in .bulwarkignore.", err)
		case info.IsDir():
			c.note("%s is a git repository of its own and is left out.", quote(strings.TrimSuffix(p, "/")))
		default:
			links[p] = info.Mode()&fs.ModeSymlink != 0
			out = append(out, p)
		}
	}
	return out, nil
}

// below tells whether a folder above p is a link.
func below(p string, links map[string]bool) bool {
	for i := range p {
		if p[i] == '/' && links[p[:i]] {
			return true
		}
	}
	return false
}
