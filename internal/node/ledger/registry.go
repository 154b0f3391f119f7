package ledger

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/netpolicy"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Registry is a host that people opened to all builders.
type Registry struct {
	To       netpolicy.Target
	Packages bool   // for downloads alone: no FROM may name it
	CA       string // PEM, "" for the usual authorities
}

const (
	maxRegistries = 100
	maxCA         = 16 << 10 // bytes of one registry's authorities
)

// parseRegistry reads a host that must be written in its one form, so that what allows it and what removes it, here and at
// the server, mean the same row.
func parseRegistry(host string, packages bool) (netpolicy.Target, error) {
	t, err := netpolicy.ParseRegistry(host, !packages)
	if err == nil && t.HostPort() != host {
		err = bulwark.Invalid(fmt.Sprintf("The registry %q is to be written %s.", host, t.HostPort()), "Use a bulwark command of the same version as the server.")
	}
	return t, err
}

func allowRegistry(tx *sql.Tx, b statement.Registry) error {
	if _, err := parseRegistry(b.Host, b.Packages); err != nil {
		return err
	}
	if b.Packages && b.CA != "" {
		return bulwark.Invalid("Authorities can be given for a registry of images only.",
			"What a build step trusts comes from the host: add the authority there, and start bulwark again.")
	}
	if err := checkAuthorities(b.CA); err != nil {
		return err
	}
	var others int
	if err := tx.QueryRow(`SELECT count(*) FROM registry WHERE host <> ?`, b.Host).Scan(&others); err != nil {
		return err
	}
	if others >= maxRegistries {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("Builds may reach at most %d hosts beside those of the toolchains.", maxRegistries), "Remove one first.", nil)
	}
	_, err := tx.Exec(`INSERT INTO registry (host, packages, ca) VALUES (?,?,?)
		ON CONFLICT (host) DO UPDATE SET packages = excluded.packages, ca = excluded.ca`, b.Host, b.Packages, b.CA)
	return err
}

// checkAuthorities takes PEM certificates of authorities and nothing else: a private key that somebody puts there by
// mistake would go to every builder.
func checkAuthorities(text string) error {
	if len(text) > maxCA {
		return bulwark.Failf(bulwark.KindTooLarge, "The authorities of a registry take at most %d KiB.", maxCA>>10)
	}
	for rest := []byte(strings.TrimSpace(text)); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return bulwark.Invalid("The authorities of a registry are certificates in PEM form, and this is something else.", "Give the file of its certificate authority.")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return bulwark.Fail(bulwark.KindInvalid, "A certificate of the registry's authorities cannot be read.", "Give the file of its certificate authority.", err)
		}
		if !c.IsCA {
			return bulwark.Invalid(fmt.Sprintf("The certificate of %q is not an authority's.", c.Subject), "Give the certificate that signed it.")
		}
	}
	return nil
}

func removeRegistry(tx *sql.Tx, b statement.RegistryRemove) error {
	res, err := tx.Exec(`DELETE FROM registry WHERE host = ?`, b.Host)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("The registry %q is not allowed, so it cannot be removed.", b.Host), "See bulwark registries.", nil)
	}
	return nil
}

// Registries returns the hosts that people opened to builders.
func (l *Ledger) Registries(ctx context.Context) ([]Registry, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT host, packages, ca FROM registry ORDER BY host`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Registry
	for rows.Next() {
		var r Registry
		var host string
		if err := rows.Scan(&host, &r.Packages, &r.CA); err != nil {
			return nil, err
		}
		if r.To, err = netpolicy.ParseRegistry(host, !r.Packages); err != nil {
			return nil, fmt.Errorf("ledger: registry %q: %w", host, err)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// Key is a person's key that was not removed.
type Key struct {
	Kind        string // "device" or "ssh"
	Fingerprint string
	Person      bulwark.PersonID
}

// Keys returns the keys of all people, in the order in which they were registered.
func (l *Ledger) Keys(ctx context.Context) ([]Key, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT kind, fingerprint, person FROM key WHERE removed = 0 ORDER BY rowid`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Key
	for rows.Next() {
		var k Key
		if err := rows.Scan(&k.Kind, &k.Fingerprint, &k.Person); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, rows.Err()
}
