package inspect

import (
	"bufio"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// The files of an export beside those of C2SP's tlog-tiles.
const (
	fileKey   = "log.vkey"        // verifies the checkpoint, in the form of package note
	fileNode  = "node.pem"        // the node's public key
	fileInfo  = "info.json"       // the node's word that the one key is the other's
	fileHead  = "chain-head.json" // the node's word on where its chain stands
	fileLinks = "chain.jsonl"     // a link a line
)

// Export writes a log, and all that it takes to check it, into a folder that is not there yet. info is the node's signed word
// about itself.
func Export(ctx context.Context, src Source, keys Keys, info []byte, dir string) (*Checkpoint, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, bulwark.Fail(bulwark.KindInvalid, dir+" is there already.", "Give a folder that is to be made.", err)
		}
		return nil, err
	}
	signed, err := src.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	now, err := OpenCheckpoint(signed, keys)
	if err != nil {
		return nil, err
	}
	e := export{src: src, dir: dir, size: now.Size}
	if err := e.tiles(ctx); err != nil {
		return nil, err
	}
	if err := e.chain(ctx); err != nil {
		return nil, err
	}
	node := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: keys.Node.PKIX()})
	return now, errors.Join(e.write(fileKey, []byte(keys.Log+"\n")), e.write(fileNode, node), e.write(fileInfo, info), e.write(layout.CheckpointPath, signed))
}

type export struct {
	src  Source
	dir  string
	size uint64
}

func (e export) write(name string, b []byte) error {
	path := filepath.Join(e.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// tiles writes the entries and the hashes.
func (e export) tiles(ctx context.Context) error {
	for r := range layout.Range(0, e.size, e.size) {
		b, err := e.src.Entries(ctx, r.Index, r.Partial)
		if err == nil {
			err = e.write(layout.EntriesPath(r.Index, r.Partial), b)
		}
		if err != nil {
			return err
		}
	}
	// The nodes at the bottom of a level's tiles are the whole subtrees of that size.
	for level, nodes := uint64(0), e.size; nodes > 0; level, nodes = level+1, nodes>>layout.TileHeight {
		for index := range (nodes + layout.TileWidth - 1) / layout.TileWidth {
			w := width(level, index, e.size)
			b, err := e.src.Tile(ctx, level, index, w)
			if err == nil {
				err = e.write(layout.TilePath(level, index, w), b)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (e export) chain(ctx context.Context) error {
	var all, head []byte
	for after := uint64(0); ; {
		links, signed, err := e.src.Chain(ctx, after)
		if err != nil {
			return err
		}
		if head = signed; len(links) == 0 {
			break
		}
		for _, link := range links {
			all = append(append(all, link...), '\n')
		}
		after += uint64(len(links))
	}
	return errors.Join(e.write(fileLinks, all), e.write(fileHead, head))
}

// Dir is an export as a source.
type Dir string

// Info returns the node's signed word about itself.
func (d Dir) Info() ([]byte, error) { return d.read(fileInfo) }

func (d Dir) read(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(string(d), filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) {
		err = bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There is no %s in %s.", name, string(d)), "", err)
	}
	return b, err
}

// Checkpoint implements [Source].
func (d Dir) Checkpoint(context.Context) ([]byte, error) { return d.read(layout.CheckpointPath) }

// Tile implements [Source].
func (d Dir) Tile(_ context.Context, level, index uint64, width uint8) ([]byte, error) {
	return d.read(layout.TilePath(level, index, width))
}

// Entries implements [Source].
func (d Dir) Entries(_ context.Context, index uint64, width uint8) ([]byte, error) {
	return d.read(layout.EntriesPath(index, width))
}

// Chain implements [Source].
func (d Dir) Chain(_ context.Context, after uint64) (links [][]byte, head []byte, err error) {
	if head, err = d.read(fileHead); err != nil {
		return nil, nil, err
	}
	b, err := d.read(fileLinks)
	if err != nil {
		return nil, nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := uint64(1); lines.Scan(); n++ {
		if n > after {
			links = append(links, bytes.Clone(lines.Bytes()))
		}
	}
	return links, head, lines.Err()
}

// KeysOf opens the node's word about itself for the keys of its log.
func KeysOf(info []byte, node statement.Key) (Keys, error) {
	var in statement.Info
	if err := statement.Open(info, statement.InfoPayloadType, node, &in); err != nil {
		return Keys{}, err
	}
	if in.Node != node.Fingerprint || in.Log == "" {
		return Keys{}, bulwark.Fail(bulwark.KindNotFound, "The server's node keeps no audit log that could be checked.", "Update the server.", nil)
	}
	return Keys{Node: node, Log: in.Log}, nil
}
