// Package inspect checks an audit log on the machine of a person who believes nobody but the node: that the node signed
// where the log stands, that the entries are those that were signed for, that nothing which was seen before is gone or
// another, and that the log leaves out nothing that the node accepted.
//
// It promises to name what does not hold, and to hold nothing for true that it did not check. What a server that is owned
// writes into new entries about things that nobody signs (a restart, a refusal) it cannot tell from the truth.
package inspect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Source is where a log is read from. What it has not is an error of the kind not found.
type Source interface {
	Checkpoint(ctx context.Context) ([]byte, error)
	Tile(ctx context.Context, level, index uint64, width uint8) ([]byte, error)
	Entries(ctx context.Context, index uint64, width uint8) ([]byte, error)
	// Chain returns links of the node's chain after a place, and the node's signed word on where it stands.
	Chain(ctx context.Context, after uint64) (links [][]byte, head []byte, err error)
}

// Keys are what is believed.
type Keys struct {
	Node statement.Key
	Log  string // verifies checkpoints, in the form of package note
}

// Checkpoint is a signed state of the log.
type Checkpoint struct {
	Size uint64
	Root []byte
	Note []byte // as it was signed
}

// maxCheckpoint bounds a checkpoint: three lines and a few signatures.
const maxCheckpoint = 16 << 10

// OpenCheckpoint verifies a checkpoint. Other signatures beside the node's, as of witnesses, are not looked at.
func OpenCheckpoint(signed []byte, k Keys) (*Checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return nil, forged(fmt.Errorf("it has %d bytes", len(signed)))
	}
	v, err := note.NewVerifier(k.Log)
	if err != nil {
		return nil, forged(err)
	}
	origin, err := statement.LogOrigin(k.Node.Fingerprint)
	if err != nil || v.Name() != origin {
		return nil, bulwark.Fail(bulwark.KindForbidden, "The key for checkpoints is another installation's.", "", err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return nil, forged(err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != origin || lines[3] != "" {
		return nil, forged(fmt.Errorf("it says %q", n.Text))
	}
	size, err := strconv.ParseUint(lines[1], 10, 62)
	if err != nil {
		return nil, forged(err)
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != rfc6962.DefaultHasher.Size() || statement.CheckpointText(origin, size, root) != n.Text {
		return nil, forged(err)
	}
	return &Checkpoint{Size: size, Root: root, Note: signed}, nil
}

func forged(err error) error {
	return bulwark.Fail(bulwark.KindForbidden, "The checkpoint of the audit log was not signed by the node.", "", err)
}

// Follows returns an error if a log is not the one that was seen before, grown. prove returns the proof that the log of to
// entries holds that of from.
func Follows(seen, now *Checkpoint, prove func(from, to uint64) ([][]byte, error)) error {
	switch {
	case now.Size < seen.Size:
		return shrunk(now.Size, seen.Size)
	case now.Size == seen.Size && !bytes.Equal(now.Root, seen.Root):
		return another(seen.Size)
	case now.Size == seen.Size, seen.Size == 0:
		return nil
	}
	p, err := prove(seen.Size, now.Size)
	if err != nil {
		return err
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, seen.Size, now.Size, p, seen.Root, now.Root); err != nil {
		return another(seen.Size)
	}
	return nil
}

func shrunk(size, seen uint64) error {
	return bulwark.Failf(bulwark.KindForbidden, "The log has %d entries; this machine saw %d: it was cut off, or an older state was put back.", size, seen)
}

func another(size uint64) error {
	return bulwark.Failf(bulwark.KindForbidden, "The first %d entries are others than this machine saw: the log was forked or changed.", size)
}

// State is what is kept between two inspections: what was checked needs not to be fetched again.
type State struct {
	Size    uint64             `json:"size"`
	Range   []string           `json:"range,omitempty"` // hashes of the whole subtrees, hexadecimal
	Seq     uint64             `json:"seq"`             // of the last entry
	Chain   statement.ChainRef `json:"chain,omitzero"`
	Newest  time.Time          `json:"newest,omitzero"` // of the links that entries told of
	Waiting []Waiting          `json:"waiting,omitempty"`
}

// Waiting is a link of the node's chain that no entry has told of yet.
type Waiting struct {
	statement.ChainRef
	Link statement.Link `json:"link"`
}

// Report is the outcome.
type Report struct {
	Size     uint64    `json:"entries"`
	Checked  uint64    `json:"checked"`  // now; the others before
	Accepted uint64    `json:"accepted"` // documents in the node's chain
	Waiting  int       `json:"waiting"`  // accepted a moment ago and not in the log yet
	Late     int       `json:"late"`     // entries that the server wrote later than it should
	Until    time.Time `json:"until,omitzero"`
	Findings []string  `json:"findings"`

	Checkpoint *Checkpoint `json:"-"`
	State      State       `json:"-"` // for the next time; only if there are no findings
}

// Holds reports whether nothing was found.
func (r *Report) Holds() bool { return len(r.Findings) == 0 }

// mostFindings is where an inspection stops to list: a log whose first entry is gone has a finding for each.
const mostFindings = 100

func (r *Report) found(format string, args ...any) {
	if len(r.Findings) < mostFindings {
		r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
	}
}

// grace is how long the server may take to write the entry of an accepted document: it may have been killed in between.
const grace = 5 * time.Minute

// Options say more than what is always checked.
type Options struct {
	// Now is the checker's own clock, zero if what is checked is not of today: a copy, or a file. The node signs the time with
	// its word on the chain, so that a server that shows an old state, whole and right, is found out.
	Now   time.Time
	Seen  []*Checkpoint // states of the log that are known from elsewhere
	State State         // what was checked before; the zero value checks all
	Entry func(index uint64, r audit.Record)
}

// inspection is one under way.
type inspection struct {
	src    Source
	keys   Keys
	o      Options
	report *Report
	now    *Checkpoint
	tree   *compact.Range
	tiles  *tiles // nil if the log is not read from its beginning
	roots  map[uint64][]byte
	chain  chain
	last   uint64 // number of the last entry
}

// Inspect checks a log. An error means that it could not be checked to the end, for a reason that need not be anybody's
// fault; what is wrong with the log is in the report.
func Inspect(ctx context.Context, src Source, keys Keys, o Options) (*Report, error) {
	in := &inspection{src: src, keys: keys, o: o, report: &Report{Findings: []string{}}, roots: map[uint64][]byte{}}
	signed, err := src.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if in.now, err = OpenCheckpoint(signed, keys); err != nil {
		in.report.found("%v", err)
		return in.report, nil
	}
	in.report.Size, in.report.Checkpoint = in.now.Size, in.now
	if err := in.begin(); err != nil {
		return nil, err
	}
	// The chain after the checkpoint and before the entries: it then has a place for each that an entry names.
	if err := in.readChain(ctx); err != nil {
		return nil, err
	}
	if err := in.entries(ctx); err != nil {
		return nil, err
	}
	in.end()
	return in.report, nil
}

// begin takes up what was checked before, if it can be built upon.
func (in *inspection) begin() error {
	st := in.o.State
	for _, seen := range in.o.Seen {
		if seen.Size > in.now.Size {
			in.report.found("%v", shrunk(in.now.Size, seen.Size))
			continue
		}
		if before, ok := in.roots[seen.Size]; ok && !bytes.Equal(before, seen.Root) {
			in.report.found("%v", another(seen.Size))
		}
		in.roots[seen.Size] = seen.Root
		if seen.Size < st.Size {
			st = State{Chain: st.Chain} // its root can be found out from the beginning alone
		}
	}
	if st.Size > in.now.Size {
		in.report.found("%v", shrunk(in.now.Size, st.Size))
		st = State{}
	}
	factory := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	in.tree = factory.NewEmptyRange(0)
	if st.Size == 0 {
		in.tiles = &tiles{open: map[compact.NodeID][]byte{}}
		st = State{}
	} else {
		var hashes [][]byte
		for _, h := range st.Range {
			b, err := hex.DecodeString(h)
			if err != nil {
				return err
			}
			hashes = append(hashes, b)
		}
		var err error
		if in.tree, err = factory.NewRange(0, st.Size, hashes); err != nil {
			return err
		}
	}
	in.last = st.Seq
	in.chain = newChain(st, in.o.State.Chain)
	in.report.Checked = in.now.Size - st.Size
	return in.root(st.Size)
}

// root compares the root of the first size entries with what is known of it.
func (in *inspection) root(size uint64) error {
	want, ok := in.roots[size]
	if !ok && size != in.now.Size {
		return nil
	}
	root, err := in.tree.GetRootHash(nil)
	if err != nil {
		return err
	}
	if size == 0 {
		root = rfc6962.DefaultHasher.EmptyRoot()
	}
	if ok && !bytes.Equal(root, want) {
		in.report.found("%v", another(size))
	}
	if size == in.now.Size && !bytes.Equal(root, in.now.Root) {
		in.report.found("The %d entries are not those that the node signed: one was changed, moved, put in or taken out.", size)
	}
	return nil
}

// end looks at what is left over, and keeps the state.
func (in *inspection) end() {
	in.chain.end(in.report)
	st := State{Size: in.now.Size, Seq: in.last, Chain: in.chain.head.Ref(), Newest: in.chain.newest, Waiting: in.chain.waiting()}
	for _, h := range in.tree.Hashes() {
		st.Range = append(st.Range, hex.EncodeToString(h))
	}
	in.report.Waiting = len(st.Waiting)
	in.report.State = st
}

// width is how many entries or hashes of a tile there are at a size; 0 means all.
func width(level, index, size uint64) uint8 { return layout.PartialTileSize(level, index, size) }
