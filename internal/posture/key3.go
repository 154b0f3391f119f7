package posture

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/bulwark-paas/bulwark/internal/process"
)

func key3() Control {
	return Control{ID: "KEY-3", Version: 2, Every: daily,
		Promise: "Secrets never leak: not into logs, images, arguments, other processes' environments, stores or files.",
		Tries: "Sets a marker as a secret of the model app, has it revealed, given to an instance, and another built beside, and searches every file of the installation that changed since and " +
			"the arguments and environment of every process, also for compressed and encoded forms. Looks at every process that knows secrets, whether it could leave a core.",
		Probe: probeKEY3}
}

func probeKEY3(ctx context.Context, w *World, r *Record) error {
	app, err := w.Person.Model(ctx, w.Scratch)
	if err != nil {
		return err
	}
	// A file system may keep times by the second.
	since := time.Now().Add(-2 * time.Second)
	marker := "MARKER-" + randomHex(24)
	secret := filepath.Join(w.Scratch, "secret")
	if err := os.WriteFile(secret, []byte(marker), 0o600); err != nil {
		return err
	}
	s := newSearch(marker)
	if err := twin(ctx, w, r, s); err != nil {
		return err
	}
	for _, c := range [][]string{{"config", "set", "PROBE_SECRET=@" + secret}, {"build-secrets", "set", "PROBE_BUILD=@" + secret}} {
		if _, err := w.Person.Do(ctx, append(c, "--app", app)...); err != nil {
			return err
		}
	}
	got, err := w.Person.Do(ctx, "config", "reveal", "PROBE_SECRET", "--app", app)
	r.Proven("the secret is there, for who may see it", err == nil && bytes.Contains(got, []byte(marker)), fmt.Sprint(err))
	if _, err := w.Person.InModel(ctx, app, "resolve", "localhost"); err != nil { // an instance that has it
		return err
	}
	if err := os.Remove(secret); err != nil {
		return err
	}
	if _, err := w.Person.Deploy(ctx, w.Scratch); err != nil { // a build, and an image, of an app that has it
		return err
	}
	found, files, err := s.tree(ctx, w.Installation.Root, since, w.Scratch)
	for _, f := range found {
		r.Refused("find the secret in a file", false, f)
	}
	if err != nil {
		return err
	}
	r.Refused("find the secret in any file of the installation", len(found) == 0, fmt.Sprintf("%d files changed since", files))
	theirs, procs, err := w.processes(ctx, s, true)
	if err != nil {
		return err
	}
	for _, f := range theirs {
		r.Refused("find the secret with a process", false, f)
	}
	r.Refused("find the secret in any process's arguments or environment", len(theirs) == 0, fmt.Sprintf("%d processes", procs))
	return w.cores(ctx, r)
}

// cores looks whether a process that knows secrets could leave a core with them when it crashes.
func (w *World) cores(ctx context.Context, r *Record) error {
	pids, err := w.platform()
	if err != nil {
		return err
	}
	all, err := w.instances(ctx)
	if err != nil {
		return err
	}
	own := len(pids)
	for _, i := range all {
		pids = append(pids, i.pids...)
	}
	could := 0
	for n, pid := range pids {
		if d := coreless(pid, n < own); d != nil {
			could++
			r.Refused("have a process leave a core", false, d.detail)
		}
	}
	r.Refused("have any process of the platform or of an app leave a core", could == 0, fmt.Sprintf("%d processes", len(pids)))
	return nil
}

// twin plants the marker in every form, where nothing protects it: what is not found there would not be found anywhere.
func twin(ctx context.Context, w *World, r *Record, s *search) error {
	dir := filepath.Join(w.Scratch, "twin")
	if err := plant(dir, s.marker); err != nil {
		return err
	}
	found, files, err := s.tree(ctx, dir, time.Time{}, "")
	if err != nil {
		return err
	}
	r.Proven("the marker is found in a plain twin, in every form", len(found) == files, fmt.Sprintf("%d of %d", len(found), files))
	// And a process that has it in its environment. It is the kit, which waits.
	p, err := process.Start(ctx, process.Cmd{Path: w.Kit, Args: []string{"hold", "--seconds", "30"}, Env: []string{"SECRET=" + s.marker}, Dir: w.Scratch, Stdout: io.Discard})
	if err != nil {
		return err
	}
	theirs, _, err := w.processes(ctx, s, false)
	err = errors.Join(err, p.Signal(os.Kill))
	_ = p.Wait() // it was killed
	r.Proven("the marker is found in a plain process's environment", len(theirs) == 1, strings.Join(theirs, "; "))
	return err
}

// plant writes a marker into a folder, in every form.
func plant(dir, marker string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, b := range planted(marker) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// planted are the forms in which a secret lies about.
func planted(marker string) map[string][]byte {
	text := []byte("before " + marker + " after\n")
	var gz bytes.Buffer
	zw := gzip.NewWriter(&gz)
	_, _ = zw.Write(text) // into memory
	_ = zw.Close()
	zenc, _ := zstd.NewWriter(nil)
	out := map[string][]byte{
		"plain": text, "hex": []byte(hex.EncodeToString(text)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(text))), "gzip": gz.Bytes(),
		"zstd": zenc.EncodeAll(text, nil), "url": []byte(url.QueryEscape(string(text))), "utf16": wide(text),
		"nested": []byte(base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(text)))),
		// Far into a file, across the edge of what is read at once.
		"far": append(bytes.Repeat([]byte{'x'}, window-10), text...),
	}
	for i := range 3 { // base64 has three alignments
		out[fmt.Sprintf("base64-%d", i)] = []byte(base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{'x'}, i), text...)))
		out[fmt.Sprintf("base64url-%d", i)] = []byte(base64.URLEncoding.EncodeToString(append(bytes.Repeat([]byte{'x'}, i), text...)))
	}
	return out
}

func wide(b []byte) []byte {
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, c, 0)
	}
	return out
}

// processes searches arguments and environment of every process of the machine, but for those whose own secret it is.
func (w *World) processes(ctx context.Context, s *search, own bool) (found []string, n int, err error) {
	members := map[int]bool{}
	if own {
		all, err := w.instances(ctx)
		if err != nil {
			return nil, 0, err
		}
		for _, i := range all {
			for _, pid := range i.pids {
				members[pid] = true
			}
		}
	}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, 0, err
	}
	for _, f := range files {
		pid := 0
		dir := filepath.Dir(f)
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err != nil || members[pid] {
			continue
		}
		n++
		for _, name := range []string{"environ", "cmdline"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil && s.in(b) {
				found = append(found, fmt.Sprintf("process %d: %s", pid, name))
			}
		}
	}
	return found, n, nil
}

// window is how much of a file is looked at at once, and piece how much of it is read by one call: a kernel that is not preempted does
// nothing else on that processor until it has copied all of it, and an app's request waits.
const (
	window = 1 << 20
	piece  = 64 << 10
)

// pieces reads a file in small ones.
type pieces struct{ io.Reader }

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), piece)]) }

// maxSearched bounds how much is read in one run: more than that leaves the control unknown.
const maxSearched = 20 << 30

// search looks for a marker in all its forms.
type search struct {
	marker string
	forms  [][]byte
	left   int64
	buf    []byte // one for all files
}

func newSearch(marker string) *search {
	s := &search{marker: marker, left: maxSearched}
	m := []byte(marker)
	s.forms = [][]byte{m, []byte(hex.EncodeToString(m)), []byte(strings.ToUpper(hex.EncodeToString(m))), wide(m), []byte(url.QueryEscape(marker))}
	twice := [][]byte{}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		for _, f := range aligned(enc, m) {
			s.forms = append(s.forms, f)
			twice = append(twice, aligned(enc, f)...)
		}
	}
	s.forms = append(s.forms, twice...)
	return s
}

// aligned are the parts of a text's base64 that do not depend on what comes before and after it, in the three alignments.
func aligned(enc *base64.Encoding, m []byte) [][]byte {
	var out [][]byte
	for i := range 3 {
		e := enc.EncodeToString(append(make([]byte, i), m...))
		first := (i*8 + 5) / 6 // characters that have bits of what comes before
		whole := (i + len(m)) * 8 / 6
		out = append(out, []byte(e[first:whole]))
	}
	return out
}

// in tells whether a piece holds the marker in any form.
func (s *search) in(b []byte) bool {
	for _, f := range s.forms {
		if bytes.Contains(b, f) {
			return true
		}
	}
	return false
}

// tree searches all files below a folder that changed since a time, but for one folder, and says in which the marker is.
func (s *search) tree(ctx context.Context, root string, since time.Time, except string) (found []string, files int, err error) {
	// What the server's user, or an app's, puts in the way between looking and opening must not lead out, or block.
	top, err := os.OpenRoot(root)
	if err != nil {
		return nil, 0, err
	}
	defer top.Close()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // it went away meanwhile
		case err != nil:
			return err
		case d.IsDir() && path == except:
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		st, err := d.Info()
		if err != nil || st.ModTime().Before(since) {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, err := top.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil // it went away
		}
		defer f.Close()
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return nil
		}
		files++
		yes, err := s.reader(ctx, f)
		if yes {
			found = append(found, path)
		}
		return err
	})
	return found, files, err
}

// reader searches a stream, and inside of it what begins like a compressed one.
func (s *search) reader(ctx context.Context, f *os.File) (bool, error) {
	yes, err := s.stream(ctx, f)
	if yes || err != nil {
		return yes, err
	}
	var head [4]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return false, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	switch {
	case head[0] == 0x1f && head[1] == 0x8b:
		zr, err := gzip.NewReader(pieces{f})
		if err != nil {
			return false, nil // it only looks like one
		}
		return s.stream(ctx, zr)
	case bytes.Equal(head[:], []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(pieces{f}, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return false, nil
		}
		defer zr.Close()
		return s.stream(ctx, zr)
	}
	return false, nil
}

func (s *search) stream(ctx context.Context, r io.Reader) (bool, error) {
	longest := 0
	for _, f := range s.forms {
		longest = max(longest, len(f))
	}
	if cap(s.buf) < window+longest {
		s.buf = make([]byte, 0, window+longest)
	}
	buf := s.buf[:0]
	for ctx.Err() == nil {
		n, err := io.ReadFull(pieces{r}, buf[len(buf):min(cap(buf), len(buf)+window)])
		buf = buf[:len(buf)+n]
		if s.left -= int64(n); s.left < 0 {
			return false, errors.New("there is more to search than one run may read")
		}
		if s.in(buf) {
			return true, nil
		}
		if err != nil { // the end, or a stream that is no such stream
			return false, nil
		}
		keep := min(len(buf), longest)
		buf = buf[:copy(buf, buf[len(buf)-keep:])]
	}
	return false, ctx.Err()
}
