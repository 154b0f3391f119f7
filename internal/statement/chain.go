package statement

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
)

// ChainPayloadType is the type of the node's word on where its chain stands.
const ChainPayloadType = "application/vnd.bulwark.chain.v1+json"

// Link is one document that the node accepted, in the chain that the node keeps of all of them. docs/audit.md is its
// specification: the fields stand in this order, and the link is their JSON without white space.
type Link struct {
	Version  int              `json:"v"`
	Seq      uint64           `json:"seq"` // from 1, without gaps
	Time     time.Time        `json:"time"`
	Kind     Kind             `json:"kind"`
	Person   bulwark.PersonID `json:"person,omitempty"` // empty for what the node did by itself
	Key      string           `json:"key"`
	App      bulwark.AppID    `json:"app,omitempty"`
	Document bulwark.Digest   `json:"document"`
}

// Encode returns the bytes that are chained.
func (l Link) Encode() ([]byte, error) { return json.Marshal(l) }

// ChainRef is a place in the chain: after so many links, with this hash.
type ChainRef struct {
	Seq  uint64         `json:"seq"`
	Hash bulwark.Digest `json:"hash"`
}

// ChainStart is the place before the first link of a node's chain. It carries the node's name, so that no chain passes for
// another installation's.
func ChainStart(node string) ChainRef {
	return ChainRef{Hash: bulwark.Sum([]byte("bulwark chain v1\n" + node + "\n"))}
}

// Next is the place after one more link: SHA-256 over the hash so far and the link's bytes.
func (c ChainRef) Next(link []byte) (ChainRef, error) {
	before, err := hex.DecodeString(c.Hash.Hex())
	if err != nil || len(before) != sha256.Size {
		return ChainRef{}, fmt.Errorf("statement: %q is no hash of a chain", c.Hash)
	}
	return ChainRef{Seq: c.Seq + 1, Hash: bulwark.Sum(append(before, link...))}, nil
}

// ChainHead is the node's signed word on where its chain stands.
type ChainHead struct {
	Version int            `json:"v"`
	Node    string         `json:"node"`
	Seq     uint64         `json:"seq"`
	Hash    bulwark.Digest `json:"hash"`
	Time    time.Time      `json:"time"`
}

// Ref is the place.
func (h ChainHead) Ref() ChainRef { return ChainRef{Seq: h.Seq, Hash: h.Hash} }

// LogOrigin is the name of a node's audit log: the origin line of its checkpoints and the name of the key that signs
// them. A fingerprint's own spelling has characters that a note's name cannot have.
func LogOrigin(node string) (string, error) {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(node, "SHA256:"))
	if err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("statement: %q is no node", node)
	}
	return "bulwark.dev/audit/" + hex.EncodeToString(b), nil
}

// logPurpose is what the checkpoint key is derived for.
const logPurpose = "bulwark audit checkpoint v1"

// LogSigner returns the signer of a node's checkpoints and its verifier key in the form of package note. The key is derived
// from the node's own, so there is one key to keep; it is not the same one, so that no signature of one format can ever be
// one of the other, whatever the formats become. The node's signed [Info] says which it is.
func LogSigner(node ed25519.PrivateKey) (note.Signer, string, error) {
	origin, err := LogOrigin(NewKey(node.Public().(ed25519.PublicKey)).Fingerprint)
	if err != nil {
		return nil, "", err
	}
	seed, err := hkdf.Key(sha256.New, node.Seed(), nil, logPurpose, ed25519.SeedSize)
	if err != nil {
		return nil, "", err
	}
	key := ed25519.NewKeyFromSeed(seed)
	verifier, err := note.NewEd25519VerifierKey(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, "", err
	}
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return nil, "", err
	}
	// Package note takes a private key in its text form alone: an algorithm byte (1 is Ed25519) and the seed.
	s, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", origin, v.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, seed...))))
	return s, verifier, err
}

// CheckpointText is the signed text of a checkpoint, as C2SP's tlog-checkpoint has it.
func CheckpointText(origin string, size uint64, root []byte) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root))
}
