package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// Record is an entry that was written.
type Record struct {
	Entry
	Seq   uint64 // from 1, without gaps
	Time  time.Time
	Index *uint64 // in the log; nil until it is there
}

// leaf is a record as the log has it. The fields stand in the order of their names, as RFC 8785 wants them; docs/audit.md is
// the specification.
type leaf struct {
	Action   string            `json:"action"`
	Actor    bulwark.PersonID  `json:"actor,omitempty"`
	Chain    *leafPlace        `json:"chain,omitempty"`
	Detail   string            `json:"detail,omitempty"`
	Document bulwark.Digest    `json:"document,omitempty"`
	From     string            `json:"from,omitempty"`
	Key      string            `json:"key,omitempty"`
	Outcome  Outcome           `json:"outcome"`
	Project  bulwark.ProjectID `json:"project,omitempty"`
	Resource string            `json:"resource"`
	Seq      uint64            `json:"seq"`
	Time     string            `json:"time"`
	Version  int               `json:"v"`
}

type leafPlace struct {
	Hash bulwark.Digest `json:"hash"`
	Seq  uint64         `json:"seq"`
}

// leafVersion is the version of the encoding.
const leafVersion = 1

// maxLeaf is the most bytes that a leaf of a tiled log may have.
const maxLeaf = 1<<16 - 1

// Leaf returns the one encoding of a record.
func (r Record) Leaf() ([]byte, error) {
	l := leaf{Action: r.Action, Actor: r.Actor, Detail: r.Detail, Document: r.Document, From: r.From, Key: r.Key, Outcome: r.Outcome,
		Project: r.Project, Resource: r.Resource, Seq: r.Seq, Time: r.Time.UTC().Format(time.RFC3339Nano), Version: leafVersion}
	if r.Chain != nil {
		l.Chain = &leafPlace{Hash: r.Chain.Hash, Seq: r.Chain.Seq}
	}
	return l.encode()
}

func (l leaf) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out) > maxLeaf {
		return nil, errors.New("audit: an entry is too large for the log")
	}
	return out, nil
}

// ParseLeaf reads a record of the log. What is not the one encoding of a record is refused, so that no two readers see
// two things in the same bytes.
func ParseLeaf(b []byte) (Record, error) {
	if len(b) > maxLeaf {
		return Record{}, errors.New("audit: the entry is too large")
	}
	var l leaf
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return Record{}, fmt.Errorf("audit: the entry cannot be read: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Record{}, errors.New("audit: there is something behind the entry")
	}
	if l.Version != leafVersion {
		return Record{}, fmt.Errorf("audit: the entry is of version %d", l.Version)
	}
	at, err := time.Parse(time.RFC3339Nano, l.Time)
	if err != nil {
		return Record{}, fmt.Errorf("audit: the entry's time cannot be read: %w", err)
	}
	r := Record{Entry: Entry{Project: l.Project, Actor: l.Actor, Key: l.Key, From: l.From, Action: l.Action, Resource: l.Resource, Outcome: l.Outcome,
		Detail: l.Detail, Document: l.Document}, Seq: l.Seq, Time: at}
	if l.Chain != nil {
		r.Chain = &Place{Seq: l.Chain.Seq, Hash: l.Chain.Hash}
	}
	again, err := r.Leaf()
	if err != nil || !bytes.Equal(again, b) {
		return Record{}, errors.New("audit: the entry is not in its one encoding")
	}
	return r, nil
}
