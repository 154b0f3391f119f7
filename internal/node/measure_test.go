package node

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	"crypto/sha1" //nolint:gosec // git's names of objects
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
)

// packer writes a git pack by hand, as nobody's git would.
type packer struct {
	t   *testing.T
	buf bytes.Buffer
	n   uint32
}

// The types of objects in a pack.
const (
	packCommit, packTree, packBlob = 1, 2, 3
	packDelta                      = 7 // against an object by its name
)

func (p *packer) head(kind int, size int64) {
	b := byte(kind<<4) | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		p.buf.WriteByte(b | 0x80)
		b = byte(size & 127)
	}
	p.buf.WriteByte(b)
	p.n++
}

var gitTypes = map[int]string{packCommit: "commit", packTree: "tree", packBlob: "blob"}

// add adds an object of size bytes that write gives, and returns its name.
func (p *packer) add(kind int, size int64, write func(io.Writer)) []byte {
	p.head(kind, size)
	z := zlib.NewWriter(&p.buf)
	h := sha1.New() //nolint:gosec // as above
	fmt.Fprintf(h, "%s %d\x00", gitTypes[kind], size)
	write(io.MultiWriter(z, h))
	must(p.t, z.Close())
	return h.Sum(nil)
}

func (p *packer) text(kind int, text string) []byte {
	return p.add(kind, int64(len(text)), func(w io.Writer) { _, _ = io.WriteString(w, text) })
}

// zeros adds a file of zeros: one compressed piece of a MiB, again and again, since compressing gigabytes takes a while.
func (p *packer) zeros(size int64) []byte {
	const piece = 1 << 20
	if size%piece != 0 {
		return p.add(packBlob, size, func(w io.Writer) { _, _ = io.CopyN(w, zeros{}, size) })
	}
	var deflated bytes.Buffer
	w, err := flate.NewWriter(&deflated, flate.BestCompression)
	must(p.t, err)
	_, err = io.CopyN(w, zeros{}, piece)
	must(p.t, err)
	must(p.t, w.Flush())
	p.head(packBlob, size)
	p.buf.Write([]byte{0x78, 0xda})
	for range size / piece {
		p.buf.Write(deflated.Bytes())
	}
	p.buf.Write([]byte{1, 0, 0, 0xff, 0xff}) // an empty last block
	_ = binary.Write(&p.buf, binary.BigEndian, uint32(size%65521)<<16|1)
	h := sha1.New() //nolint:gosec // as above
	fmt.Fprintf(h, "blob %d\x00", size)
	_, _ = io.CopyN(h, zeros{}, size)
	return h.Sum(nil)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// entry is a line of a tree.
func entry(mode, name string, object []byte) string {
	return mode + " " + name + "\x00" + string(object)
}

// commit adds a commit of a tree, and returns the pack and the commit's name.
func (p *packer) commit(tree []byte) ([]byte, bulwark.Commit) {
	p.t.Helper()
	who := "A <a@example.org> 1700000000 +0000\n"
	name := p.text(packCommit, "tree "+hex.EncodeToString(tree)+"\nauthor "+who+"committer "+who+"\nm\n")
	c, err := bulwark.ParseCommit(hex.EncodeToString(name))
	must(p.t, err)
	var out bytes.Buffer
	out.WriteString("PACK")
	for _, v := range []uint32{2, p.n} {
		_ = binary.Write(&out, binary.BigEndian, v)
	}
	out.Write(p.buf.Bytes())
	sum := sha1.Sum(out.Bytes()) //nolint:gosec // as above
	out.Write(sum[:])
	return out.Bytes(), c
}

// delta adds an object that is made of copies of another, of size bytes, and returns its name.
func (p *packer) delta(base []byte, baseSize, size int64, sum hash.Hash) []byte {
	var d bytes.Buffer
	for _, n := range []int64{baseSize, size} {
		for ; n > 127; n >>= 7 {
			d.WriteByte(byte(n) | 0x80)
		}
		d.WriteByte(byte(n))
	}
	const piece = 0xffff
	for left := size; left > 0; left -= piece {
		n := min(left, piece)
		d.Write([]byte{0x80 | 0x10 | 0x20, byte(n), byte(n >> 8)}) // copy n bytes from the beginning of the base
	}
	p.head(packDelta, int64(d.Len()))
	p.buf.Write(base)
	z := zlib.NewWriter(&p.buf)
	_, _ = z.Write(d.Bytes())
	must(p.t, z.Close())
	fmt.Fprintf(sum, "blob %d\x00", size)
	_, _ = io.CopyN(sum, zeros{}, size)
	return sum.Sum(nil)
}

// bombs are packs of some kilobytes to a few megabytes that become something enormous.
var bombs = map[string]struct {
	make func(p *packer) ([]byte, bulwark.Commit)
	want string
}{
	"a file of a gigabyte": {func(p *packer) ([]byte, bulwark.Commit) {
		return p.commit(p.text(packTree, entry("100644", "zeros", p.zeros(1<<30+1<<20))))
	}, "The files of the commit are more than 1024 MiB"},
	"a hundred million files": {func(p *packer) ([]byte, bulwark.Commit) {
		object := p.text(packBlob, "boom")
		for level := range 8 {
			mode := "40000"
			if level == 0 {
				mode = "100644"
			}
			var tree strings.Builder
			for i := range 10 {
				tree.WriteString(entry(mode, fmt.Sprint("d", i), object))
			}
			object = p.text(packTree, tree.String())
		}
		return p.commit(object)
	}, "The commit has more than 250000 files and folders"},
	"a hundred times the same ten megabytes": {func(p *packer) ([]byte, bulwark.Commit) {
		object := p.zeros(10 << 20)
		var tree strings.Builder
		for i := range 200 {
			tree.WriteString(entry("100644", fmt.Sprintf("f%03d", i), object))
		}
		return p.commit(p.text(packTree, tree.String()))
	}, "The files of the commit are more than 1024 MiB"},
	"a folder in a folder, twenty thousand times": {func(p *packer) ([]byte, bulwark.Commit) {
		object := p.text(packTree, entry("100644", "f", p.text(packBlob, "deep")))
		for range 20_000 {
			object = p.text(packTree, entry("40000", "d", object))
		}
		return p.commit(object)
	}, "a path of more than 4096 characters"},
	// 1.5 GB in one piece of memory; git cannot have less, since others may be copied from it.
	"a file of which each byte is copied from another": {func(p *packer) ([]byte, bulwark.Commit) {
		base := p.zeros(1 << 16)
		object := p.delta(base, 1<<16, 1536<<20, sha1.New()) //nolint:gosec // as above
		return p.commit(p.text(packTree, entry("100644", "zeros", object)))
	}, "more than 1 GiB of memory"},
	"deltas on deltas": {func(p *packer) ([]byte, bulwark.Commit) {
		object, size := p.zeros(1<<16), int64(1<<16)
		for range 5_000 {
			object = p.delta(object, size, size-1, sha1.New()) //nolint:gosec // as above
			size--
		}
		return p.commit(p.text(packTree, entry("100644", "zeros", object)))
	}, ""}, // slow, and nothing worse: it is one small file
}

// A pack that is a bomb ends in an error that says what is wrong, in bounded time, memory and disk.
func TestGitBombs(t *testing.T) {
	b, top, uid := unpacking(t)
	var err error
	if b.config.Git, err = process.Look("git", "git"); err != nil {
		t.Fatal(err)
	}
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			pack, commit := bomb.make(&packer{t: t})
			dir := filepath.Join(top, strings.ReplaceAll(name, " ", "-"))
			must(t, os.Mkdir(dir, 0o755))
			began := time.Now()
			_, err := b.measure(t.Context(), dir, uid, commit, bytes.NewReader(pack))
			took := time.Since(began)
			t.Logf("%d kB, %s: %v", len(pack)>>10, took.Round(time.Millisecond), err)
			if bomb.want == "" {
				must(t, err)
			} else if isKind(t, err, bulwark.KindTooLarge); !strings.Contains(err.Error(), bomb.want) {
				t.Fatal(err)
			}
			if took > time.Minute {
				t.Errorf("it took %s", took)
			}
			if n := onDisk(t, dir); n > 64<<20 {
				t.Errorf("%d MiB were written", n>>20)
			}
		})
	}
}

func onDisk(t *testing.T, dir string) (n int64) {
	t.Helper()
	must(t, filepath.Walk(dir, func(_ string, st os.FileInfo, err error) error {
		if err == nil {
			n += st.Size()
		}
		return err
	}))
	return n
}

// Each kind of entry arrives as it was signed for. A commit that leads to nothing is refused, and so is a name that git keeps
// its own things under; who sends nothing more does not hold git for ever.
func TestMeasuredTree(t *testing.T) {
	b, top, uid := unpacking(t)
	var err error
	if b.config.Git, err = process.Look("git", "git"); err != nil {
		t.Fatal(err)
	}
	n := 0
	try := func(ctx context.Context, pack []byte, commit bulwark.Commit) (string, error) {
		n++
		dir := filepath.Join(top, fmt.Sprint("m", n))
		must(t, os.Mkdir(dir, 0o755))
		_, err := b.measure(ctx, dir, uid, commit, bytes.NewReader(pack))
		return dir, err
	}
	p := &packer{t: t}
	sub := p.text(packTree, entry("100644", "deep file", p.text(packBlob, "deep\n")))
	hello := p.text(packBlob, "hello\n")
	pack, commit := p.commit(p.text(packTree, entry("120000", "link", p.text(packBlob, "run"))+entry("100755", "run", hello)+entry("40000", "sub", sub)))
	dir, err := try(t.Context(), pack, commit)
	must(t, err)
	for name, want := range map[string]string{"run": "hello\n", "sub/deep file": "deep\n", "link": "hello\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, sourceDir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, sourceDir, "run")); err != nil || st.Mode().Perm() != 0o755 {
		t.Error(st, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "git")); err == nil {
		t.Error("the repository is left beside the source")
	}
	p = &packer{t: t}
	nothing, gone := p.commit(bytes.Repeat([]byte{7}, 20))
	_, err = try(t.Context(), nothing, gone)
	isKind(t, err, bulwark.KindForbidden)
	for _, name := range []string{".git", ".GIT", "..", ".", "a/b", "git~1"} {
		p = &packer{t: t}
		bad, commit := p.commit(p.text(packTree, entry("100644", name, p.text(packBlob, "x"))))
		if _, err = try(t.Context(), bad, commit); bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("%q: %v", name, err)
		}
	}
	ctx, stop := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, bulwark.Failf(bulwark.KindUnavailable, "Too slow."))
	defer stop()
	dir = filepath.Join(top, "slow")
	must(t, os.Mkdir(dir, 0o755))
	r, w := io.Pipe()
	defer w.Close()
	_, err = b.measure(ctx, dir, uid, commit, r)
	isKind(t, err, bulwark.KindUnavailable)
}
