package bulwark

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is a content address as OCI writes it: "sha256:" and 64 lower-case hexadecimal digits (OCI image-spec,
// descriptor.md, "Digests"). No other algorithm is taken.
type Digest string

// Sum returns the digest of b.
func Sum(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(s[:]))
}

// ParseDigest checks s.
func ParseDigest(s string) (Digest, error) {
	rest, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(rest) != 64 || strings.Trim(rest, "0123456789abcdef") != "" {
		return "", Invalid(fmt.Sprintf("%s is not a digest.", quote(s)), "A digest is \"sha256:\" and 64 hexadecimal digits.")
	}
	return Digest(s), nil
}

// Hex returns the digits alone, safe as a file name.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseDigest.
func (d *Digest) UnmarshalText(b []byte) error { return parseInto(d, b, ParseDigest) }

// Commit is the name of a git commit: 40 lower-case hexadecimal digits (SHA-1 repositories; the node recomputes it with
// git's collision-detecting implementation before it believes it).
type Commit string

// ParseCommit checks s.
func ParseCommit(s string) (Commit, error) {
	if len(s) != 40 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", Invalid(fmt.Sprintf("%s is not a git commit id.", quote(s)), "A commit id is 40 hexadecimal digits.")
	}
	return Commit(s), nil
}

// Short returns the first eight digits, for people.
func (c Commit) Short() string { return string(c[:min(8, len(c))]) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseCommit.
func (c *Commit) UnmarshalText(b []byte) error { return parseInto(c, b, ParseCommit) }
