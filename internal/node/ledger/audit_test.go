package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// tree is a log in memory, by the Go project's own implementation.
type tree struct {
	hashes []tlog.Hash
	size   int64
}

func (tr *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = tr.hashes[x]
	}
	return out, nil
}

func (tr *tree) add(t *testing.T, leaf string) {
	t.Helper()
	h, err := tlog.StoredHashes(tr.size, []byte(leaf), tr)
	ok(t, err)
	tr.hashes = append(tr.hashes, h...)
	tr.size++
}

func (tr *tree) root(t *testing.T, size int64) []byte {
	t.Helper()
	h, err := tlog.TreeHash(size, tr)
	ok(t, err)
	return h[:]
}

func (tr *tree) proof(t *testing.T, from, to int64) [][]byte {
	t.Helper()
	p, err := tlog.ProveTree(to, from, tr)
	ok(t, err)
	var out [][]byte
	for _, h := range p {
		out = append(out, h[:])
	}
	return out
}

// The node signs checkpoints of one log that only grows, in the form that Go's own note package reads.
func TestCheckpoint(t *testing.T) {
	b := open(t)
	empty := sha256.Sum256(nil)
	signed, err := b.Checkpoint(b.ctx(), 0, empty[:], nil)
	ok(t, err)
	v, err := note.NewVerifier(b.LogKey())
	ok(t, err)
	n, err := note.Open(signed, note.VerifierList(v))
	ok(t, err)
	origin, err := statement.LogOrigin(b.Node())
	ok(t, err)
	if want := statement.CheckpointText(origin, 0, empty[:]); n.Text != want || v.Name() != origin {
		t.Fatalf("it says %q, not %q", n.Text, want)
	}
	tr, fork := &tree{}, &tree{}
	for i := range 300 {
		tr.add(t, fmt.Sprint("entry ", i))
		if i == 70 {
			fork.add(t, "another")
		} else {
			fork.add(t, fmt.Sprint("entry ", i))
		}
	}
	_, err = b.Checkpoint(b.ctx(), 100, tr.root(t, 100), nil)
	ok(t, err)
	for name, bad := range map[string]func() error{
		"an edit": func() error {
			_, err := b.Checkpoint(b.ctx(), 100, fork.root(t, 100), nil)
			return err
		},
		"a fork": func() error {
			_, err := b.Checkpoint(b.ctx(), 300, fork.root(t, 300), fork.proof(t, 100, 300))
			return err
		},
		"a fork with the other's proof": func() error {
			_, err := b.Checkpoint(b.ctx(), 300, fork.root(t, 300), tr.proof(t, 100, 300))
			return err
		},
		"no proof": func() error {
			_, err := b.Checkpoint(b.ctx(), 300, tr.root(t, 300), nil)
			return err
		},
		"a truncation": func() error {
			_, err := b.Checkpoint(b.ctx(), 99, tr.root(t, 99), nil)
			return err
		},
		"a truncation to nothing": func() error {
			_, err := b.Checkpoint(b.ctx(), 0, empty[:], nil)
			return err
		},
	} {
		if err := bad(); bulwark.KindOf(err) != bulwark.KindForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, root := range [][]byte{nil, empty[:31]} {
		if _, err := b.Checkpoint(b.ctx(), 300, root, nil); bulwark.KindOf(err) != bulwark.KindInvalid {
			t.Errorf("a root of %d bytes: %v", len(root), err)
		}
	}
	again, err := b.Checkpoint(b.ctx(), 100, tr.root(t, 100), nil)
	ok(t, err)
	signed, err = b.Checkpoint(b.ctx(), 300, tr.root(t, 300), tr.proof(t, 100, 300))
	ok(t, err)
	if bytes.Equal(again, signed) {
		t.Error("two logs have one checkpoint")
	}
	size, last, err := b.Checkpointed(b.ctx())
	ok(t, err)
	if size != 300 || !bytes.Equal(last, signed) {
		t.Error("the newest checkpoint is not the one that was signed last")
	}
}

// Every document that is accepted has one place in the chain, and the receipt says which.
func TestChain(t *testing.T) {
	b := open(t)
	p := b.enrol()
	app := bulwark.NewAppID()
	r := b.must(p, statement.KindAppCreate, app, statement.AppCreate{Name: "shop"})
	if r.Chain == nil || r.Chain.Seq != 2 {
		t.Fatalf("the receipt says %v", r.Chain)
	}
	if _, err := b.Submit(b.ctx(), b.sign(p.device, statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "shop"})); err == nil {
		t.Fatal("the name was taken twice")
	}
	r = b.must(p, statement.KindDomainAdd, app, statement.Domain{Host: "shop.example.com"})
	links, signed, err := b.Chain(b.ctx(), 0)
	ok(t, err)
	var head statement.ChainHead
	ok(t, statement.Open(signed, statement.ChainPayloadType, statement.NewKey(b.node.Public().(ed25519.PublicKey)), &head))
	at := statement.ChainStart(b.Node())
	var last statement.Link
	for _, link := range links {
		at, err = at.Next(link)
		ok(t, err)
		ok(t, json.Unmarshal(link, &last))
	}
	if len(links) != 3 || at != head.Ref() || at != *r.Chain || last.Document != r.Digest || last.Seq != 3 {
		t.Errorf("the chain of %d links ends at %v, the node says %v and the receipt %v", len(links), at, head.Ref(), *r.Chain)
	}
	if rest, _, err := b.Chain(b.ctx(), 2); err != nil || len(rest) != 1 || !bytes.Equal(rest[0], links[2]) {
		t.Error("the rest of the chain is another", err)
	}
	// The receipt that is given again is the same.
	if again, err := b.Accepted(b.ctx(), r.Digest); err != nil || *again.Chain != *r.Chain {
		t.Error("another receipt", err)
	}
}

// Documents from before there was a chain get their places when the ledger is opened, in their order.
func TestChainOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	b := openAt(t, path)
	p := b.enrol()
	b.must(p, statement.KindAppCreate, bulwark.NewAppID(), statement.AppCreate{Name: "shop"})
	before, _, err := b.Chain(b.ctx(), 0)
	ok(t, err)
	ok(t, b.Close())
	raw, err := sql.Open("sqlite", path)
	ok(t, err)
	_, err = raw.Exec(`DELETE FROM chain`)
	ok(t, err)
	ok(t, raw.Close())
	b = reopen(t, b, path)
	after, _, err := b.Chain(b.ctx(), 0)
	ok(t, err)
	if len(before) != 2 || !slices.EqualFunc(before, after, bytes.Equal) {
		t.Errorf("the chain was %q and is %q", before, after)
	}
}
