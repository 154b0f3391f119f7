package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"
)

// older takes a copy of folders of the installation, or puts it back: "older take NAME DIR...", "older put NAME". The processes
// whose folders they are do not run meanwhile, as when a disk is put back from a copy.
func older(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 || args[0] != "take" && args[0] != "put" {
		ts.Fatalf("usage: older take NAME DIR... | older put NAME")
	}
	s := of(ts)
	saved := filepath.Join(s.work, "older-"+args[1])
	var pids []int
	for _, name := range []string{"server", "node"} {
		pid, err := s.on.pid(name)
		ts.Check(err)
		pids = append(pids, pid)
	}
	ts.Check(s.on.killUp())
	for _, pid := range pids {
		ts.Check(syscall.Kill(pid, syscall.SIGKILL))
		ts.Check(poll(10*time.Second, func() error {
			if err := syscall.Kill(pid, 0); err == nil {
				return fmt.Errorf("process %d does not end", pid)
			}
			return nil
		}))
	}
	if args[0] == "take" {
		for _, dir := range args[2:] {
			ts.Check(copyTree(filepath.Join(s.on.root, dir), filepath.Join(saved, dir)))
		}
	} else {
		dirs, err := os.ReadDir(saved)
		ts.Check(err)
		for _, dir := range dirs {
			ts.Check(os.RemoveAll(filepath.Join(s.on.root, dir.Name())))
			ts.Check(copyTree(filepath.Join(saved, dir.Name()), filepath.Join(s.on.root, dir.Name())))
		}
	}
	ts.Check(s.on.start("--name", s.on.name))
	back(ts, false, nil)
}

// copyTree copies a folder with owners and modes. Sockets and pipes are left out: their makers make them anew.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		path := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			err = os.MkdirAll(path, 0o700)
		case info.Mode()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(p); err == nil {
				return os.Symlink(target, path)
			}
		case info.Mode().IsRegular():
			var b []byte
			if b, err = os.ReadFile(p); err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
		default:
			return nil
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		return os.Chmod(path, info.Mode().Perm())
	})
}

func auditLog(ts *testscript.TestScript) string {
	return filepath.Join(of(ts).on.root, "server", "audit-log")
}

// leaf changes a text in the files of the audit log's entries into another of the same length.
func leaf(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 || len(args[0]) != len(args[1]) {
		ts.Fatalf("usage: leaf OLD NEW, of the same length")
	}
	changed := 0
	ts.Check(filepath.WalkDir(filepath.Join(auditLog(ts), "tile", "entries"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(b, []byte(args[0])) {
			return err
		}
		changed++
		return os.WriteFile(p, bytes.ReplaceAll(b, []byte(args[0]), []byte(args[1])), 0o600)
	}))
	if changed == 0 {
		ts.Fatalf("no entry has %q", args[0])
	}
}

// resign signs the audit log's checkpoint with a key of the server's own, which has the name of the node's.
func resign(ts *testscript.TestScript, _ bool, _ []string) {
	path := filepath.Join(auditLog(ts), "checkpoint")
	b, err := os.ReadFile(path)
	ts.Check(err)
	text, _, _ := strings.Cut(string(b), "\n\n")
	origin, _, _ := strings.Cut(text, "\n")
	key, _, err := note.GenerateKey(rand.Reader, origin)
	ts.Check(err)
	s, err := note.NewSigner(key)
	ts.Check(err)
	b, err = note.Sign(&note.Note{Text: text + "\n"}, s)
	ts.Check(err)
	ts.Check(os.WriteFile(path, b, 0o600))
}
