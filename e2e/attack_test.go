package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// nowhere looks for a text in everything that an installation has on disk, and in what any process of it was started
// with. With ! the text must be there: the proof that the search finds what is to be found.
func nowhere(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: nowhere FILE")
	}
	text := bytes.TrimSpace([]byte(ts.ReadFile(args[0])))
	if len(text) < 12 {
		ts.Fatalf("%q is too short to be looked for", text)
	}
	found, files, err := of(ts).on.find(text)
	ts.Check(err)
	ts.Logf("searched %d files, found in %d", files, len(found))
	if files < 50 {
		ts.Fatalf("only %d files were searched", files)
	}
	if neg != (len(found) > 0) {
		ts.Fatalf("found in %d places:\n%s", len(found), strings.Join(found, "\n"))
	}
}

func (i *installation) find(text []byte) (found []string, files int, err error) {
	look := func(path string) {
		f, err := os.Open(path)
		if err != nil {
			return // gone meanwhile
		}
		defer f.Close()
		files++
		if has(&dense{f: f}, text) {
			found = append(found, strings.TrimPrefix(path, i.dir+"/"))
		}
	}
	err = filepath.WalkDir(i.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		// What is mounted there is looked at as the layers that it is made of.
		if d.IsDir() && path == filepath.Join(i.root, "run", "rootfs") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			look(path)
		}
		return nil
	})
	for _, p := range i.processes() {
		pid, _, _ := strings.Cut(p, " ")
		look("/proc/" + pid + "/cmdline")
		// init has the values of an app in its memory, and the app in its environment; nobody else's environment has any.
		if exe, _ := os.Readlink("/proc/" + pid + "/exe"); exe == i.bin || strings.HasPrefix(filepath.Base(exe), "containerd-shim") {
			look("/proc/" + pid + "/environ")
		}
	}
	return found, files, err
}

// dense reads a file without its holes: a build's disk is nearly nothing else.
type dense struct {
	f  *os.File
	at int64
}

// Read implements [io.Reader].
func (d *dense) Read(p []byte) (int, error) {
	next, err := unix.Seek(int(d.f.Fd()), d.at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, io.EOF
	case err != nil: // it cannot have holes
		next = d.at
	}
	n, err := d.f.ReadAt(p, next)
	d.at = next + int64(n)
	return n, err
}

// has reads in pieces that overlap.
func has(r io.Reader, text []byte) bool {
	buf := make([]byte, 0, 1<<20)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if bytes.Contains(buf, text) {
			return true
		}
		if err != nil {
			return false
		}
		if len(buf) == cap(buf) {
			keep := copy(buf, buf[len(buf)-len(text):])
			buf = buf[:keep]
		}
	}
}

// flip changes one byte of the newest file (or of the newest that holds a text), and prints its path; flipped back by a second call with the path.
//
//	flip layers TEXT     the layer file that holds TEXT
//	flip blobs TEXT      the blob that holds TEXT
//	flip PATH            this file
func flip(ts *testscript.TestScript, _ bool, args []string) {
	on := of(ts).on
	switch len(args) {
	case 1:
		ts.Check(flipByte(args[0]))
	case 2:
		files, err := filepath.Glob(filepath.Join(on.root, "node", "images", args[0], "*"))
		ts.Check(err)
		slices.SortFunc(files, func(a, b string) int { return modified(b).Compare(modified(a)) })
		for _, f := range files {
			b, err := os.ReadFile(f)
			ts.Check(err)
			if bytes.Contains(b, []byte(args[1])) {
				ts.Check(flipByte(f))
				fmt.Fprintln(ts.Stdout(), f)
				return
			}
		}
		ts.Fatalf("none of %d files has %q", len(files), args[1])
	default:
		ts.Fatalf("usage: flip PATH | flip layers|blobs TEXT")
	}
}

func modified(path string) time.Time {
	st, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// flipByte changes the last byte of a file: padding in most, so that what runs is not disturbed, and a change all the same.
func flipByte(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], st.Size()-1); err != nil {
		return err
	}
	b[0] ^= 0x40
	_, err = f.WriteAt(b[:], st.Size()-1)
	return err
}

// attack reads the answer of the app's /attack in stdout: each attempt must have been refused, but those that match an
// argument, which must have been allowed: they prove that the attempts are real ones.
func attack(ts *testscript.TestScript, _ bool, args []string) {
	out := ts.ReadFile("stdout")
	var wrong []string
	attempts := 0
	for line := range strings.Lines(out) {
		name, result, ok := strings.Cut(strings.Trim(strings.TrimSpace(line), `",`), `": "`)
		if !ok || name == "who" {
			continue
		}
		attempts++
		may := slices.ContainsFunc(args, func(re string) bool { return regexp.MustCompile("^" + re + "$").MatchString(name) })
		if may != strings.HasPrefix(result, "ALLOWED") {
			wrong = append(wrong, name+": "+result)
		}
	}
	if len(wrong) > 0 || attempts == 0 {
		ts.Fatalf("of %d attempts these went wrong:\n%s", attempts, strings.Join(wrong, "\n"))
	}
}
