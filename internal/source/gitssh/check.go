package gitssh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/source/gitssh/hook"
)

// update is the one change of a ref that a push may carry.
type update struct {
	old, new bulwark.Commit
	ref      string
}

// parseUpdate reads the lines that git gave the hook and refuses what is not one commit for the branch that deploys.
func parseUpdate(lines []string, app bulwark.AppName, branch string) (update, error) {
	if len(lines) == 0 {
		return update{}, fmt.Errorf("gitssh: the hook sent no ref")
	}
	if len(lines) > 1 {
		return update{}, bulwark.Invalid(
			fmt.Sprintf("One push deploys one branch, and this one carries %d branches or tags.", len(lines)),
			fmt.Sprintf("Push the branch alone: git push --no-follow-tags bulwark %s", branch))
	}
	var u update
	f := strings.SplitN(lines[0], " ", 3)
	if len(f) != 3 {
		return update{}, fmt.Errorf("gitssh: the hook sent a line that is not git's")
	}
	u.ref = f[2]
	var err error
	if u.old, err = bulwark.ParseCommit(f[0]); err != nil {
		return update{}, err
	}
	if u.new, err = bulwark.ParseCommit(f[1]); err != nil {
		return update{}, err
	}
	if u.old == zero {
		u.old = ""
	}
	return u, u.check(app, branch)
}

func (u update) check(app bulwark.AppName, branch string) error {
	short, isBranch := strings.CutPrefix(u.ref, "refs/heads/")
	switch {
	case u.new == zero && short == branch:
		return bulwark.Invalid(fmt.Sprintf("The branch %s of %s is what runs, so it cannot be deleted.", branch, app),
			"To take the app itself away, use: bulwark apps destroy")
	case u.new == zero:
		return bulwark.Invalid(fmt.Sprintf("%s has only the branch %s, and that cannot be deleted.", app, branch), "")
	case strings.HasPrefix(u.ref, "refs/tags/"):
		return bulwark.Invalid("Bulwark deploys branches and keeps no tags.",
			fmt.Sprintf("Push the branch alone: git push --no-follow-tags bulwark %s", branch))
	case !isBranch || short != branch:
		from := "my-branch"
		if isBranch && plainBranch(short) { // it is shown as a command to copy: nothing a shell would act on
			from = short
		}
		return bulwark.Invalid(fmt.Sprintf("Only the branch %s of %s deploys, and this push was to another one.", branch, app),
			fmt.Sprintf("Deploy it with: git push bulwark %s:%s", from, branch))
	}
	return nil
}

// plainBranch reports whether a branch's name is one that needs no quoting anywhere and that git takes.
func plainBranch(s string) bool {
	if s == "" || len(s) > 100 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") != "" {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part[0] == '.' || part[0] == '-' || strings.HasSuffix(part, ".lock") || strings.HasSuffix(part, ".") {
			return false
		}
	}
	return !strings.Contains(s, "..")
}

// checkSigned refuses a push without a certificate, or whose certificate was not made for this very push. Whether the
// signature holds, and whose it is, the node says.
func checkSigned(req hook.Request) error {
	if req.Env["GIT_PUSH_CERT"] == "" {
		return bulwark.Fail(bulwark.KindForbidden, "This push is not signed, and Bulwark deploys only what a person has signed.",
			"Turn signing on, once per repository, with your SSH key, and push again:\n"+
				"    git config push.gpgSign if-asked\n"+
				"    git config gpg.format ssh\n"+
				"    git config user.signingKey ~/.ssh/id_ed25519.pub\n"+
				"\"bulwark git setup\" does this for you, and \"bulwark apps create\" did it for a new app.", nil)
	}
	if status := req.Env["GIT_PUSH_CERT_NONCE_STATUS"]; status != "OK" {
		return bulwark.Fail(bulwark.KindForbidden, "The signature of this push was made for another push.",
			"Push again; if it stays so, something between you and Bulwark repeats old pushes.",
			fmt.Errorf("gitssh: nonce status %q", status))
	}
	return nil
}

// checkHistory refuses a commit whose ancestors are not all there. Git refuses what a shallow clone sends as well, but
// only after it has asked the hook: too late, the commit would be deployed by then.
func (st *store) checkHistory(ctx context.Context, app bulwark.AppID, commit bulwark.Commit, env []string) error {
	err := process.Run(ctx, st.cmd(app, env, "rev-list", "--quiet", string(commit), "--not", "--all"))
	if _, ok := errors.AsType[*process.ExitError](err); !ok {
		return err
	}
	return bulwark.Fail(bulwark.KindInvalid, "The push comes from a clone that does not have its whole history.",
		"Fetch the rest, and push again: git fetch --unshallow", err)
}

// checkTree counts what a checkout of commit would hold and refuses what is over a limit or cannot be built. It reads
// the list as git walks it and stops at the limit, so that a tree that names itself a million times costs no more.
func (st *store) checkTree(ctx context.Context, app bulwark.AppID, commit bulwark.Commit, env []string) (treeInfo, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return treeInfo{}, err
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := st.cmd(app, env, "ls-tree", "-r", "-l", "-z", "--full-tree", string(commit))
	c.Stdout = w
	p, err := process.Start(ctx, c)
	w.Close()
	if err != nil {
		return treeInfo{}, err
	}
	t, err := st.cfg.countTree(r)
	if err != nil {
		cancel()
		_ = p.Wait()
		return treeInfo{}, err
	}
	return t, p.Wait()
}

// treeInfo is what a checkout would hold.
type treeInfo struct {
	files int
	bytes int64
}

// countTree reads what "git ls-tree -r -l -z" prints: "<mode> <type> <id> <size>\t<path>\0", the size padded.
func (cfg *Config) countTree(r io.Reader) (treeInfo, error) {
	var t treeInfo
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadSlice(0)
		switch {
		case err == io.EOF && len(line) == 0:
			return t, nil
		case err == bufio.ErrBufferFull:
			return t, cfg.longPath()
		case err != nil:
			return t, fmt.Errorf("gitssh: ls-tree was cut: %w", err)
		}
		head, path, ok := strings.Cut(string(line[:len(line)-1]), "\t")
		f := strings.Fields(head)
		if !ok || len(f) != 4 {
			return t, fmt.Errorf("gitssh: ls-tree printed %q", line)
		}
		if f[0] == "160000" {
			return t, bulwark.Invalid(fmt.Sprintf("The commit has a submodule at %+q, and Bulwark fetches no other repositories.", path),
				"Put its files into the repository itself: remove the submodule and add the files, or use git subtree.")
		}
		n, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil || n < 0 {
			return t, fmt.Errorf("gitssh: ls-tree printed %q", line)
		}
		n = min(n, cfg.MaxTree+1) // a sum that cannot overflow
		t.files++
		t.bytes += n
		if err := cfg.checkCount(t, path); err != nil {
			return t, err
		}
	}
}

func (cfg *Config) checkCount(t treeInfo, path string) error {
	const hint = "Leave out what is built or downloaded, such as node_modules, with a .gitignore, and keep large data elsewhere."
	if t.files > cfg.MaxFiles {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The commit has more than %d files.", cfg.MaxFiles), hint, nil)
	}
	if t.bytes > cfg.MaxTree {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The files of the commit are more than %s.", size(cfg.MaxTree)), hint, nil)
	}
	if len(path) > cfg.MaxPath {
		return cfg.longPath()
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) > 255 { // NAME_MAX of Linux's file systems
			return cfg.longPath()
		}
	}
	return nil
}

func (cfg *Config) longPath() error {
	return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf(
		"The commit has a file whose path is longer than %d bytes, or than 255 bytes in one part.", cfg.MaxPath),
		"Rename it.", nil)
}
