// Package witness is what somebody outside does for an audit log: looks that it only grew, and signs for having seen where it
// stands (C2SP tlog-cosignature, cosignature/v1 by Ed25519). Who believes a witness notices a machine that was put back as a whole,
// node and all, without having seen the log before.
//
// It promises that a cosignature is over a checkpoint that the log's key signed. It says nothing of whether the witness looked: that is
// the witness's word. Whoever owns a witness's key can vouch for any checkpoint that the node has signed, and for no other.
package witness

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	cosigned "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
)

// maxNote bounds a checkpoint with its signatures.
const maxNote = 16 << 10

// maxName bounds a witness's name.
const maxName = 100

// Key is a witness's, in the forms of package note.
type Key struct {
	Secret string
	Public string // verifies cosignatures: NAME+HASH+KEY
}

// Generate makes a key for a witness of a name, which has no blank and no plus.
func Generate(name string) (Key, error) {
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' }) {
		return Key{}, bulwark.Invalid(fmt.Sprintf("%.100q is no name for a witness.", name), "Take a name like witness.example.org: letters, digits, dots, dashes, slashes.")
	}
	secret, plain, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return Key{}, err
	}
	public, err := cosigned.VKeyToCosignatureV1(plain)
	return Key{Secret: secret, Public: public}, err
}

// Name is that of the witness whose cosignatures a key verifies.
func Name(public string) (string, error) {
	v, err := cosigned.NewVerifierForCosignatureV1(public)
	if err != nil || len(v.Name()) > maxName {
		return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%.200q is not the key of a witness.", public), "bulwark audit witness prints it: NAME+HASH+KEY.", err)
	}
	return v.Name(), nil
}

// Sign adds the witness's cosignature, with the time, to a checkpoint that the log's key has signed.
func Sign(checkpoint []byte, log string, key Key) ([]byte, error) {
	n, err := open(checkpoint, log)
	if err != nil {
		return nil, err
	}
	signer, err := cosigned.NewSignerForCosignatureV1(key.Secret)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindInvalid, "The witness's key is not well formed.", "If you know why, remove its file; another key is made then, which nobody trusts yet.", err)
	}
	n.UnverifiedSigs = nil // what others signed is theirs to show
	return note.Sign(n, signer)
}

// Seen is a checkpoint that a witness has signed for.
type Seen struct {
	Size uint64
	At   time.Time // by the witness's clock
}

// Open verifies a checkpoint with the log's key and a witness's.
func Open(signed []byte, log, public string) (Seen, error) {
	if _, err := Name(public); err != nil {
		return Seen{}, err
	}
	w, err := cosigned.NewVerifierForCosignatureV1(public)
	if err != nil {
		return Seen{}, err
	}
	n, err := open(signed, log, w)
	if err != nil {
		return Seen{}, err
	}
	var s Seen
	for _, sig := range n.Sigs {
		if sig.Name == w.Name() && sig.Hash == w.KeyHash() {
			s.At, err = cosigned.CoSigV1Timestamp(sig)
		}
	}
	if err != nil || s.At.IsZero() {
		return Seen{}, bulwark.Fail(bulwark.KindForbidden, "The checkpoint does not have the signature of the witness "+w.Name()+".", "", err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 3 {
		return Seen{}, forged(errors.New("it is no checkpoint"))
	}
	if s.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil {
		return Seen{}, forged(err)
	}
	return s, nil
}

// open verifies that the log's own key is among those that signed.
func open(signed []byte, log string, more ...note.Verifier) (*note.Note, error) {
	if len(signed) > maxNote {
		return nil, forged(fmt.Errorf("it has %d bytes", len(signed)))
	}
	v, err := note.NewVerifier(log)
	if err != nil {
		return nil, forged(err)
	}
	n, err := note.Open(signed, note.VerifierList(append(more, v)...))
	if err != nil {
		return nil, forged(err)
	}
	for _, sig := range n.Sigs {
		if sig.Name == v.Name() && sig.Hash == v.KeyHash() {
			return n, nil
		}
	}
	return nil, forged(errors.New("the log's own key did not sign it"))
}

func forged(err error) error {
	return bulwark.Fail(bulwark.KindForbidden, "The checkpoint is not signed by this installation's node.", "", err)
}
