package ledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/certchain"
	"github.com/bulwark-paas/bulwark/internal/seal"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// maxCertificates bounds what an app's people bring: one for each of its host names, and each of them being replaced.
const maxCertificates = 2 * maxHosts

// addCertificate takes a certificate for host names that the app has claimed. One that covers no name which it alone does not cover goes away.
func (l *Ledger) addCertificate(tx *sql.Tx, app *App, b statement.CertAdd) error {
	all, err := certchain.Parse(b.Chain, l.now())
	if err != nil {
		return err
	}
	leaf := all[0]
	name := certchain.Name(leaf)
	if len(b.Key.Set) != 1 || b.Key.Set[name] == nil || b.Key.Base != 0 || len(b.Key.Unset) > 0 {
		return bulwark.Invalid("The certificate comes without its key.", "Use a bulwark command of the same version as the server.")
	}
	hosts, err := l.hosts(tx, app)
	if err != nil {
		return err
	}
	hosts = hosts[1:] // what the installation gave it has a certificate of its own
	if !slices.ContainsFunc(hosts, func(h bulwark.HostName) bool { return certchain.Covers(leaf, h) }) {
		return bulwark.Invalid(fmt.Sprintf("The certificate, for %q, is for no host name that %s has claimed.", leaf.DNSNames, app.Name), "Claim the host name first: bulwark domains add.")
	}
	k, err := l.sealedTo(tx, app, b.Key)
	if err != nil {
		return err
	}
	key, err := k.Open(l.place(app, seal.UseCert, name), b.Key.Set[name])
	if err != nil {
		return err
	}
	if err := certchain.Pair(b.Chain, key); err != nil {
		return err
	}
	before, err := certificatesOf(tx, app.ID)
	if err != nil {
		return err
	}
	for old, was := range before {
		if old != name && !slices.ContainsFunc(hosts, func(h bulwark.HostName) bool { return certchain.Covers(was, h) && !certchain.Covers(leaf, h) }) {
			if _, err := tx.Exec(`DELETE FROM certificate WHERE app = ? AND name = ?`, app.ID, old); err != nil {
				return err
			}
			delete(before, old)
		}
	}
	if len(before) >= maxCertificates {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("An app has at most %d certificates of its own.", maxCertificates), "Remove one first.", nil)
	}
	if _, err := tx.Exec(`DELETE FROM certificate WHERE app = ? AND name = ?`, app.ID, name); err != nil {
		return err
	}
	if err := roomOf(tx, app, len(b.Chain), `SELECT coalesce(sum(length(c.chain)), 0) FROM certificate c JOIN app a ON a.id = c.app JOIN project p ON p.id = a.project WHERE p.org = ?`); err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO certificate (app, name, chain, sealed) VALUES (?,?,?,?)`, app.ID, name, b.Chain, b.Key.Set[name]) // as the last one
	return err
}

// maxToEdge bounds, in bytes, what an organisation's apps have the edge told: it is told all of everybody's in one message.
const maxToEdge = 2 << 20

// roomOf refuses what is more than an organisation may have together; held says how much there is without it.
func roomOf(tx *sql.Tx, app *App, more int, held string, args ...any) error {
	org, _, err := appPlace(tx, app.ID)
	if err != nil {
		return err
	}
	var n int
	if err := tx.QueryRow(held, append([]any{org}, args...)...).Scan(&n); err != nil {
		return err
	}
	if n+more > maxToEdge {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The apps of an organisation keep at most %d KB of this at the edge.", maxToEdge>>10), "Remove what is not needed any more.", nil)
	}
	return nil
}

// removeCertificate takes away what covers a host name.
func removeCertificate(tx *sql.Tx, app *App, host bulwark.HostName) error {
	all, err := certificatesOf(tx, app.ID)
	if err != nil {
		return err
	}
	found := false
	for name, leaf := range all {
		if !certchain.Covers(leaf, host) {
			continue
		}
		found = true
		if _, err := tx.Exec(`DELETE FROM certificate WHERE app = ? AND name = ?`, app.ID, name); err != nil {
			return err
		}
	}
	if !found {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("Nobody brought a certificate for %s to %s.", host, app.Name), "See bulwark certs.", nil)
	}
	return nil
}

// certificatesOf returns an app's by name.
func certificatesOf(tx *sql.Tx, app bulwark.AppID) (map[bulwark.ConfigName]*x509.Certificate, error) {
	rows, err := tx.Query(`SELECT name, chain FROM certificate WHERE app = ?`, app)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[bulwark.ConfigName]*x509.Certificate{}
	for rows.Next() {
		var name bulwark.ConfigName
		var text []byte
		if err := rows.Scan(&name, &text); err != nil {
			return nil, err
		}
		if out[name], err = leafOf(text); err != nil {
			return nil, err
		}
	}
	return out, rows.Err()
}

// leafOf reads the first certificate of a chain that was taken.
func leafOf(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("ledger: a certificate is not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Brought is a certificate that an app's people brought.
type Brought struct {
	Leaf  *x509.Certificate
	Chain []byte             // PEM
	Hosts []bulwark.HostName // those of the app's that it covers
	Key   []byte             // PEM
}

// Certificates returns all certificates that people brought to apps that are there. One whose key cannot be opened is left out, and the first reason is
// returned beside the others.
func (l *Ledger) Certificates(ctx context.Context) (out []Brought, first error) {
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT c.app, c.name, c.chain, c.sealed FROM certificate c JOIN app a ON a.id = c.app WHERE a.destroyed = 0 ORDER BY c.seq`)
		if err != nil {
			return err
		}
		defer rows.Close()
		type row struct {
			app           bulwark.AppID
			name          bulwark.ConfigName
			chain, sealed []byte
		}
		var all []row
		for rows.Next() {
			var r row
			if err := rows.Scan(&r.app, &r.name, &r.chain, &r.sealed); err != nil {
				return err
			}
			all = append(all, r)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		l.openedMu.Lock()
		defer l.openedMu.Unlock()
		kept := map[[sha256.Size]byte]*Brought{}
		hosts := map[bulwark.AppID][]bulwark.HostName{}
		for _, r := range all {
			sum := sha256.Sum256(append(append([]byte(r.app), r.sealed...), r.chain...))
			b := l.opened[sum]
			if b == nil {
				var err error
				if b, err = l.brought(tx, r.app, r.name, r.chain, r.sealed); err != nil {
					first = cmp.Or(first, fmt.Errorf("%s of %s: %w", r.name, r.app, err))
					continue
				}
			}
			kept[sum] = b
			mine, known := hosts[r.app]
			if !known {
				if mine, err = l.hosts(tx, &App{ID: r.app}); err != nil {
					return err
				}
				mine = mine[1:]
				hosts[r.app] = mine
			}
			c := *b
			for _, h := range mine {
				if certchain.Covers(c.Leaf, h) {
					c.Hosts = append(c.Hosts, h)
				}
			}
			out = append(out, c)
		}
		l.opened = kept
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, first
}

// brought opens one; its hosts are not there yet.
func (l *Ledger) brought(tx *sql.Tx, id bulwark.AppID, name bulwark.ConfigName, text, sealed []byte) (*Brought, error) {
	app, err := appByID(tx, id)
	if err != nil {
		return nil, err
	}
	b := &Brought{Chain: text}
	if b.Leaf, err = leafOf(text); err != nil {
		return nil, err
	}
	k, _, err := l.secret(tx, app.Project)
	if err != nil {
		return nil, err
	}
	b.Key, err = k.Open(l.place(app, seal.UseCert, name), sealed)
	return b, err
}
