package bulwark

import (
	"fmt"
	"strconv"
	"strings"
)

// ASN is the number of an autonomous system (RFC 6793): one network operator's part of the internet. 0 is nobody's (RFC 7607).
type ASN uint32

// ParseASN reads "AS64500".
func ParseASN(s string) (ASN, error) {
	wrong := Invalid(fmt.Sprintf("%s is no number of a network operator.", quote(s)), "Give it as AS64500.")
	if len(s) < 3 || !strings.EqualFold(s[:2], "AS") || s[2] < '1' || s[2] > '9' {
		return 0, wrong
	}
	n, err := strconv.ParseUint(s[2:], 10, 32)
	if err != nil {
		return 0, wrong
	}
	return ASN(n), nil
}

// String writes the number as ParseASN reads it.
func (n ASN) String() string { return "AS" + strconv.FormatUint(uint64(n), 10) }

// MarshalText implements [encoding.TextMarshaler] by String.
func (n ASN) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseASN.
func (n *ASN) UnmarshalText(b []byte) error { return parseInto(n, b, ParseASN) }
