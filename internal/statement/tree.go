package statement

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bulwark-paas/bulwark"
)

// TreeDigest names a source tree by all of its content. It is written "tree1:" and 64 lower-case hexadecimal digits,
// which are the SHA-256 of this text:
//
//	tree   = "bulwark tree 1" NUL { entry }    one entry for each file and each symbolic link
//	entry  = mode SP sum SP path NUL
//	mode   = "100644" | "100755" | "120000"    a file, a file that its owner may execute, a symbolic link
//	sum    = 64 lower-case hexadecimal digits: the SHA-256 of the file's content, or of the text of the link
//	path   = relative, UTF-8, parts divided by "/", no part empty, "." or ".."
//
// Entries are in the order of their paths' bytes, each path once, and none lies below another: what has something below
// it is a folder. Folders are not named, so there are no empty ones; owners and times are not part of a tree. NUL cannot
// be in a path and all else has a fixed length, so two trees never have the same text. The prefix keeps a TreeDigest
// from being taken for the digest of some bytes.
//
// Test vector: the tree of one file "a" with the content "b\n" and the mode 100644 is
// tree1:592a6a746b9004250d31f7aeae737fce14094fa1c27e9032db5cdf73b72b8c36.
type TreeDigest string

const treePrefix = "tree1:"

// ParseTreeDigest checks s.
func ParseTreeDigest(s string) (TreeDigest, error) {
	digits, ok := strings.CutPrefix(s, treePrefix)
	if _, err := bulwark.ParseDigest("sha256:" + digits); !ok || err != nil {
		return "", bulwark.Invalid("The digest of the source tree is not well formed.", "It is \"tree1:\" and 64 hexadecimal digits.")
	}
	return TreeDigest(s), nil
}

// Hex returns the digits alone, safe as a file name.
func (d TreeDigest) Hex() string { return strings.TrimPrefix(string(d), treePrefix) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseTreeDigest.
func (d *TreeDigest) UnmarshalText(b []byte) error {
	got, err := ParseTreeDigest(string(b))
	if err == nil {
		*d = got
	}
	return err
}

// TreeMode is what an entry of a source tree is.
type TreeMode string

// The modes, as git writes them.
const (
	TreeFile    TreeMode = "100644"
	TreeProgram TreeMode = "100755"
	TreeLink    TreeMode = "120000"
)

// TreeEntry is a file or a symbolic link of a source tree.
type TreeEntry struct {
	Path string
	Mode TreeMode
	Sum  [sha256.Size]byte // of the content, or of the link's text
}

// SumTree returns the digest of a tree. The entries may come in any order; they are sorted in place.
func SumTree(entries []TreeEntry) (TreeDigest, error) {
	slices.SortFunc(entries, func(a, b TreeEntry) int { return strings.Compare(a.Path, b.Path) })
	folders := map[string]bool{}
	h := sha256.New()
	io.WriteString(h, "bulwark tree 1\x00")
	for i, e := range entries {
		if err := CheckTreePath(e.Path); err != nil {
			return "", err
		}
		if i > 0 && entries[i-1].Path == e.Path {
			return "", bulwark.Invalid(fmt.Sprintf("The source tree has %+q twice.", e.Path), "")
		}
		for at := strings.LastIndexByte(e.Path, '/'); at >= 0 && !folders[e.Path[:at]]; at = strings.LastIndexByte(e.Path[:at], '/') {
			folders[e.Path[:at]] = true
		}
		fmt.Fprintf(h, "%s %x %s\x00", e.Mode, e.Sum, e.Path)
	}
	for _, e := range entries {
		if folders[e.Path] {
			return "", bulwark.Invalid(fmt.Sprintf("In the source tree %+q is both a file and a folder.", e.Path), "")
		}
		if e.Mode != TreeFile && e.Mode != TreeProgram && e.Mode != TreeLink {
			return "", bulwark.Invalid(fmt.Sprintf("In the source tree %+q has the mode %+q.", e.Path, e.Mode), "")
		}
	}
	return TreeDigest(treePrefix + hex.EncodeToString(h.Sum(nil))), nil
}

// The bounds of a path in a source tree: in bytes, in bytes of one part, in parts.
const (
	maxTreePath  = 2048
	maxTreePart  = 255
	maxTreeDepth = 100
)

// CheckTreePath says what is wrong with a path of a source tree: whoever unpacks one must be able to do so below a folder
// without leaving it, on any file system of Linux.
func CheckTreePath(p string) error {
	bad := func(why string) error {
		return bulwark.Invalid(fmt.Sprintf("The source tree holds %+q, %s.", cut(p), why), "Rename it or leave it out, see .bulwarkignore.")
	}
	switch {
	case p == "":
		return bad("an empty path")
	case len(p) > maxTreePath:
		return bad(fmt.Sprintf("whose path has more than %d bytes", maxTreePath))
	case strings.HasPrefix(p, "/"):
		return bad("which is an absolute path")
	case strings.ContainsRune(p, 0) || !utf8.ValidString(p):
		return bad("whose name is not UTF-8")
	case strings.Count(p, "/") >= maxTreeDepth:
		return bad(fmt.Sprintf("which lies in more than %d folders", maxTreeDepth))
	}
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			return bad("whose path is not plain")
		case len(part) > maxTreePart:
			return bad(fmt.Sprintf("whose name has more than %d bytes", maxTreePart))
		}
	}
	return nil
}

func cut(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// maxMessage bounds what a person says about a deploy, in bytes.
const maxMessage = 1000

// Check says what is wrong with a deploy.
func (d Deploy) Check() error {
	switch {
	case (d.Tree == "") == (d.Image == ""):
		return bulwark.Invalid("A deploy names either a source tree or an image.", "Use a bulwark command of the same version as the server.")
	case len(d.Message) > maxMessage:
		return bulwark.Failf(bulwark.KindTooLarge, "The message is longer than %d bytes.", maxMessage)
	case !utf8.ValidString(d.Message) || strings.ContainsFunc(d.Message, unicode.IsControl):
		return bulwark.Invalid("The message is not one line of text.", "Leave control characters out.")
	}
	return nil
}

// Source is the digest that the deploy names, in its written form.
func (d Deploy) Source() string { return string(d.Tree) + string(d.Image) }

// The names of digests in a provenance, beside those that SLSA and in-toto define.
const treeDigestName = "bulwarkTree1"

// Material is how a provenance names what the deploy brought: a tree by the digits of its TreeDigest under the name
// "bulwarkTree1", an image archive by the SHA-256 of its bytes.
func (d Deploy) Material() Resource {
	if d.Image != "" {
		return Resource{Name: "oci-archive", Digest: map[string]string{"sha256": d.Image.Hex()}}
	}
	return Resource{Name: "folder", Digest: map[string]string{treeDigestName: d.Tree.Hex()}}
}
