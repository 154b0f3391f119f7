package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/files"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// measure unpacks a git pack that the server brought and checks that it holds the commit that a person signed for, with
// its whole tree: git names every object by its content while it indexes the pack (collision-detecting SHA-1), so a tree
// of the server's own has another name and is not found. git runs as a user of the app's own, without capabilities, in
// a directory of this build alone: a hole in it gives nothing but this app's own source.
//
// The result is the source tree in dir/src.
func measure(ctx context.Context, git, dir string, uid uint32, commit bulwark.Commit, pack io.Reader) (tree string, err error) {
	repo, src := filepath.Join(dir, "git"), filepath.Join(dir, "src")
	for _, d := range []string{repo, repo + "/objects", repo + "/refs", src} {
		if err := files.Dir(d, 0o755, uid); err != nil {
			return "", err
		}
	}
	for name, content := range map[string]string{
		"HEAD":   "ref: refs/heads/none\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
		// The commit's parents are not in the pack; git is told not to look for them.
		"shallow": string(commit) + "\n",
	} {
		if err := files.Write(filepath.Join(repo, name), []byte(content), 0o644); err != nil {
			return "", err
		}
	}
	run := func(stdin io.Reader, args ...string) ([]byte, error) {
		return process.Output(ctx, process.Cmd{Path: git, Args: append([]string{"--git-dir", repo, "--work-tree", src}, args...), Dir: src,
			Env: []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent", "LC_ALL=C", "PATH=/usr/bin:/bin",
				"GIT_INDEX_FILE=" + filepath.Join(repo, "index")},
			Stdin: stdin, User: uid, Group: uid})
	}
	notThis := func(err error) (string, error) {
		return "", bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The source is not the commit %s that was signed for.", commit.Short()), "Push again.", err)
	}
	if _, err := run(pack, "index-pack", "--stdin", "--strict"); err != nil {
		return notThis(err)
	}
	out, err := run(nil, "rev-parse", "--verify", string(commit)+"^{tree}")
	if err != nil {
		return notThis(err)
	}
	tree = strings.TrimSpace(string(out))
	if _, err := run(nil, "read-tree", tree); err != nil {
		return notThis(err)
	}
	if _, err := run(nil, "checkout-index", "--all", "--quiet"); err != nil {
		return notThis(err)
	}
	return tree, os.RemoveAll(repo)
}
