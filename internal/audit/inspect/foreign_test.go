package inspect_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// exported makes an export of a log of some size.
func exported(t *testing.T) (*rig, string) {
	t.Helper()
	r := newRig(t)
	r.fill(700)
	r.tell(r.accept())
	must(t, r.settle())
	dir := filepath.Join(t.TempDir(), "log")
	info, err := statement.Seal(statement.InfoPayloadType, statement.Info{Version: 1, Node: r.book.Node(), Domain: "apps.example.org", Log: r.book.LogKey()}, r.key)
	must(t, err)
	_, err = inspect.Export(t.Context(), r.source(), r.keys(), info, dir)
	must(t, err)
	return r, dir
}

// An export is checked by others' tools alone: golang.org/x/mod's note and tlog, and Tessera's fsck. Nothing of this
// repository takes part.
func TestForeignTools(t *testing.T) {
	_, dir := exported(t)
	vkey, err := os.ReadFile(filepath.Join(dir, "log.vkey"))
	must(t, err)
	v, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	must(t, err)
	signed, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	must(t, err)
	n, err := note.Open(signed, note.VerifierList(v))
	must(t, err)
	lines := strings.Split(n.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(t, err)
	rootBytes, err := base64.StdEncoding.DecodeString(lines[2])
	must(t, err)
	head := tlog.Tree{N: size, Hash: tlog.Hash(rootBytes)}

	// Go's tlog reads hashes from the tiles, and believes those alone that lead to the root.
	hashes := tlog.TileHashReader(head, tiles(dir))
	for _, at := range []int64{0, 1, 255, 256, 511, size - 1} {
		leaf := entry(t, dir, at, size)
		var e struct{ Action string }
		if err := json.Unmarshal(leaf, &e); err != nil || e.Action == "" {
			t.Errorf("entry %d is %q", at, leaf)
		}
		p, err := tlog.ProveRecord(size, at, hashes)
		must(t, err)
		if err := tlog.CheckRecord(p, size, head.Hash, at, tlog.RecordHash(leaf)); err != nil {
			t.Errorf("entry %d: %v", at, err)
		}
	}
	old, err := tlog.TreeHash(300, hashes)
	must(t, err)
	tp, err := tlog.ProveTree(size, 300, hashes)
	must(t, err)
	must(t, tlog.CheckTree(tp, size, head.Hash, 300, old))

	// Tessera's fsck reads all of it.
	check := func() error {
		return fsck.New(v.Name(), v, client.FileFetcher{Root: dir}, func(b []byte) ([][]byte, error) {
			var e api.EntryBundle
			if err := e.UnmarshalText(b); err != nil {
				return nil, err
			}
			var out [][]byte
			for _, l := range e.Entries {
				out = append(out, rfc6962.DefaultHasher.HashLeaf(l))
			}
			return out, nil
		}, fsck.Opts{N: 16}).Check(context.Background()) // a worker that finds something ends, and fsck waits for ever when none is left
	}
	must(t, check())
	path := filepath.Join(dir, "tile", "entries", "001")
	b, err := os.ReadFile(path)
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(path, b, 0o644))
	if check() == nil {
		t.Error("fsck does not see a changed entry")
	}
}

// tiles reads tiles of height 8 for package tlog.
type tiles string

func (d tiles) Height() int { return 8 }

func (d tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (d tiles) ReadTiles(all []tlog.Tile) (out [][]byte, err error) {
	for _, tile := range all {
		// The same path as in a tiled log, but for the height.
		b, err := os.ReadFile(filepath.Join(string(d), "tile", strings.TrimPrefix(tile.Path(), "tile/8/")))
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// entry reads an entry from its file: each has two bytes of length before it.
func entry(t *testing.T, dir string, at, size int64) []byte {
	t.Helper()
	tile := tlog.Tile{H: 8, L: -1, N: at / 256, W: int(min(256, size-at/256*256))}
	b, err := os.ReadFile(filepath.Join(dir, "tile", "entries", strings.TrimPrefix(tile.Path(), "tile/8/data/")))
	must(t, err)
	for i := at / 256 * 256; ; i++ {
		n := int(b[0])<<8 | int(b[1])
		if i == at {
			return b[2 : 2+n]
		}
		b = b[2+n:]
	}
}

// An export is a source like the server, and is held to what was seen before.
func TestOffline(t *testing.T) {
	r, dir := exported(t)
	node := statement.NewKey(r.key.Public().(ed25519.PublicKey))
	info, err := inspect.Dir(dir).Info()
	must(t, err)
	keys, err := inspect.KeysOf(info, node)
	must(t, err)
	online := r.inspect(inspect.Options{})
	offline, err := inspect.Inspect(t.Context(), inspect.Dir(dir), keys, remember(online))
	must(t, err)
	holds(t, offline)
	whole, err := inspect.Inspect(t.Context(), inspect.Dir(dir), keys, inspect.Options{})
	must(t, err)
	holds(t, whole)
	if whole.Checked != 702 || whole.Accepted != 2 {
		t.Errorf("it is %+v", whole)
	}
	other := newRig(t)
	if _, err := inspect.KeysOf(info, statement.NewKey(other.key.Public().(ed25519.PublicKey))); err == nil {
		t.Error("another node's word is taken")
	}
	must(t, os.Truncate(filepath.Join(dir, "chain.jsonl"), 100))
	if report, err := inspect.Inspect(t.Context(), inspect.Dir(dir), keys, inspect.Options{}); err == nil && report.Holds() {
		t.Error("a chain that was cut off holds")
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	_, key, err := ed25519.GenerateKey(strings.NewReader(strings.Repeat("x", 64)))
	if err != nil {
		f.Fatal(err)
	}
	signer, vkey, err := statement.LogSigner(key)
	if err != nil {
		f.Fatal(err)
	}
	k := inspect.Keys{Node: statement.NewKey(key.Public().(ed25519.PublicKey)), Log: vkey}
	good := func(text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	root := make([]byte, 32)
	f.Add(good(statement.CheckpointText(signer.Name(), 7, root)))
	f.Add([]byte(statement.CheckpointText(signer.Name(), 7, root)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, signText(string(b), signer)} {
			c, err := inspect.OpenCheckpoint(in, k)
			if err != nil {
				continue
			}
			// Whatever was signed: what is read says exactly what it says.
			if !strings.HasPrefix(string(in), statement.CheckpointText(signer.Name(), c.Size, c.Root)) {
				t.Errorf("%q is read as %d %x", in, c.Size, c.Root)
			}
		}
	})
}

func signText(text string, s note.Signer) []byte {
	b, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		return nil
	}
	return b
}
