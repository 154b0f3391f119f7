// Package seal keeps secrets where the control plane cannot read them: values are sealed on a person's machine to a
// project's public key (HPKE, RFC 9180, crypto/hpke of the standard library) and opened by the node alone.
//
// It promises that a ciphertext opens only for the project, app and name it was sealed for, because these are part of
// the key schedule's info: moved to another app or another name it does not open. The key encapsulation is hybrid,
// ML-KEM-768 with X25519, so that what is recorded today stays closed to a quantum computer.
//
// Whoever owns a project's private key reads that project's config; it lies wrapped on the node (KeyFile) and, for the
// day the machine is lost, wrapped for an offline recovery key.
package seal

import (
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
)

// MaxValue is the longest value in bytes: execve(2) takes no string longer than 128 KiB (MAX_ARG_STRLEN), with the longest
// name, "=" and the NUL at its end.
const MaxValue = 128<<10 - 256

// MaxTotal bounds all variables of an app together, in bytes: execve(2) takes a quarter of the stack's limit for arguments
// and environment, 2 MiB as a rule, and the image's own environment needs some of it.
const MaxTotal = 3 << 19

// Place is what a value is bound to.
type Place struct {
	Node    string
	Project bulwark.ProjectID
	App     bulwark.AppID
	// Use tells config variables from build secrets: one does not open as the other.
	Use  string
	Name bulwark.ConfigName
}

// The uses of a sealed value.
const (
	UseConfig = "config"
	UseBuild  = "build-secret"
	UseReveal = "reveal"
	UseCert   = "certificate"
)

// info is the HPKE info string. Each part is preceded by its length, so that no two places encode alike.
func (p Place) info() []byte {
	b := []byte("bulwark sealed value v1")
	for _, s := range []string{p.Node, string(p.Project), string(p.App), p.Use, string(p.Name)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// Overhead is how much longer a sealed value is than the value: the encapsulated key of ML-KEM-768 with X25519, and the
// authentication tag.
const Overhead = 1088 + 32 + 16

func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// CheckValue refuses what an environment cannot hold.
func CheckValue(name bulwark.ConfigName, value []byte) error {
	if len(value) > MaxValue {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The value of %s has %d bytes; an environment variable holds at most %d.",
			name, len(value), MaxValue), "Put large values into a file of the app or a data service.", nil)
	}
	if slices.Contains(value, 0) {
		return bulwark.Invalid(fmt.Sprintf("The value of %s has a NUL byte, which an environment variable cannot hold.", name),
			"Encode it, for example with base64.")
	}
	if !utf8.Valid(value) { // it travels as text; what is not would arrive as something else
		return bulwark.Invalid(fmt.Sprintf("The value of %s is not text in UTF-8.", name), "Encode it, for example with base64.")
	}
	return nil
}

// Value seals a value to a public key for a place.
func Value(public []byte, at Place, value []byte) ([]byte, error) {
	kem, kdf, aead := suite()
	pk, err := kem.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("seal: the project's public key cannot be read: %w", err)
	}
	return hpke.Seal(pk, kdf, aead, at.info(), value)
}

// Key is one version of a project's key: a private key that opens values, and the secret that keys digests, which is the
// same in all versions.
type Key struct {
	private hpke.PrivateKey
	digest  []byte
	next    bool // a later version: its digest key is kept with it, since the key that it was derived from is gone
}

// seedSize is the length of a private key, digestSize that of a digest key.
const (
	seedSize   = 32
	digestSize = sha256.Size
)

// GenerateKey makes a fresh key.
func GenerateKey() (*Key, error) {
	kem, _, _ := suite()
	k, err := kem.GenerateKey()
	if err != nil {
		return nil, err
	}
	return newKey(k)
}

// Next makes the key that takes k's place: it opens nothing that was sealed to k, and gives the same digests.
func (k *Key) Next() (*Key, error) {
	kem, _, _ := suite()
	private, err := kem.GenerateKey()
	if err != nil {
		return nil, err
	}
	return &Key{private: private, digest: k.digest, next: true}, nil
}

// ParseKey reads what Bytes returned.
func ParseKey(b []byte) (*Key, error) {
	var digest []byte
	if len(b) == seedSize+digestSize {
		b, digest = b[:seedSize], slices.Clone(b[seedSize:])
	}
	kem, _, _ := suite()
	k, err := kem.NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("seal: the private key cannot be read: %w", err)
	}
	if digest != nil {
		return &Key{private: k, digest: digest, next: true}, nil
	}
	return newKey(k)
}

func newKey(k hpke.PrivateKey) (*Key, error) {
	b, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	// The digest key is derived from the first private key, from which nothing leads back. It outlives that key, because
	// the digests stand in releases that were signed; see Next.
	mac := hmac.New(sha256.New, b)
	mac.Write([]byte("bulwark config digest v1"))
	return &Key{private: k, digest: mac.Sum(nil)}, nil
}

// Bytes returns the key for keeping, wrapped: the private key and, of a later version, the digest key behind it.
func (k *Key) Bytes() ([]byte, error) {
	b, err := k.private.Bytes()
	if err == nil && k.next {
		b = slices.Concat(b, k.digest)
	}
	return b, err
}

// Public returns what Value takes.
func (k *Key) Public() []byte { return k.private.PublicKey().Bytes() }

// Open opens a value that was sealed for this place.
func (k *Key) Open(at Place, sealed []byte) ([]byte, error) {
	_, kdf, aead := suite()
	v, err := hpke.Open(k.private, kdf, aead, at.info(), sealed)
	if err != nil {
		return nil, bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The sealed value of %s does not open.", at.Name),
			"It was sealed for another app, another name or another installation; set it again with bulwark config set.", err)
	}
	return v, nil
}

// ValueDigest returns the keyed digest of one value: it tells whether two values are the same to who has the key, and
// nothing to who has not.
func (k *Key) ValueDigest(name bulwark.ConfigName, value []byte) bulwark.Digest {
	return k.sum("value", []byte(name), value)
}

// Revision returns the keyed digest of a whole set of variables, given each one's ValueDigest: the identity of a config
// revision. It does not depend on the ciphertexts nor on the key's version, so sealing again changes nothing.
func (k *Key) Revision(values map[bulwark.ConfigName]bulwark.Digest) bulwark.Digest {
	var parts [][]byte
	for _, n := range slices.Sorted(maps.Keys(values)) {
		parts = append(parts, []byte(n), []byte(values[n]))
	}
	return k.sum("revision", parts...)
}

// sum authenticates parts, each preceded by its length, for one use.
func (k *Key) sum(use string, parts ...[]byte) bulwark.Digest {
	mac := hmac.New(sha256.New, k.digest)
	for _, p := range append([][]byte{[]byte(use)}, parts...) {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		mac.Write(p)
	}
	return bulwark.Digest("sha256:" + hex.EncodeToString(mac.Sum(nil)))
}
