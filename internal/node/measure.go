package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/cell"
	"github.com/bulwark-paas/bulwark/internal/node/files"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
)

// sourceLimits bound git and bulwark-unpack: an honest source of the largest size that is taken stays well below them. The
// pack, its index and the tree lie on the disk together.
var sourceLimits = cell.Limits{Memory: 1 << 30, PIDs: 64, CPU: 5 * time.Minute, Time: sourceTime, Disk: 4 << 30, Names: 1_000_000}

// measure unpacks a git pack that the server brought and checks that it holds the commit that a person signed for, with
// its whole tree: git names every object by its content while it indexes the pack (collision-detecting SHA-1), so a tree
// of the server's own has another name and is not found. git runs in a cell, as a user of the app's own, in a directory of
// this build alone: a hole in it gives nothing but this app's own source.
//
// A pack of a few kilobytes can hold a tree of a billion files, or files of terabytes. So the tree is counted before it is
// written, and what git takes to find the objects is bounded by the cell.
//
// The result is the source tree in dir/src.
func (b *builds) measure(ctx context.Context, dir string, uid uint32, commit bulwark.Commit, pack io.Reader) (name string, err error) {
	repo, src := filepath.Join(dir, "git"), filepath.Join(dir, sourceDir)
	for _, d := range []string{repo, repo + "/objects", repo + "/refs", src} {
		if err := files.Dir(d, 0o700, uid); err != nil {
			return "", err
		}
	}
	for name, content := range map[string]string{
		"HEAD":   "ref: refs/heads/none\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n\tbigFileThreshold = 8m\n\tdeltaBaseCacheLimit = 64m\n[pack]\n\tthreads = 2\n",
		// The commit's parents are not in the pack; git is told not to look for them.
		"shallow": string(commit) + "\n",
	} {
		if err := files.Write(filepath.Join(repo, name), []byte(content), 0o644); err != nil {
			return "", err
		}
	}
	brought := &broughtPack{r: pack}
	run := func(stdin io.Reader, stdout io.Writer, args ...string) error {
		err := b.config.Cells.Run(ctx, cell.Cmd{What: "Unpacking the source", Hint: "Look for very large files or very many of them in the commit.",
			Path: b.config.Git, Args: append([]string{"--git-dir", repo, "--work-tree", src}, args...), Dir: src,
			Env: []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent", "LC_ALL=C", "PATH=/usr/bin:/bin",
				"GIT_INDEX_FILE=" + filepath.Join(repo, "index")},
			Stdin: stdin, Stdout: stdout, Read: []string{"/dev/urandom"}, Write: []string{repo, src}, User: uid, Limits: sourceLimits})
		if err != nil && bulwark.KindOf(err) == bulwark.KindInternal && ctx.Err() == nil {
			return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The source is not the commit %s that was signed for.", commit.Short()), "Push again.", err)
		}
		return err
	}
	if err := run(brought, nil, "index-pack", "--stdin", "--strict"); err != nil {
		if cut := brought.cut.Load(); cut != nil { // git saw an early end, and that is nobody's commit
			return "", fmt.Errorf("node: the source did not come in whole: %w", *cut)
		}
		return "", err
	}
	// Two questions at once: a person waits for each program that starts.
	of := string(commit) + "^{tree}"
	said := limited{n: 1 << 10}
	var counted error
	var counting sync.WaitGroup
	counting.Go(func() { counted = b.count(run, of) })
	err = run(nil, &said, "rev-parse", "--verify", of)
	if counting.Wait(); counted != nil {
		err = counted
	}
	if err != nil {
		return "", err
	}
	name = strings.TrimSpace(said.String())
	if err := run(nil, nil, "read-tree", "--reset", "-u", name); err != nil {
		return "", err
	}
	return name, os.RemoveAll(repo)
}

// broughtPack remembers how the stream of a pack broke off.
type broughtPack struct {
	r   io.Reader
	cut atomic.Pointer[error]
}

func (p *broughtPack) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err != nil && err != io.EOF {
		p.cut.Store(&err)
	}
	return n, err
}

// count refuses a tree that is more than a source may be. git says what is in it, entry by entry, and is stopped where it is
// too much.
func (b *builds) count(run func(io.Reader, io.Writer, ...string) error, name string) error {
	c := &census{limits: tree.DefaultLimits}
	err := run(nil, c, "ls-tree", "-r", "-t", "-z", "--long", "--full-tree", name)
	if c.refused != nil {
		return c.refused // git ended because nobody listened any more
	}
	return err
}

// census adds up what `git ls-tree -r -t -z --long` prints: "MODE TYPE NAME SIZE\tPATH", ended by a NUL. It believes nothing
// of it but that it bounds what git itself will write; should git lie, the cell's bounds are there.
type census struct {
	limits  tree.Limits
	entries int
	bytes   int64
	names   int64
	rest    []byte // of an entry that is not whole yet
	refused error
}

// maxEntry bounds one entry: a path of the longest that Linux takes, and what stands before it.
const maxEntry = 4096 + 128

// Write implements [io.Writer].
func (c *census) Write(p []byte) (int, error) {
	whole := len(p)
	for c.refused == nil && len(p) > 0 {
		var found bool
		var part []byte
		part, p, found = bytes.Cut(p, []byte{0})
		c.rest = append(c.rest, part...)
		switch {
		case len(c.rest) > maxEntry:
			c.refuse("The commit has a path of more than 4096 characters.")
		case found:
			c.take(string(c.rest))
			c.rest = c.rest[:0]
		}
	}
	return whole, c.refused
}

func (c *census) take(entry string) {
	head, path, _ := strings.Cut(entry, "\t")
	if f := strings.Fields(head); len(f) == 4 && f[1] == "blob" {
		n, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil || n < 0 || n > c.limits.Bytes {
			n = c.limits.Bytes + 1 // so that the sum cannot overflow
		}
		c.bytes += n
	}
	c.names += int64(len(path))
	switch c.entries++; {
	case c.entries > c.limits.Entries:
		c.refuse(fmt.Sprintf("The commit has more than %d files and folders.", c.limits.Entries))
	case c.bytes > c.limits.Bytes:
		c.refuse(fmt.Sprintf("The files of the commit are more than %d MiB.", c.limits.Bytes>>20))
	case c.names > c.limits.Names:
		c.refuse(fmt.Sprintf("The paths of the commit are more than %d MiB together.", c.limits.Names>>20))
	}
}

func (c *census) refuse(message string) {
	c.refused = bulwark.Fail(bulwark.KindTooLarge, message, "Take out what the app does not need, and push again.", nil)
}
