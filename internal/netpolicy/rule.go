package netpolicy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// Target is the right side of an allow rule: a host name, all names below one, or a range of addresses; each with a
// port or without. It comes into being through ParseTarget only. The zero value matches nothing.
type Target struct {
	host   bulwark.HostName // without the wildcard
	below  bool             // "*.host": every name below host, host itself not
	prefix netip.Prefix
	port   uint16 // 0: none given
}

// Rule is one line of an allow-list.
type Rule struct {
	To Target `json:"to"`
	// Private lets the rule lead to Private addresses, and a rule of addresses to Local ones as well. Only an operator's
	// explicit word sets it: whoever owns an app must not be able to open the host's own network. It is a field of its
	// own so that no text a user wrote can carry it.
	Private bool `json:"private,omitempty"`
}

// ParseTarget reads "host[:port]", "*.host[:port]", "range[:port]" or "address[:port]" (an IPv6 address with a port is
// written in brackets, a range is not: 2001:db8::/32:443). Names are folded to lower case and lose a trailing dot. A
// name in other letters than ASCII is refused, because two of them can look the same: its punycode form is taken.
func ParseTarget(s string) (Target, error) {
	const hint = "Give a host such as db.example.org:5432, *.example.org or a range such as 203.0.113.0/24:443."
	bad := func(why string) (Target, error) {
		return Target{}, bulwark.Invalid(fmt.Sprintf("The egress rule %s %s.", quote(s), why), hint)
	}
	if s == "" || len(s) > 300 {
		return bad("is not between 1 and 300 characters long")
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			return bad("has letters outside ASCII; write such a name in its punycode form (xn--…)")
		}
		if s[i] <= ' ' || s[i] == 0x7f {
			return bad("has a space or a control character")
		}
	}
	if addr, rest, ok := strings.Cut(s, "/"); ok {
		return parseRange(addr, rest, bad)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return single(a, 0, bad)
	}
	host, portText, hasPort := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") || strings.Count(s, ":") > 1 {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return bad("has a colon too many, or is an address that does not read")
		}
		host, portText, hasPort = ap.Addr().String(), portOf(s), true
	}
	var t Target
	if hasPort {
		var err error
		if t.port, err = parsePort(portText); err != nil {
			return bad("has a port that is not a number from 1 to 65535")
		}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return single(a, t.port, bad)
	}
	host, t.below = strings.CutPrefix(host, "*.")
	if strings.Contains(host, "*") {
		return bad("has a \"*\" that is not its first part")
	}
	name, err := bulwark.ParseHostName(host)
	if err != nil {
		return bad("names no host that can exist")
	}
	if t.below && !strings.Contains(string(name), ".") {
		return bad("opens a whole top-level domain")
	}
	t.host = name
	return t, nil
}

func parseRange(addrText, rest string, bad func(string) (Target, error)) (Target, error) {
	bits, portText, hasPort := strings.Cut(rest, ":")
	prefix, err := netip.ParsePrefix(addrText + "/" + bits)
	if err != nil {
		return bad("is not a range of addresses")
	}
	if prefix.Addr().Is4In6() {
		return bad("is a range of IPv4 addresses in IPv6 form; write it as IPv4")
	}
	if prefix != prefix.Masked() {
		return bad(fmt.Sprintf("has bits set behind its length; it would be %s", prefix.Masked()))
	}
	t := Target{prefix: prefix}
	if hasPort {
		if t.port, err = parsePort(portText); err != nil {
			return bad("has a port that is not a number from 1 to 65535")
		}
	}
	return t, nil
}

func single(a netip.Addr, port uint16, bad func(string) (Target, error)) (Target, error) {
	if a.Zone() != "" {
		return bad("names a network interface")
	}
	if a.Is4In6() {
		return bad("is an IPv4 address in IPv6 form; write it as IPv4")
	}
	return Target{prefix: netip.PrefixFrom(a, a.BitLen()), port: port}, nil
}

func portOf(s string) string { return s[strings.LastIndexByte(s, ':')+1:] }

// parsePort takes the one decimal form of a port, so that a rule has one spelling.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, bulwark.Invalid("A port is a number from 1 to 65535.", "")
	}
	return uint16(n), nil
}

// ParseHost reads a host name from the network by the same rules as a rule's: ASCII only, folded to lower case, one
// trailing dot dropped.
func ParseHost(s string) (bulwark.HostName, error) {
	for i := range len(s) {
		if s[i] >= 0x80 {
			// Checked before folding: some letters outside ASCII fold to ASCII ones.
			return "", bulwark.Invalid(fmt.Sprintf("The host name %s has letters outside ASCII.", quote(s)),
				"Write such a name in its punycode form (xn--…).")
		}
	}
	return bulwark.ParseHostName(s)
}

// Host returns the name that t is about, without "*."; empty for a range.
func (t Target) Host() bulwark.HostName { return t.host }

// Prefix returns the range that t is about; the zero value for a name.
func (t Target) Prefix() netip.Prefix { return t.prefix }

// Port returns the port, 0 if t gives none. What a rule without a port opens is the user's of this package to say.
func (t Target) Port() uint16 { return t.port }

// Names reports whether t is about the host called name.
func (t Target) Names(name bulwark.HostName) bool {
	switch {
	case t.host == "" || name == "":
		return false
	case t.below:
		return strings.HasSuffix(string(name), "."+string(t.host))
	default:
		return name == t.host
	}
}

// Covers reports whether t is a range that a lies in. A mapped address counts as the IPv4 address that it is.
func (t Target) Covers(a netip.Addr) bool {
	return t.prefix.IsValid() && a.Zone() == "" && t.prefix.Contains(a.Unmap())
}

// Leads reports whether a name that matched r may lead to a: Open addresses always, Private ones if the operator marked
// r private, Local ones never.
func (r Rule) Leads(a netip.Addr, connected []netip.Prefix) bool {
	switch Classify(a, connected) {
	case Open:
		return true
	case Private:
		return r.Private
	default:
		return false
	}
}

// String returns t in the form that ParseTarget reads.
func (t Target) String() string {
	var s string
	switch {
	case t.prefix.IsValid():
		s = t.prefix.String()
	case t.below:
		s = "*." + string(t.host)
	default:
		s = string(t.host)
	}
	if t.port != 0 {
		s += ":" + strconv.Itoa(int(t.port))
	}
	return s
}

// MarshalText implements [encoding.TextMarshaler].
func (t Target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseTarget.
func (t *Target) UnmarshalText(b []byte) error {
	v, err := ParseTarget(string(b))
	if err != nil {
		return err
	}
	*t = v
	return nil
}

// Rules reads a list of targets that a user wrote; none of them is private.
func Rules(targets ...string) ([]Rule, error) {
	rules := make([]Rule, 0, len(targets))
	for _, s := range targets {
		t, err := ParseTarget(s)
		if err != nil {
			return nil, err
		}
		rules = append(rules, Rule{To: t})
	}
	return rules, nil
}

func quote(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%+q…", s[:80])
	}
	return fmt.Sprintf("%+q", s)
}
