package install

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"golang.org/x/sys/unix"
)

// register is the machine's register of subordinate ids: the files subuid and subgid (subuid(5)), which useradd, podman
// and LXD read before they hand out ids. One line is name:base:count.
type register struct{ dir string }

// The part of the id space that systemd sets aside for containers (systemd.io/UIDS-GIDS), its upper half: useradd's own
// sub-ids begin at 100000 and grow from below.
const (
	firstID = 0x20000000
	lastID  = 0x6fffffff
)

// lockTime is how long shadow-utils itself waits for the lock (lckpwdf(3)).
const lockTime = 15 * time.Second

// claim makes sure that name has one entry of count ids in both files and returns it. With a range in want it is that
// one, else a free one. before is called with the lock held, before anything is written.
func (r register) claim(name string, want Range, count uint32, before func(Range) error) (Range, error) {
	unlock, err := r.lock()
	if err != nil {
		return Range{}, err
	}
	defer unlock()
	taken, mine, err := r.read(name)
	if err != nil {
		return Range{}, err
	}
	for _, m := range mine {
		if m != want {
			return Range{}, bulwark.Fail(bulwark.KindConflict,
				fmt.Sprintf("The name %s already has other user ids in %s.", name, filepath.Join(r.dir, "subuid")),
				"Another installation has this name: choose another with --name. If it was deleted by hand, remove its line from subuid and subgid.", nil)
		}
	}
	switch {
	case want == Range{}:
		if want, err = free(taken, count); err != nil {
			return Range{}, err
		}
	case len(mine) < 2 && clash(taken, want):
		return Range{}, bulwark.Fail(bulwark.KindConflict,
			fmt.Sprintf("The user ids %d to %d of the installation %s belong to somebody else now.", want.Base, want.Base+want.Count-1, name),
			"Free them in subuid and subgid, or make a new installation and restore a backup into it.", nil)
	}
	if err := before(want); err != nil {
		return Range{}, err
	}
	line := fmt.Sprintf("%s:%d:%d", name, want.Base, want.Count)
	return want, r.rewrite(func(lines []string) []string {
		for _, l := range lines {
			if l == line {
				return lines
			}
		}
		return append(lines, line)
	})
}

// release takes the entry of name out of both files.
func (r register) release(name string, had Range) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	line := fmt.Sprintf("%s:%d:%d", name, had.Base, had.Count)
	return r.rewrite(func(lines []string) []string {
		var keep []string
		for _, l := range lines {
			if l != line {
				keep = append(keep, l)
			}
		}
		return keep
	})
}

// holds tells whether both files give had to name.
func (r register) holds(name string, had Range) bool {
	_, mine, err := r.read(name)
	return err == nil && len(mine) == 2 && mine[0] == had && mine[1] == had
}

// lock takes the lock that every tool of shadow-utils takes (lckpwdf(3)). As a lock of the open file description it
// excludes other processes' locks of the old kind and other goroutines alike.
func (r register) lock() (func(), error) {
	f, err := os.OpenFile(filepath.Join(r.dir, ".pwd.lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	deadline := time.Now().Add(lockTime)
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EAGAIN && err != unix.EACCES || time.Now().After(deadline) {
			f.Close()
			return nil, bulwark.Fail(bulwark.KindBusy, "The machine's user database is locked by another program.",
				"Wait for useradd, passwd or a package installation to end, then try again.", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// read returns every range that is taken, and those of name: the one from subuid, then the one from subgid.
func (r register) read(name string) (taken, mine []Range, err error) {
	for _, file := range []string{"subuid", "subgid"} {
		lines, err := r.lines(file)
		if err != nil {
			return nil, nil, err
		}
		for _, l := range lines {
			owner, rg, ok := parseEntry(l)
			if !ok {
				continue // a comment, or a line that no tool can use
			}
			if owner == name {
				mine = append(mine, rg)
			} else {
				taken = append(taken, rg)
			}
		}
	}
	for _, file := range []string{"passwd", "group"} {
		const column = 2 // the id, in both
		lines, err := r.lines(file)
		if err != nil {
			return nil, nil, err
		}
		for _, l := range lines {
			if f := strings.Split(l, ":"); len(f) > column {
				if id, err := strconv.ParseUint(f[column], 10, 32); err == nil {
					taken = append(taken, Range{Base: uint32(id), Count: 1})
				}
			}
		}
	}
	return taken, mine, nil
}

func parseEntry(line string) (name string, r Range, ok bool) {
	f := strings.Split(line, ":")
	if len(f) != 3 {
		return "", Range{}, false
	}
	base, err1 := strconv.ParseUint(strings.TrimSpace(f[1]), 10, 32)
	count, err2 := strconv.ParseUint(strings.TrimSpace(f[2]), 10, 32)
	return f[0], Range{Base: uint32(base), Count: uint32(count)}, err1 == nil && err2 == nil
}

// lines returns the lines of a file, none if it is missing.
func (r register) lines(file string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, file))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("install: %w", err)
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	if len(b) == 0 {
		return nil, nil
	}
	return strings.Split(string(b), "\n"), nil
}

// rewrite replaces both files, each atomically, if change changes them. Mode and owner stay.
func (r register) rewrite(change func([]string) []string) error {
	for _, file := range []string{"subuid", "subgid"} {
		path := filepath.Join(r.dir, file)
		mode := fs.FileMode(0o644)
		if st, err := os.Lstat(path); err == nil {
			if !st.Mode().IsRegular() {
				return bulwark.Fail(bulwark.KindConflict, path+" is not a plain file, so it cannot be replaced safely.",
					"Register a range there by the machine's own means.", nil)
			}
			mode = st.Mode().Perm()
		}
		old, err := r.lines(file)
		if err != nil {
			return err
		}
		text := join(change(append([]string(nil), old...)))
		if text == join(old) {
			continue
		}
		if err := atomicfile.Write(path, []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}

func join(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

func clash(taken []Range, r Range) bool {
	for _, t := range taken {
		if t.Count > 0 && t.overlaps(r) {
			return true
		}
	}
	return false
}

// free returns the lowest free range of count ids that begins at a multiple of BlockSize.
func free(taken []Range, count uint32) (Range, error) {
	for base := uint64(firstID); base+uint64(count) <= lastID+1; base += BlockSize {
		r := Range{Base: uint32(base), Count: count}
		if !clash(taken, r) {
			return r, nil
		}
	}
	return Range{}, bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("There are no %d free user ids in a row on this machine.", count),
		"Remove an installation that is no longer needed, or free ids in subuid and subgid.", nil)
}
