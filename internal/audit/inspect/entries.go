package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
)

// ahead is how many bundles are fetched at a time.
const ahead = 8

// part is a file of the log that is under way.
type part struct {
	b   []byte
	err error
}

// entries reads all entries that were not read before.
func (in *inspection) entries(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from := in.tree.End()
	if from == in.now.Size {
		return nil
	}
	first, last := from/layout.EntryBundleWidth, (in.now.Size-1)/layout.EntryBundleWidth
	coming := make(chan chan part, ahead)
	go func() {
		defer close(coming)
		for i := first; i <= last; i++ {
			c := make(chan part, 1)
			select {
			case coming <- c:
			case <-ctx.Done():
				return
			}
			go func() {
				b, err := in.src.Entries(ctx, i, width(0, i, in.now.Size))
				c <- part{b, err}
			}()
		}
	}()
	for i := first; i <= last; i++ {
		var p part
		select {
		case p = <-<-coming:
		case <-ctx.Done():
			return ctx.Err()
		}
		if bulwark.KindOf(p.err) == bulwark.KindNotFound {
			in.report.found("The entries from %d on are missing, although the node signed for %d.", i*layout.EntryBundleWidth, in.now.Size)
			return nil
		}
		if p.err != nil {
			return p.err
		}
		if whole, err := in.bundle(ctx, i, p.b); err != nil || !whole {
			return err
		}
	}
	if in.tiles != nil {
		return in.tiles.rest(ctx, in)
	}
	return nil
}

// bundle takes the entries of one file. It returns false if nothing that follows can be where it belongs.
func (in *inspection) bundle(ctx context.Context, index uint64, b []byte) (bool, error) {
	var e api.EntryBundle
	first := index * layout.EntryBundleWidth
	count := min(layout.EntryBundleWidth, in.now.Size-first)
	if err := e.UnmarshalText(b); err != nil || uint64(len(e.Entries)) < count {
		in.report.found("The entries from %d on cannot be read: the file is cut off or no file of a log.", first)
		return false, nil
	}
	for i, leaf := range e.Entries[:count] {
		at := first + uint64(i)
		if at < in.tree.End() {
			continue
		}
		if err := in.leaf(ctx, at, leaf); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (in *inspection) leaf(ctx context.Context, at uint64, leaf []byte) error {
	var wrong error
	err := in.tree.Append(rfc6962.DefaultHasher.HashLeaf(leaf), func(id compact.NodeID, hash []byte) {
		if in.tiles != nil && wrong == nil {
			wrong = in.tiles.node(ctx, in, id, hash)
		}
	})
	if err = errors.Join(err, wrong); err != nil {
		return err
	}
	if err := in.root(at + 1); err != nil {
		return err
	}
	r, err := audit.ParseLeaf(leaf)
	if err != nil {
		in.report.found("Entry %d is none: %v.", at, err)
		return nil
	}
	if r.Seq != in.last+1 {
		in.report.found("Entry %d has the number %d, and the one before it %d: what was written in between is not there.", at, r.Seq, in.last)
	}
	in.last = r.Seq
	in.report.Until = r.Time
	in.chain.entry(in.report, at, r)
	if in.o.Entry != nil {
		in.o.Entry(at, r)
	}
	return nil
}

// tiles compares the files of hashes with what the entries make. Proofs are made of them.
type tiles struct {
	open map[compact.NodeID][]byte // by tile: its hashes so far
}

// node takes a node of the tree; those at the bottom of tiles are in files.
func (t *tiles) node(ctx context.Context, in *inspection, id compact.NodeID, hash []byte) error {
	if id.Level%layout.TileHeight != 0 {
		return nil
	}
	tile := compact.NodeID{Level: id.Level / layout.TileHeight, Index: id.Index / layout.TileWidth}
	t.open[tile] = append(t.open[tile], hash...)
	if id.Index%layout.TileWidth != layout.TileWidth-1 {
		return nil
	}
	return t.compare(ctx, in, tile)
}

// rest compares the tiles at the right edge.
func (t *tiles) rest(ctx context.Context, in *inspection) error {
	for tile := range t.open {
		if err := t.compare(ctx, in, tile); err != nil {
			return err
		}
	}
	return nil
}

func (t *tiles) compare(ctx context.Context, in *inspection, tile compact.NodeID) error {
	want := t.open[tile]
	delete(t.open, tile)
	name := fmt.Sprintf("The file of hashes %d of level %d", tile.Index, tile.Level)
	b, err := in.src.Tile(ctx, uint64(tile.Level), tile.Index, width(uint64(tile.Level), tile.Index, in.now.Size))
	switch {
	case bulwark.KindOf(err) == bulwark.KindNotFound:
		in.report.found("%s is missing.", name)
	case err != nil:
		return err
	case !bytes.Equal(b[:min(len(b), len(want))], want):
		in.report.found("%s is not that of the entries: one of both was changed.", name)
	}
	return nil
}
