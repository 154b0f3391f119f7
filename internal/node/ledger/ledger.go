// Package ledger is the node's own book of authority: who the people are and which keys they hold, what they signed, and
// the high-water marks that keep anything old from coming back.
//
// It promises that nothing enters but what a registered key signed for this installation, each document once and never
// again whatever the clock says; that names and hosts have one owner; that the generations and config revisions of an
// app only grow; and that a release says no more than what follows from an accepted document and a measured build. It
// asks nobody: the server's word counts for nothing here.
//
// Whoever owns the node's process owns the ledger; its file is readable to root alone.
package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/node/projectkeys"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Ledger is the open book.
type Ledger struct {
	db     *db.DB
	key    ed25519.PrivateKey
	public statement.Key
	keys   *projectkeys.Ring
	domain bulwark.HostName
	now    func() time.Time
	grace  time.Duration
	ran    func() time.Duration

	operators interface{ Has(bulwark.ASN) bool }

	counted time.Duration // up to where of ran graces have been counted; guarded by being in a transaction, of which there is one at a time

	logSigner note.Signer // of the audit log's checkpoints
	logKey    string

	openedMu sync.Mutex // guards opened
	opened   map[[sha256.Size]byte]*Brought
}

// Config is what a ledger needs.
type Config struct {
	Path string
	Key  ed25519.PrivateKey // the node's own
	Keys *projectkeys.Ring  // the projects' private ones
	// Domain is the one below which every app has its name as a host name; nobody can claim a host there.
	Domain bulwark.HostName
	Now    func() time.Time // nil means time.Now
	// Grace is how long an app that is destroyed can be brought back; 0: not at all.
	Grace time.Duration
	// Operators says whether a network operator's number has networks; nil knows none.
	Operators interface{ Has(bulwark.ASN) bool }
	// Ran is how long this process has run, by a clock that nobody can set; nil means the monotonic one.
	Ran func() time.Duration
}

// Open opens or makes the ledger at c.Path.
func Open(ctx context.Context, c Config) (*Ledger, error) {
	d, err := db.Open(ctx, c.Path, slices.Concat(migrations(), auditMigrations(), approvalMigrations(), graceMigrations(), keyMigrations()))
	if err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ran == nil {
		opened := time.Now() // with its monotonic reading, by which Since goes
		c.Ran = func() time.Duration { return time.Since(opened) }
	}
	l := &Ledger{db: d, key: c.Key, public: statement.NewKey(c.Key.Public().(ed25519.PublicKey)), keys: c.Keys, domain: c.Domain, now: c.Now, grace: c.Grace, operators: c.Operators, ran: c.Ran, counted: c.Ran()}
	if l.logSigner, l.logKey, err = statement.LogSigner(c.Key); err == nil {
		err = l.chainOld(ctx)
	}
	if err == nil {
		err = l.openKeys(ctx)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return l, nil
}

// Close closes the ledger.
func (l *Ledger) Close() error { return l.db.Close() }

// Node returns the name of this installation in statements: the fingerprint of the node's key.
func (l *Ledger) Node() string { return l.public.Fingerprint }

// Receipt is the node's answer to an accepted document. The same document gets the same receipt again, so that a caller
// that was interrupted can ask once more; it takes effect once.
type Receipt struct {
	Digest bulwark.Digest   `json:"digest"` // of the document
	Kind   statement.Kind   `json:"kind"`
	Person bulwark.PersonID `json:"person,omitempty"` // empty for what the node did by itself
	Token  bulwark.TokenID  `json:"token,omitempty"`  // of the person's, if it was not themselves
	Key    string           `json:"key"`
	App    bulwark.AppID    `json:"app,omitempty"`
	Seq    uint64           `json:"seq"`
	// Chain is the document's place in the chain; nil for one that was accepted before there was a chain.
	Chain *statement.ChainRef `json:"chain,omitempty"`
	// Config is the revision that a config statement made.
	Config *statement.ConfigRef `json:"config,omitempty"`
	// Rotated is the version of the project's key that the document made.
	Rotated uint64 `json:"rotated,omitempty"`
	// Protection is what holds after a statement about an app's protection.
	Protection *statement.Protection `json:"protection,omitempty"`
	// Until is when a destroyed app's grace ends, by the clock at its destruction; nil if it was final at once.
	Until *time.Time `json:"until,omitempty"`
	// Promoted is the release that serves of an app that was brought back.
	Promoted uint64 `json:"promoted,omitempty"`
	// From is the app of another organisation's that a host name was taken from, since the DNS says whose it is.
	From bulwark.AppID `json:"from,omitempty"`
	// Body is the verified body, so that the caller need not parse what it cannot verify.
	Body json.RawMessage `json:"body,omitempty"`
}

// cause returns what a release says about the document.
func (r Receipt) cause() statement.Cause {
	return statement.Cause{Kind: r.Kind, Person: r.Person, Key: r.Key, Digest: r.Digest}
}

// submitWithin is how long a statement may take from its signature to the node: whoever carries it cannot hold it back until
// it suits them. A day is ample for a machine's clock and for a server that is away.
const submitWithin = 24 * time.Hour

// largest bounds a kind's envelope in bytes: what is accepted is kept for ever.
func largest(k statement.Kind) int {
	switch k {
	case statement.KindConfigSet, statement.KindBuildSecret:
		return statement.MaxSize
	case statement.KindRun, statement.KindShieldSet: // arguments, pages
		return 256 << 10
	}
	return 64 << 10
}

// Submit verifies a person's statement and gives it effect.
func (l *Ledger) Submit(ctx context.Context, envelope []byte) (*Receipt, error) {
	return l.SubmitNamed(ctx, envelope, Named{})
}

// SubmitNamed is Submit, with what the DNS says of a host name, which the caller looked up after Submit had asked for it by [Unproven].
func (l *Ledger) SubmitNamed(ctx context.Context, envelope []byte, named Named) (*Receipt, error) {
	return l.submit(ctx, envelope, named, func(tx *sql.Tx, r *Receipt, s *statement.Statement) error { return nil })
}

// submit is Submit with a last word, in the same transaction, by a check of the kind's own; s is nil if the document is known.
func (l *Ledger) submit(ctx context.Context, envelope []byte, named Named, check func(tx *sql.Tx, r *Receipt, s *statement.Statement) error) (*Receipt, error) {
	digest := bulwark.Sum(envelope)
	var out *Receipt
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		if r, err := known(tx, digest); err != nil || r != nil {
			out = r
			if err == nil {
				err = check(tx, r, nil)
			}
			return err
		}
		fingerprint, err := statement.Signer(envelope)
		if err != nil {
			return err
		}
		p, der, err := l.who(tx, "device", fingerprint)
		if err != nil {
			return err
		}
		k, err := statement.ParseKey(der)
		if err != nil {
			return err
		}
		s, err := statement.Verify(envelope, k)
		if err != nil {
			return err
		}
		if s.Node != l.Node() {
			return bulwark.Fail(bulwark.KindForbidden, "The statement was signed for another installation.", "Sign in with bulwark login.", nil)
		}
		// The one that is known was taken in time, and is answered above however often it comes.
		if l.now().Sub(s.Time).Abs() > submitWithin {
			return bulwark.Fail(bulwark.KindForbidden, "The statement was signed more than a day ago, or by a clock that is wrong by that.",
				"Run the command again; if it is refused again, set this machine's clock.", nil)
		}
		if err := l.authorize(tx, p, s); err != nil {
			return err
		}
		if len(envelope) > largest(s.Kind) {
			return bulwark.Failf(bulwark.KindTooLarge, "A statement of this kind is not that large.")
		}
		r := &Receipt{Digest: digest, Kind: s.Kind, Person: p.Person, Token: p.Token, Key: fingerprint, App: s.App, Body: s.Body}
		if err := l.apply(tx, p, s, r, named); err != nil {
			return err
		}
		if err := check(tx, r, s); err != nil {
			return err
		}
		out = r
		return l.record(tx, r, string(s.ID), envelope)
	})
	return out, err
}

// Enroll takes the statement of a person who is not known yet and proves to hold the one-time token.
func (l *Ledger) Enroll(ctx context.Context, envelope []byte) (*Receipt, error) {
	digest := bulwark.Sum(envelope)
	var out *Receipt
	err := l.db.Tx(ctx, func(tx *sql.Tx) error {
		if r, err := known(tx, digest); err != nil || r != nil {
			out = r
			return err
		}
		e, s, k, err := openEnroll(envelope)
		if err != nil {
			return err
		}
		if s.Node != l.Node() {
			return bulwark.Fail(bulwark.KindForbidden, "The login token belongs to another installation.", "", nil)
		}
		// Who has the operator's one-time token owns the organisation that it is for; who was invited gets the role of the invitation.
		role := right.Grant{Org: bulwark.FirstOrg, Role: bulwark.Owner}
		if e.Invitation != "" {
			if role, err = l.useInvitation(tx, e); err != nil {
				return err
			}
		} else if role.Org, err = l.useToken(tx, e); err != nil {
			return err
		}
		r := &Receipt{Digest: digest, Kind: s.Kind, Person: bulwark.NewPersonID(), Key: k.Fingerprint}
		if _, err := tx.Exec(`INSERT INTO person (id, name) VALUES (?, ?)`, r.Person, e.Name); err != nil {
			return err
		}
		if err := addKey(tx, "device", k.Fingerprint, k.PKIX(), r.Person); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO member (person, org, project, role) VALUES (?,?,?,?)`, r.Person, role.Org, role.Project, role.Role); err != nil {
			return err
		}
		if e.Invitation == "" {
			if err := countsAtOnce(tx, r.Person); err != nil {
				return err
			}
		}
		for _, k := range e.SSH {
			// A key that somebody has already (most often the same person, on an earlier device) stays theirs.
			if err := addSSH(tx, k, l.Node(), r); err != nil && bulwark.KindOf(err) != bulwark.KindConflict {
				return err
			}
		}
		out = r
		return l.record(tx, r, string(s.ID), envelope)
	})
	return out, err
}

// openEnroll verifies an enrolment against the key that it brings: it proves possession, not authority.
func openEnroll(envelope []byte) (*statement.Enroll, *statement.Statement, statement.Key, error) {
	var peek struct {
		Payload []byte `json:"payload"`
	}
	var s0 statement.Statement
	var e statement.Enroll
	bad := func(err error) (*statement.Enroll, *statement.Statement, statement.Key, error) {
		return nil, nil, statement.Key{}, bulwark.Fail(bulwark.KindInvalid, "The enrolment is not well formed.", "Sign in again with bulwark login.", err)
	}
	if err := json.Unmarshal(envelope, &peek); err != nil {
		return bad(err)
	}
	if err := statement.Strict(peek.Payload, &s0); err != nil {
		return bad(err)
	}
	if err := s0.Decode(&e); err != nil || s0.Kind != statement.KindEnroll {
		return bad(err)
	}
	k, err := statement.ParseKey(e.Device)
	if err != nil {
		return nil, nil, k, err
	}
	s, err := statement.Verify(envelope, k)
	return &e, s, k, err
}

// useToken finds the one unused token whose secret made the proof, and spends it. It returns the organisation that the token is for.
func (l *Ledger) useToken(tx *sql.Tx, e *statement.Enroll) (bulwark.OrgID, error) {
	rows, err := tx.Query(`SELECT secret, org FROM token WHERE used = 0 AND until > ?`, l.now().Unix())
	if err != nil {
		return "", err
	}
	defer rows.Close()
	for rows.Next() {
		var secret []byte
		var org bulwark.OrgID
		if err := rows.Scan(&secret, &org); err != nil {
			return "", err
		}
		if hmac.Equal(enrol.Proof(secret, e.Device), e.Proof) {
			rows.Close()
			_, err := tx.Exec(`UPDATE token SET used = 1, secret = x'' WHERE secret = ?`, secret)
			return org, err
		}
	}
	if err := rows.Err(); err != nil {
		return "", err
	}
	return "", bulwark.Fail(bulwark.KindForbidden, "The login token is not valid, was used before or has expired.",
		"On the machine, as root, make a new one with bulwark token.", nil)
}

// tokenLife is how long a one-time token is good.
const tokenLife = 24 * time.Hour

// AddToken keeps the secret of a fresh one-time token for an owner of the installation; earlier unused ones end.
func (l *Ledger) AddToken(ctx context.Context, secret []byte) error {
	return l.addToken(ctx, secret, bulwark.FirstOrg)
}

// AddProberToken is AddToken for the prober, whose token makes it an owner of its own organisation and of nothing else.
func (l *Ledger) AddProberToken(ctx context.Context, secret []byte) error {
	return l.addToken(ctx, secret, bulwark.PostureOrg)
}

func (l *Ledger) addToken(ctx context.Context, secret []byte, org bulwark.OrgID) error {
	return l.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM token WHERE org = ?`, org); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO token (secret, used, until, org) VALUES (?, 0, ?, ?)`, secret, l.now().Add(tokenLife).Unix(), org)
		return err
	})
}

// People returns how many people are known.
func (l *Ledger) People(ctx context.Context) (n int, err error) {
	err = l.db.Reader().QueryRowContext(ctx, `SELECT count(*) FROM person`).Scan(&n)
	return n, err
}

// KeyOwner says whose a key is and what they may: kind is "device" or "ssh".
// With the kind "person", fingerprint is a person's id.
func (l *Ledger) KeyOwner(_ context.Context, kind, fingerprint string) (*Principal, error) {
	if kind == "person" {
		g, err := grants(l.db.Reader(), bulwark.PersonID(fingerprint))
		return &Principal{Person: bulwark.PersonID(fingerprint), Grants: g}, err
	}
	p, _, err := l.who(l.db.Reader(), kind, fingerprint)
	return p, err
}

// known returns the receipt of a document that was accepted before.
func known(tx *sql.Tx, digest bulwark.Digest) (*Receipt, error) {
	var b []byte
	err := tx.QueryRow(`SELECT receipt FROM document WHERE digest = ?`, digest).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r Receipt
	return &r, json.Unmarshal(b, &r)
}

// record writes a document into the book for ever. Its id is unique: a second document of the same id is a replay.
func (l *Ledger) record(tx *sql.Tx, r *Receipt, id string, document []byte) error {
	if err := tx.QueryRow(`SELECT coalesce(max(seq), 0) + 1 FROM document`).Scan(&r.Seq); err != nil {
		return err
	}
	at := l.now()
	if err := l.link(tx, r, at); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	res, err := tx.Exec(`INSERT INTO document (seq, digest, id, kind, app, person, body, receipt, at) VALUES (?,?,?,?,?,?,?,?,?)
		ON CONFLICT (id) DO NOTHING`, r.Seq, r.Digest, id, r.Kind, r.App, r.Person, document, string(b), at.UTC().Format(time.RFC3339Nano))
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return bulwark.Fail(bulwark.KindForbidden, "The statement was used before.", "Run the command again.", nil)
	}
	return nil
}

// key returns the owner and the public part of a key that is registered and was not removed.
func key(tx interface{ QueryRow(string, ...any) *sql.Row }, kind, fingerprint string) (p bulwark.PersonID, public []byte, err error) {
	err = tx.QueryRow(`SELECT person, public FROM key WHERE kind = ? AND fingerprint = ? AND removed = 0`, kind, fingerprint).Scan(&p, &public)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil, bulwark.Fail(bulwark.KindForbidden, "This key is not registered.",
			"Sign in with bulwark login, or register an SSH key with bulwark keys add.", nil)
	}
	return p, public, err
}

func addKey(tx *sql.Tx, kind, fingerprint string, public []byte, p bulwark.PersonID) error {
	res, err := tx.Exec(`INSERT INTO key (kind, fingerprint, public, person, removed) VALUES (?,?,?,?,0) ON CONFLICT DO NOTHING`,
		kind, fingerprint, public, p)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 1 {
		return nil
	}
	// Registering one's own live key again is no error; anybody else's, or a removed one, is.
	owner, _, err := key(tx, kind, fingerprint)
	if err != nil || owner != p {
		return bulwark.Fail(bulwark.KindConflict, "This key is registered for somebody else or was removed.", "Use another key.", nil)
	}
	return nil
}

func addSSH(tx *sql.Tx, k statement.SSHKey, node string, r *Receipt) error {
	pub, err := k.Verify(node, r.Key)
	if err != nil {
		return err
	}
	switch pub.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
	default:
		return bulwark.Invalid(fmt.Sprintf("SSH keys of type %s are not taken.", pub.Type()), "Make one with ssh-keygen -t ed25519.")
	}
	return addKey(tx, "ssh", ssh.FingerprintSHA256(pub), pub.Marshal(), r.Person)
}
