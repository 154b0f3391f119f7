package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/source/pushnonce"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// nonceLife is how long a push may take from its first byte to its certificate.
const nonceLife = time.Hour

// deployRef is the branch that deploys. The node looks for itself: a person who pushed another one has not asked for a
// deploy.
const deployRef = "refs/heads/main"

// Nonce makes the seed of git's certificate nonce for one push to an app. A certificate is accepted only with a nonce
// that git derived from such a seed, and each seed once: a recorded push cannot be played again.
func (l *Ledger) Nonce(ctx context.Context, app bulwark.AppID) (string, error) {
	var b [32]byte
	rand.Read(b[:])
	seed := hex.EncodeToString(b[:])
	now := l.now()
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := appByID(tx, app); err != nil {
			return err
		}
		// An age on either side: a clock that jumps must not leave seeds behind for ever.
		if _, err := tx.Exec(`DELETE FROM nonce WHERE abs(at - ?) > ?`, now.Unix(), int64(nonceLife/time.Second)); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO nonce (seed, app, at) VALUES (?,?,?)`, seed, app, now.Unix())
		return err
	})
	return seed, err
}

// PushBody is the body of a push's receipt.
type PushBody struct {
	Old bulwark.Commit `json:"old"`
	New bulwark.Commit `json:"new"`
	Ref string         `json:"ref"`
}

// Push verifies a push certificate and accepts it, once.
func (l *Ledger) Push(ctx context.Context, app bulwark.AppID, raw []byte) (*Receipt, error) {
	digest := bulwark.Sum(raw)
	var out *Receipt
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		if r, err := known(tx, digest); err != nil || r != nil {
			out = r
			return err
		}
		cert, err := statement.ParsePushCertificate(raw)
		if err != nil {
			return err
		}
		a, err := appByID(tx, app)
		if err != nil {
			return err
		}
		if cert.Ref != deployRef || strings.Trim(string(cert.New), "0") == "" {
			return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The push was signed for %s; only %s is deployed.", cert.Ref, deployRef), "", nil)
		}
		if cert.App != a.Name {
			return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The push was signed for app %s, not for %s.", cert.App, a.Name), "", nil)
		}
		fingerprint := ssh.FingerprintSHA256(cert.Signer)
		p, _, err := l.who(tx, "ssh", fingerprint)
		if err != nil {
			return err
		}
		if err := l.onApp(tx, p, app, statement.KindPush); err != nil {
			return err
		}
		seed, err := l.spend(tx, app, cert.Nonce)
		if err != nil {
			return err
		}
		body, err := json.Marshal(PushBody{Old: cert.Old, New: cert.New, Ref: cert.Ref})
		if err != nil {
			return err
		}
		out = &Receipt{Digest: digest, Kind: statement.KindPush, Person: p.Person, Key: fingerprint, App: app, Body: body}
		return l.record(tx, out, "push:"+seed, raw)
	})
	return out, err
}

// spend finds the seed that a nonce was derived from and takes it out of the book.
func (l *Ledger) spend(tx *sql.Tx, app bulwark.AppID, nonce string) (string, error) {
	rows, err := tx.Query(`SELECT seed FROM nonce WHERE app = ?`, app)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	for rows.Next() {
		var seed string
		if err := rows.Scan(&seed); err != nil {
			return "", err
		}
		if pushnonce.CheckNonce(nonce, seed, RepoPath(app), l.now(), nonceLife) == nil {
			rows.Close()
			_, err := tx.Exec(`DELETE FROM nonce WHERE seed = ?`, seed)
			return seed, err
		}
	}
	if err := rows.Err(); err != nil {
		return "", err
	}
	return "", bulwark.Fail(bulwark.KindForbidden, "The push certificate is not of this push: it was used before or took longer than an hour.",
		"Push again.", nil)
}

// RepoPath is the path that git's receive-pack is given for an app, which the nonce is bound to.
func RepoPath(app bulwark.AppID) string { return string(app) + ".git" }

// Document returns an accepted document by its digest.
func (l *Ledger) Document(ctx context.Context, digest bulwark.Digest) (raw []byte, r *Receipt, err error) {
	var b []byte
	err = l.db.Reader().QueryRowContext(ctx, `SELECT body, receipt FROM document WHERE digest = ?`, digest).Scan(&raw, &b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, bulwark.Failf(bulwark.KindForbidden, "Nobody signed for this.")
	}
	if err != nil {
		return nil, nil, err
	}
	r = &Receipt{}
	return raw, r, json.Unmarshal(b, r)
}

// Accepted returns the receipt of a document that was accepted; not found for any other.
func (l *Ledger) Accepted(ctx context.Context, digest bulwark.Digest) (r *Receipt, err error) {
	// In a transaction, so that one that is being decided about is waited for.
	err = l.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		r, err = known(tx, digest)
		return err
	})
	if err == nil && r == nil {
		err = bulwark.Failf(bulwark.KindNotFound, "No such document was accepted.")
	}
	return r, err
}

// App returns an app that was not destroyed.
func (l *Ledger) App(ctx context.Context, id bulwark.AppID) (a *App, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) (err error) {
		a, err = appByID(tx, id)
		return err
	})
	return a, err
}

// ClaimedHosts returns every host name that an app's owners claimed, and that may serve.
func (l *Ledger) ClaimedHosts(ctx context.Context) ([]bulwark.HostName, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT host FROM host JOIN app ON app.id = host.app WHERE app.destroyed = 0 ORDER BY host`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []bulwark.HostName
	for rows.Next() {
		var h bulwark.HostName
		if err := rows.Scan(&h); err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, rows.Err()
}

// EgressRule is a destination that an app's owners opened. Private: somebody did who may open what is not public.
type EgressRule struct {
	Rule    string
	Private bool
}

// Egress returns what an app's owners allowed it to reach beside the internet.
func (l *Ledger) Egress(ctx context.Context, app bulwark.AppID) ([]EgressRule, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT rule, private FROM egress WHERE app = ? ORDER BY rule`, app)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []EgressRule
	for rows.Next() {
		var r EgressRule
		if err := rows.Scan(&r.Rule, &r.Private); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}
