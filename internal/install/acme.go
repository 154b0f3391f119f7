package install

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/miekg/dns"

	"github.com/bulwark-paas/bulwark"
)

// ACME says which certificate authorities are asked, as text, so that "not said" and "none" are two things.
type ACME struct {
	Directories string `json:"directories,omitempty"` // URLs of directories with commas between them, in the order in which they are asked; or NoAuthority
	Email       string `json:"email,omitempty"`       // where authorities write to
	Roots       string `json:"roots,omitempty"`       // file with whom to trust when authorities are asked, if not whom the host trusts
	Accounts    string `json:"accounts,omitempty"`    // file with what authorities gave their customers, see ReadAccounts
	DNS         string `json:"dns,omitempty"`         // "ADDRESS:PORT" of a name server that takes updates, so that names are proven by records
	DNSKey      string `json:"dns_key,omitempty"`     // file with the key for it, see ReadUpdateKey
}

// What there is for ACME.Directories.
const (
	DefaultAuthority = "https://acme-v02.api.letsencrypt.org/directory"
	NoAuthority      = "none"
)

// maxAuthorities bounds how many authorities are asked one after the other.
const maxAuthorities = 8

// ParseAuthorities reads URLs of ACME directories with commas between them, or NoAuthority.
func ParseAuthorities(s string) ([]string, error) {
	if s == NoAuthority {
		return nil, nil
	}
	all := strings.Split(s, ",")
	for _, d := range all {
		u, err := url.Parse(d)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || len(d) > 500 {
			return nil, bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%q is no certificate authority.", d),
				"Give the https URL of its ACME directory, several with commas between them, or \"none\".", err)
		}
	}
	if len(all) > maxAuthorities {
		return nil, bulwark.Invalid(fmt.Sprintf("At most %d certificate authorities are asked.", maxAuthorities), "")
	}
	return all, nil
}

// check refuses what cannot be used.
func (a ACME) check() error {
	if _, err := ParseAuthorities(a.Directories); err != nil {
		return err
	}
	if a.Email != "" && (strings.Count(a.Email, "@") != 1 || strings.ContainsAny(a.Email, " ,;<>\r\n\t") || len(a.Email) > 254) {
		return bulwark.Invalid(fmt.Sprintf("%q is no mail address.", a.Email), "Give one like ops@example.org.")
	}
	if a.Roots != "" {
		if err := checkPath(a.Roots); err != nil {
			return err
		}
		if _, err := os.Stat(a.Roots); err != nil {
			return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s with whom to trust cannot be read.", a.Roots), "Give a file of certificates in PEM.", err)
		}
	}
	if (a.DNS == "") != (a.DNSKey == "") {
		return bulwark.Invalid("A name server that takes updates needs a key, and the key a name server.", "Give both --acme-dns and --acme-dns-key.")
	}
	if a.DNS == "" {
		return nil
	}
	if err := checkNameServer(a.DNS); err != nil || a.DNS == HostNameServer {
		return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%q is no name server.", a.DNS), nameServerHint, err)
	}
	return nil
}

// checkSecrets refuses files that the node could not use. Only root can look.
func (a ACME) checkSecrets() error {
	if a.Accounts != "" {
		if _, err := ReadAccounts(a.Accounts); err != nil {
			return err
		}
	}
	if a.DNSKey != "" {
		_, err := ReadUpdateKey(a.DNSKey)
		return err
	}
	return nil
}

const nameServerHint = "Give an address and a port, such as 192.0.2.53:53 or [2001:db8::53]:53."

// HostNameServer stands for the name servers that the host asks.
const HostNameServer = "host"

func checkNameServer(s string) error {
	if s == "" || s == HostNameServer {
		return nil
	}
	if at, err := netip.ParseAddrPort(s); err != nil || at.Port() == 0 {
		return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("%q is no name server.", s), nameServerHint, err)
	}
	return nil
}

// NameServerAddress is "ADDRESS:PORT" of the name server that the operator named; empty for those that the host asks.
func (i *Installation) NameServerAddress() string {
	if i.NameServer == HostNameServer {
		return ""
	}
	return i.NameServer
}

// NameServers are the addresses of the name servers that say whose a host name is.
func (i *Installation) NameServers() ([]netip.Addr, error) {
	if at := i.NameServerAddress(); at != "" {
		p, err := netip.ParseAddrPort(at)
		return []netip.Addr{p.Addr()}, err
	}
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.WithZone(""))
		}
	}
	return out, nil
}
