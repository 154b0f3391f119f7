package cell

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/process"
)

// root is where control groups are mounted.
const root = "/sys/fs/cgroup"

// controllers are those whose bounds a cell has; in version 1 each is a tree of its own.
var controllers = []string{"memory", "pids", "cpu"}

// prefix is how the groups of cells are called, beside those of instances and builders.
const prefix = "cell-"

// group is the control group of one cell: a directory per tree.
type group struct {
	dirs    map[string]string // by controller; in version 2 all the same
	unified bool
}

// unified tells whether the machine has version 2 alone.
func unified() bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return err == nil
}

// makeGroup makes a group with bounds. On an error nothing is left.
func makeGroup(parent string, l Limits) (_ *group, err error) {
	g := &group{dirs: map[string]string{}, unified: unified()}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.remove())
		}
	}()
	name := filepath.Join(parent, prefix+rand.Text())
	if g.unified {
		dir := filepath.Join(root, name)
		for _, up := range []string{root, filepath.Join(root, parent)} {
			if err := os.MkdirAll(up, 0o755); err != nil {
				return g, err
			}
			// Given to the children: a group that has members of its own cannot, and the installation's has none.
			if err := write(up, "cgroup.subtree_control", "+"+strings.Join(controllers, " +")); err != nil {
				return g, err
			}
		}
		for _, c := range controllers {
			g.dirs[c] = dir
		}
	} else {
		for _, c := range controllers {
			g.dirs[c] = filepath.Join(root, c, name)
		}
	}
	for _, dir := range g.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return g, err
		}
	}
	for _, s := range g.settings(l) {
		if err := write(s.dir, s.file, s.value); err != nil && !(s.optional && errors.Is(err, fs.ErrNotExist)) {
			return g, err
		}
	}
	return g, nil
}

// Weigh makes a control group and sets its share of the processors against its neighbours; 1024 is the usual one.
func Weigh(name string, shares uint64) error {
	if !unified() {
		dir := filepath.Join(root, "cpu", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return write(dir, "cpu.shares", strconv.FormatUint(shares, 10))
	}
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := write(root, "cgroup.subtree_control", "+cpu"); err != nil {
		return err
	}
	return write(dir, "cpu.weight", strconv.FormatUint(max(1, shares*100/1024), 10))
}

// Join puts this process, and what it starts from now on, into a control group with a share of the processors.
func Join(name string, shares uint64) error {
	if err := Weigh(name, shares); err != nil {
		return err
	}
	dir := filepath.Join(root, "cpu", name)
	if unified() {
		dir = filepath.Join(root, name)
	}
	return write(dir, "cgroup.procs", "0") // who writes
}

type setting struct {
	dir, file, value string
	optional         bool // of kernels that account for swap
}

// settings are the bounds. The weight is a quarter of the usual one: helpers wait for the apps.
func (g *group) settings(l Limits) []setting {
	memory, pids := strconv.FormatInt(l.Memory, 10), strconv.FormatInt(l.PIDs, 10)
	if g.unified {
		d := g.dirs["memory"]
		return []setting{{dir: d, file: "memory.max", value: memory}, {dir: d, file: "memory.swap.max", value: "0", optional: true},
			{dir: d, file: "memory.oom.group", value: "1"}, {dir: d, file: "pids.max", value: pids}, {dir: d, file: "cpu.weight", value: "25"}}
	}
	d := g.dirs["memory"]
	return []setting{{dir: d, file: "memory.limit_in_bytes", value: memory}, {dir: d, file: "memory.memsw.limit_in_bytes", value: memory, optional: true},
		{dir: g.dirs["pids"], file: "pids.max", value: pids}, {dir: g.dirs["cpu"], file: "cpu.shares", value: "256"}}
}

// run runs a program that is in the group from its first instruction: what forks it is.
func (g *group) run(ctx context.Context, c process.Cmd) error {
	var p *process.Process
	if g.unified {
		dir, err := os.Open(g.dirs["memory"])
		if err != nil {
			return err
		}
		defer dir.Close()
		c.Attr.UseCgroupFD, c.Attr.CgroupFD = true, int(dir.Fd())
		if p, err = process.Start(ctx, c); err != nil {
			return err
		}
		return p.Wait()
	}
	err := aside(func() (err error) {
		for _, dir := range g.dirs { // in version 1 a thread can be a member by itself
			if err := write(dir, "tasks", strconv.Itoa(unix.Gettid())); err != nil {
				return err
			}
		}
		p, err = process.Start(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	return p.Wait()
}

// outOfMemory tells whether the kernel killed a member for its memory.
func (g *group) outOfMemory() bool {
	file := "memory.oom_control"
	if g.unified {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(g.dirs["memory"], file))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
			return true
		}
	}
	return false
}

// remove ends what is left of the group and removes it.
func (g *group) remove() error { return removeAll(slices.Collect(maps.Values(g.dirs))) }

// left returns the groups of cells below a control group, in all trees.
func left(parent string) []string {
	one, _ := filepath.Glob(filepath.Join(root, "*", parent, prefix+"*"))
	two, _ := filepath.Glob(filepath.Join(root, parent, prefix+"*"))
	return append(one, two...)
}

// removeAll ends every member of some groups and removes them. The groups are first closed to new members, so that who forks
// does not outrun it.
func removeAll(dirs []string) error {
	for _, dir := range dirs {
		_ = write(dir, "pids.max", "0") // in version 1, of one of the trees
	}
	var failed error
	for _, dir := range dirs {
		failed = errors.Join(failed, remove(dir))
	}
	return failed
}

// remove kills and removes until there is nothing. A group is in use for a moment after its last member has ended.
func remove(dir string) error {
	var err error
	for range 400 {
		if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
			return nil
		}
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // gone if rmdir is to find it so
		for line := range strings.Lines(string(b)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 && pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("cell: %s cannot be removed: %w", dir, err)
}

func write(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600)
}
