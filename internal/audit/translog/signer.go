package translog

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// signer has the node sign: it implements [note.Signer] and holds no key.
type signer struct {
	l        *Log
	ctx      context.Context // of the session: Sign is given none
	verifier note.Verifier
}

func (l *Log) signer(ctx context.Context) (note.Signer, error) {
	_, key, err := l.c.Node.Checkpointed(ctx)
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(key)
	return &signer{l: l, ctx: ctx, verifier: v}, err
}

// Name implements [note.Signer].
func (s *signer) Name() string { return s.verifier.Name() }

// KeyHash implements [note.Signer].
func (s *signer) KeyHash() uint32 { return s.verifier.KeyHash() }

// Sign implements [note.Signer]. What comes is the text of a checkpoint; the node is told the numbers in it and a proof that
// the log holds what it signed last, and writes the text itself.
func (s *signer) Sign(text []byte) ([]byte, error) {
	sig, err := s.sign(text)
	if s.ctx.Err() == nil {
		s.l.troubled(err)
	}
	if err != nil {
		s.l.c.Log.Error("the node does not sign the audit log", "error", err)
	}
	return sig, err
}

func (s *signer) sign(text []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, signTime)
	defer cancel()
	size, root, err := parseText(text)
	if err != nil {
		return nil, err
	}
	last, _, err := s.l.c.Node.Checkpointed(ctx)
	if err != nil {
		return nil, err
	}
	var consistency [][]byte
	if last < size { // else the node says what is wrong
		if consistency, err = s.l.prove(ctx, last, size); err != nil {
			return nil, err
		}
	}
	signed, err := s.l.c.Node.Checkpoint(ctx, size, root, consistency)
	if err != nil {
		return nil, err
	}
	n, err := note.Open(signed, note.VerifierList(s.verifier))
	if err != nil {
		return nil, err
	}
	if n.Text != string(text) || len(n.Sigs) != 1 {
		return nil, errors.New("translog: the node signed something else")
	}
	// The base64 of a note's signature holds the hash of the key, and then the signature.
	b, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || len(b) < 4 || binary.BigEndian.Uint32(b) != s.KeyHash() {
		return nil, errors.New("translog: the node's signature cannot be read")
	}
	return b[4:], nil
}

// parseText reads the numbers of a checkpoint. It verifies nothing: what it reads is the log's own.
func parseText(text []byte) (size uint64, root []byte, err error) {
	lines := strings.SplitN(string(bytes.TrimSpace(text)), "\n", 4)
	if len(lines) < 3 {
		return 0, nil, errors.New("translog: the checkpoint is cut off")
	}
	if size, err = strconv.ParseUint(lines[1], 10, 64); err == nil {
		root, err = base64.StdEncoding.DecodeString(lines[2])
	}
	if err != nil {
		return 0, nil, fmt.Errorf("translog: the checkpoint cannot be read: %w", err)
	}
	return size, root, nil
}
