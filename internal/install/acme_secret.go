package install

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
)

// maxSecret bounds, in bytes, a file with an operator's secret.
const maxSecret = 64 << 10

// Account is what a certificate authority gave its customer for a first registration (external account binding, RFC 8555 §7.3.4).
type Account struct {
	Directory, KeyID, MACKey string // MACKey is base64url
}

// UpdateKey is a key by which a name server takes updates (RFC 8945).
type UpdateKey struct {
	Name, Algorithm, Key string // names with a dot at the end; Key is base64
}

// readSecret reads a file that is its owner's alone: what else can read it has the secret.
func readSecret(path string) (string, error) {
	bad := func(why string, err error) (string, error) {
		return "", bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s %s.", path, why), "It holds a secret: it has to be there, to be root's, and to have mode 0600.", err)
	}
	if err := checkPath(path); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return bad("cannot be read", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return bad("cannot be read", err)
	}
	if s, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.Mode().IsRegular() || s.Uid != 0 && s.Uid != uint32(os.Geteuid()) { //nolint:gosec // a user id is no negative number
		return bad("is somebody else's", nil)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return bad("can be read by others", nil)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil || len(b) > maxSecret {
		return bad("cannot be read", err)
	}
	return string(b), nil
}

// ReadAccounts reads lines of the URL of an authority's directory, the id of a key and the key, with spaces between them. "#" begins a comment.
func ReadAccounts(path string) ([]Account, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	var out []Account
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		bad := bulwark.Invalid(fmt.Sprintf("%s:%d does not name an account with a certificate authority.", path, n+1),
			"A line is the authority's directory, the key's id and the key in base64url, with spaces between them.")
		if len(words) != 3 {
			return nil, bad
		}
		if _, err := ParseAuthorities(words[0]); err != nil || words[0] == NoAuthority || strings.Contains(words[0], ",") {
			return nil, bad
		}
		key := strings.TrimRight(words[2], "=")
		if b, err := base64.RawURLEncoding.DecodeString(key); err != nil || len(b) < 16 || len(words[1]) > 512 {
			return nil, bad
		}
		out = append(out, Account{Directory: words[0], KeyID: words[1], MACKey: key})
	}
	return out, nil
}

var (
	keyComment = regexp.MustCompile(`(?s)/\*.*?\*/|(?:#|//)[^\n]*`)
	keyForm    = regexp.MustCompile(`^\s*key\s+"?([A-Za-z0-9._-]{1,253})"?\s*\{\s*algorithm\s+"?([a-z0-9.-]+?)\.?"?\s*;\s*secret\s+"([A-Za-z0-9+/=]+)"\s*;\s*\}\s*;?\s*$`)
)

// ReadUpdateKey reads a key as tsig-keygen writes it and nsupdate -k takes it.
func ReadUpdateKey(path string) (*UpdateKey, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	bad := func(why string) (*UpdateKey, error) {
		return nil, bulwark.Invalid(fmt.Sprintf("The file %s %s.", path, why), "Give one as tsig-keygen writes it: key \"NAME\" { algorithm hmac-sha256; secret \"...\"; };")
	}
	m := keyForm.FindStringSubmatch(keyComment.ReplaceAllString(text, ""))
	if m == nil {
		return bad("holds no key for updates of the DNS")
	}
	k := &UpdateKey{Name: dns.Fqdn(m[1]), Algorithm: dns.Fqdn(m[2]), Key: m[3]}
	switch k.Algorithm {
	case dns.HmacSHA224, dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512:
	default:
		return bad("has a key of the algorithm " + m[2] + ", which is not taken; hmac-sha256 is")
	}
	if b, err := base64.StdEncoding.DecodeString(k.Key); err != nil || len(b) < 16 {
		return bad("has a key that is not base64, or too short")
	}
	return k, nil
}
