package gitssh

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/sandbox"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
)

// store is the directory of repositories. It runs every git there is, each with an environment that is written here.
type store struct {
	git   string // path of the program
	dir   string // absolute
	hooks string // core.hooksPath
	cfg   Config

	mu    sync.Mutex
	heads map[bulwark.AppID]*head // one per app pushed to since the start
}

// head is the last push to an app that was accepted. Its lock is taken after no other.
type head struct {
	mu     sync.Mutex
	made   sync.Mutex // held while the repository is created
	n      int        // how many pushes were accepted
	commit bulwark.Commit
}

func (st *store) head(app bulwark.AppID) *head {
	st.mu.Lock()
	defer st.mu.Unlock()
	h := st.heads[app]
	if h == nil {
		h = &head{}
		st.heads[app] = h
	}
	return h
}

func (st *store) path(app bulwark.AppID) string { return filepath.Join(st.dir, pushnonce.Path(app)) }

// setting is one line of git's configuration.
type setting struct{ key, value string }

// common holds for every git: no hook but ours, nothing in the background, bounded memory.
func (st *store) common() []setting {
	return []setting{
		{"core.hooksPath", st.hooks},
		{"core.fsync", "committed"},
		{"core.logAllRefUpdates", "false"},
		// Blobs above this are streamed instead of held in memory; maps of packs are windows.
		{"core.bigFileThreshold", "16m"},
		{"core.packedGitWindowSize", "32m"},
		{"core.packedGitLimit", "256m"},
		{"pack.threads", "1"},
		{"gc.auto", "0"},
		{"protocol.allow", "never"},
	}
}

// receiving is what a push is taken with. The seed is a secret: configuration in the environment is seen by this
// user's processes only, arguments by everybody's.
func (st *store) receiving(seed string) []setting {
	return []setting{
		{"receive.certNonceSeed", seed},
		// Only a nonce of this very run is OK; a slop means something for HTTP alone.
		{"receive.certNonceSlop", "0"},
		{"receive.fsckObjects", "true"},
		// Three harmless faults of old tools, which the history of well-known projects has and cannot lose.
		{"receive.fsck.badTimezone", "ignore"},
		{"receive.fsck.missingSpaceBeforeDate", "ignore"},
		{"receive.fsck.zeroPaddedFilemode", "ignore"},
		{"receive.maxInputSize", strconv.FormatInt(st.cfg.MaxPack, 10)},
		{"receive.denyDeletes", "true"},
		{"receive.denyNonFastForwards", "false"}, // an older commit, or another history, deploys as well
		{"receive.advertisePushOptions", "false"},
		{"receive.advertiseAtomic", "false"},
		{"receive.autogc", "false"},
		{"receive.unpackLimit", "1"}, // one pack, written in one stream, instead of a file per object
		// Git verifies the certificate before it asks the hook: to no use, as the node is the one that is believed, and
		// with programs that would read a client's bytes. Without gpg.ssh.allowedSignersFile it gives up before it
		// starts ssh-keygen; it knows no such switch for the other two.
		{"gpg.program", "/bin/false"},
		{"gpg.x509.program", "/bin/false"},
		{"gpg.ssh.program", "/bin/false"},
	}
}

// environment is the whole environment of a git.
func environment(settings []setting, more ...string) []string {
	env := []string{
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_NO_REPLACE_OBJECTS=1", "HOME=/nonexistent", "PATH=/usr/bin:/bin", "LC_ALL=C",
		"GIT_CONFIG_COUNT=" + strconv.Itoa(len(settings)),
	}
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s.key), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s.value))
	}
	return append(env, more...)
}

// cmd is a git that works in app's repository.
func (st *store) cmd(app bulwark.AppID, more []string, args ...string) process.Cmd {
	env := append([]string{"GIT_DIR=" + st.path(app)}, more...)
	return process.Cmd{Path: st.git, Args: args, Dir: st.dir, Env: environment(st.common(), env...)}
}

// ensure makes app's repository if there is none, and has its HEAD name the branch that deploys, so that a clone
// checks that branch out.
func (st *store) ensure(ctx context.Context, app bulwark.AppID, branch string) error {
	h := st.head(app)
	h.made.Lock()
	defer h.made.Unlock()
	want := "ref: refs/heads/" + branch + "\n"
	got, err := os.ReadFile(filepath.Join(st.path(app), "HEAD"))
	switch {
	case err == nil && string(got) == want:
		return nil
	case err == nil:
		return process.Run(ctx, st.cmd(app, nil, "symbolic-ref", "HEAD", "refs/heads/"+branch))
	case !os.IsNotExist(err):
		return err
	}
	// Made beside and renamed, so that a repository is whole or is not there.
	tmp, err := os.MkdirTemp(st.dir, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	c := process.Cmd{Path: st.git, Dir: st.dir, Env: environment(st.common()),
		Args: []string{"init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--initial-branch=" + branch, tmp}}
	if err := process.Run(ctx, c); err != nil {
		return err
	}
	if err := os.Rename(tmp, st.path(app)); err != nil {
		return err
	}
	return syncDir(st.dir)
}

// room refuses when the packs of app's repository have grown over the limit: what was pushed and is not reachable any
// more stays until [Server.Tidy].
func (st *store) room(app bulwark.AppID, name bulwark.AppName) error {
	entries, err := os.ReadDir(filepath.Join(st.path(app), "objects", "pack"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	var sum int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	if sum > st.cfg.MaxRepo {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The repository of %s holds %s, and %s is the most.", name,
			size(sum), size(st.cfg.MaxRepo)), "Old pushes are cleared away every day; if it stays so, ask the operator.", nil)
	}
	return nil
}

// setRef makes a branch point at a commit, or, given none, takes the branch away. It is safe to repeat.
func (st *store) setRef(ctx context.Context, app bulwark.AppID, ref string, to bulwark.Commit) error {
	if to == "" {
		return process.Run(ctx, st.cmd(app, nil, "update-ref", "-d", ref))
	}
	return process.Run(ctx, st.cmd(app, nil, "update-ref", ref, string(to)))
}

// pack streams a pack that holds one commit, its trees and its blobs. Git is told to take the commit for one without
// parents (its "shallow"), as it does when it serves "git clone --depth 1": no history goes along.
func (st *store) pack(ctx context.Context, app bulwark.AppID, commit bulwark.Commit, more []string) (io.ReadCloser, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	// window 0: no new deltas are searched for, the reader is on this machine; those that exist are taken over.
	c := st.cmd(app, more, "pack-objects", "-q", "--revs", "--stdout", "--shallow", "--window=0", "--delta-base-offset")
	c.Stdin = strings.NewReader(fmt.Sprintf("--shallow %s\n%s\n", commit, commit))
	c.Stdout = w
	p, err := process.Start(ctx, c)
	w.Close()
	if err != nil {
		r.Close()
		cancel()
		return nil, err
	}
	return &packReader{r: r, p: p, cancel: cancel}, nil
}

// packReader ends with io.EOF only if git ended well, so that a pack that was cut is not taken for a whole one.
type packReader struct {
	r      *os.File
	p      *process.Process
	cancel context.CancelFunc
	once   sync.Once
	err    error
}

func (r *packReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err == io.EOF {
		if werr := r.wait(); werr != nil {
			err = werr
		}
	}
	return n, err
}

// Close stops git if it is still at work.
func (r *packReader) Close() error {
	r.cancel()
	r.r.Close()
	_ = r.wait()
	return nil
}

func (r *packReader) wait() error {
	r.once.Do(func() { r.err = r.p.Wait() })
	return r.err
}

// confine bounds what a git that reads a client's bytes may use. Its children are started later, when the client
// has sent something, and inherit the bounds.
func (st *store) confine(pid int) error {
	for _, l := range []struct {
		what int
		most uint64
	}{
		{unix.RLIMIT_AS, uint64(st.cfg.MaxMemory)},
		{unix.RLIMIT_FSIZE, uint64(4*st.cfg.MaxPack + 64<<20)},
		{unix.RLIMIT_CPU, 1200},
		{unix.RLIMIT_CORE, sandbox.CoreLimit},
	} {
		if err := unix.Prlimit(pid, l.what, &unix.Rlimit{Cur: l.most, Max: l.most}, nil); err != nil {
			return fmt.Errorf("gitssh: cannot limit git: %w", err)
		}
	}
	return nil
}

// recover brings every repository into order after a crash: objects that a push was held for become the repository's
// own, since its deploy may go on; locks whose owner is gone are removed.
func (st *store) recover() error {
	entries, err := os.ReadDir(st.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		app, err := bulwark.ParseAppID(strings.TrimSuffix(e.Name(), ".git"))
		switch {
		case strings.HasPrefix(e.Name(), "new-"):
			err = os.RemoveAll(filepath.Join(st.dir, e.Name()))
		case err != nil || !strings.HasSuffix(e.Name(), ".git"):
			continue
		default:
			err = st.recoverRepo(st.path(app))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep removes the repositories of apps that are gone. They are put aside first, whole: what a kill leaves of one is removed at
// the next start.
func (st *store) sweep(gone func(bulwark.AppID) (bool, error)) error {
	entries, err := os.ReadDir(st.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, repo := strings.CutSuffix(e.Name(), ".git")
		app, perr := bulwark.ParseAppID(name)
		if !repo || perr != nil {
			continue
		}
		if is, err := gone(app); err != nil {
			return err
		} else if !is {
			continue
		}
		aside := filepath.Join(st.dir, "new-"+name)
		if err := os.RemoveAll(aside); err != nil {
			return err
		}
		if err := os.Rename(st.path(app), aside); err != nil {
			return err
		}
		if err := os.RemoveAll(aside); err != nil {
			return err
		}
	}
	return nil
}

func (st *store) recoverRepo(repo string) error {
	holds, err := os.ReadDir(filepath.Join(repo, holdsDir))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, e := range holds {
		dir := filepath.Join(repo, holdsDir, e.Name())
		if err := linkObjects(dir, filepath.Join(repo, "objects")); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, name := range []string{"HEAD.lock", "packed-refs.lock", "config.lock"} {
		if err := os.Remove(filepath.Join(repo, name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(repo, "refs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".lock") {
			return err
		}
		return os.Remove(path)
	})
}
