package terminal

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// WelcomePayloadType is the type of a Welcome in its DSSE envelope.
const WelcomePayloadType = "application/vnd.bulwark.terminal.v1+json"

// maxWelcome bounds the envelope of a welcome; one has some 2.5 KiB.
const maxWelcome = 16 << 10

// Welcome is the node's signed answer to an accepted app.run.
type Welcome struct {
	Version   int                `json:"v"`
	Node      string             `json:"node"`
	Statement bulwark.Digest     `json:"statement"` // of the envelope
	App       bulwark.AppID      `json:"app"`
	Release   uint64             `json:"release"`
	Instance  bulwark.InstanceID `json:"instance"`
	Name      string             `json:"name"` // "run.1"
	// Encapsulated is the node's half of the key; empty for a command that runs detached.
	Encapsulated []byte    `json:"enc,omitempty"`
	Time         time.Time `json:"time"`
}

func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.ExportOnly()
}

// info is the HPKE info string: it binds the keys to the node and to the statement, and so to the app, the command and the
// person.
func info(node string, digest bulwark.Digest) []byte {
	b := []byte("bulwark terminal v1")
	for _, s := range []string{node, string(digest)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// keys are the two keys of a stream.
type keys struct{ client, node []byte }

// export derives the keys. The welcome's hash is in the context, so both ends agree on every byte that was signed.
func export(from interface {
	Export(string, int) ([]byte, error)
}, welcome []byte) (k keys, err error) {
	sum := sha256.Sum256(welcome)
	if k.client, err = from.Export("bulwark terminal v1 client"+string(sum[:]), chacha20poly1305.KeySize); err != nil {
		return k, err
	}
	k.node, err = from.Export("bulwark terminal v1 node"+string(sum[:]), chacha20poly1305.KeySize)
	return k, err
}

// Key is a client's end of one stream, made for it alone.
type Key struct{ private hpke.PrivateKey }

// NewKey makes a key.
func NewKey() (*Key, error) {
	kem, _, _ := suite()
	k, err := kem.GenerateKey()
	if err != nil {
		return nil, err
	}
	return &Key{k}, nil
}

// Public is the recipient that the statement names.
func (k *Key) Public() []byte { return k.private.PublicKey().Bytes() }

// Open verifies the welcome to the statement with this digest and returns the client's end of a stream over conn.
func (k *Key) Open(conn io.ReadWriteCloser, welcome []byte, node statement.Key, digest bulwark.Digest) (*Stream, *Welcome, error) {
	w, err := OpenWelcome(welcome, node, digest)
	if err != nil {
		return nil, nil, err
	}
	_, kdf, aead := suite()
	r, err := hpke.NewRecipient(w.Encapsulated, k.private, kdf, aead, info(node.Fingerprint, digest))
	if err != nil {
		return nil, nil, bulwark.Fail(bulwark.KindForbidden, "The node's answer does not open.", "Run the command again.", err)
	}
	ks, err := export(r, welcome)
	if err != nil {
		return nil, nil, err
	}
	s, err := newStream(conn, ks.client, ks.node, false)
	return s, w, err
}

// OpenWelcome verifies that the node has accepted the statement with this digest.
func OpenWelcome(welcome []byte, node statement.Key, digest bulwark.Digest) (*Welcome, error) {
	var w Welcome
	if err := statement.Open(welcome, WelcomePayloadType, node, &w); err != nil {
		return nil, bulwark.Fail(bulwark.KindForbidden, "What answers is not the node that you know.",
			"Somebody between you and it may be at work. If the platform was installed anew, sign in again with bulwark login.", err)
	}
	if w.Version != 1 || w.Node != node.Fingerprint || w.Statement != digest {
		return nil, bulwark.Fail(bulwark.KindForbidden, "The node's answer is to another statement than yours.", "Run the command again.", nil)
	}
	return &w, nil
}

// CheckRecipient tells whether a statement's recipient is a key.
func CheckRecipient(recipient []byte) error {
	kem, _, _ := suite()
	if _, err := kem.NewPublicKey(recipient); err != nil {
		return bulwark.Fail(bulwark.KindInvalid, "The recipient of the terminal is not a key.", "Use a bulwark command of the same version as the server.", err)
	}
	return nil
}

// Accept makes the node's half: it completes and signs the welcome to who signed for recipient. The bytes go to the client by
// WriteWelcome, and stream makes the node's end once there is a connection.
func Accept(w Welcome, recipient []byte, key ed25519.PrivateKey) (welcome []byte, stream func(io.ReadWriteCloser) (*Stream, error), err error) {
	kem, kdf, aead := suite()
	pk, err := kem.NewPublicKey(recipient)
	if err != nil {
		return nil, nil, CheckRecipient(recipient)
	}
	enc, sender, err := hpke.NewSender(pk, kdf, aead, info(w.Node, w.Statement))
	if err != nil {
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	w.Encapsulated = enc
	if welcome, err = SealWelcome(w, key); err != nil {
		return nil, nil, err
	}
	ks, err := export(sender, welcome)
	if err != nil {
		return nil, nil, err
	}
	return welcome, func(conn io.ReadWriteCloser) (*Stream, error) { return newStream(conn, ks.node, ks.client, true) }, nil
}

// SealWelcome signs a welcome; it stands alone for a command that runs detached.
func SealWelcome(w Welcome, key ed25519.PrivateKey) ([]byte, error) {
	w.Version = 1
	return statement.Seal(WelcomePayloadType, w, key)
}

// WriteWelcome sends a welcome.
func WriteWelcome(conn io.Writer, welcome []byte) error {
	_, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(welcome))), welcome...))
	return err
}

// ReadWelcome receives one.
func ReadWelcome(conn io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, cut(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxWelcome {
		return nil, malformed(fmt.Sprintf("a welcome of %d bytes", n))
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, cut(err)
	}
	return b, nil
}
