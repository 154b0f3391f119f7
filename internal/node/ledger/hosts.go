package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bulwark-paas/bulwark"
)

// maxHosts bounds the claimed host names of one app: dial takes them in one message.
const maxHosts = 100

// Named is what the DNS says of whose a host name is.
type Named struct {
	Host  bulwark.HostName
	Words []string // values of the TXT records at ProofName
	Asked bool     // false: nobody looked
}

// Unproven is why a host name was not given to who claims it: the DNS has to say that it is theirs, and was not asked or does not.
type Unproven struct {
	Host bulwark.HostName
	Why  error // for people
}

// Error implements error.
func (u *Unproven) Error() string { return u.Why.Error() }

// Unwrap is for people.
func (u *Unproven) Unwrap() error { return u.Why }

// ProofName is where the DNS says whose a host name is; a pattern is whose the name below "*." is.
func ProofName(host bulwark.HostName) string {
	if below, is := host.Wildcard(); is {
		host = below
	}
	return "_bulwark." + string(host)
}

// ProofWord is what the DNS says of a host name that is an organisation's, in this installation. It is no secret.
func ProofWord(node string, org bulwark.OrgID) string {
	sum := sha256.Sum256([]byte("bulwark host proof v1\x00" + node + "\x00" + string(org)))
	return "bulwark=" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20]))
}

// claimHost gives a host name to an app. Who runs the installation may have each that is free; anybody else has to have the DNS say that
// it is theirs, and then it is, unless the DNS says the same for who has it already.
func (l *Ledger) claimHost(tx *sql.Tx, p *Principal, app *App, host bulwark.HostName, named Named, r *Receipt) error {
	if host == "" {
		return bulwark.Invalid("The host name is empty.", "Give a name such as shop.example.org.")
	}
	below, wild := host.Wildcard()
	if host == l.domain || strings.HasSuffix(string(host), "."+string(l.domain)) || wild && below == l.domain.Above() {
		return bulwark.Invalid(fmt.Sprintf("Host names below %s belong to the apps of those names.", l.domain), "Give a domain of your own.")
	}
	var hosts int
	if err := tx.QueryRow(`SELECT count(*) FROM host WHERE app = ?`, app.ID).Scan(&hosts); err != nil {
		return err
	}
	if hosts >= maxHosts {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("An app answers to at most %d host names of its own.", maxHosts), "Remove one first.", nil)
	}
	org, _, err := appPlace(tx, app.ID)
	if err != nil {
		return err
	}
	says := func(of bulwark.OrgID) bool {
		return named.Asked && named.Host == host && slices.Contains(named.Words, ProofWord(l.Node(), of))
	}
	var owner bulwark.AppID
	var theirs bulwark.OrgID
	err = tx.QueryRow(`SELECT h.app, p.org FROM host h JOIN app a ON a.id = h.app JOIN project p ON p.id = a.project WHERE h.host = ?`, host).Scan(&owner, &theirs)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		// A name below another's pattern is part of that, and goes over as any name does.
		above := "*." + host.Above()
		err := tx.QueryRow(`SELECT p.org FROM host h JOIN app a ON a.id = h.app JOIN project p ON p.id = a.project WHERE h.host = ? AND p.org <> ?`, above, org).Scan(&theirs)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil && !says(org) {
			return &Unproven{Host: host, Why: bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The host name %s is part of %s, which belongs to another app.", host, above),
				"If it is your domain: "+l.howToProve(host, org), nil)}
		}
		if org != bulwark.FirstOrg && !says(org) {
			return &Unproven{Host: host, Why: bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The DNS does not say that %s is your organisation's.", host), l.howToProve(host, org), nil)}
		}
		_, err = tx.Exec(`INSERT INTO host (host, app) VALUES (?,?)`, host, app.ID)
		return err
	case err != nil || owner == app.ID:
		return err
	}
	if was := destroyedTo(tx, p, owner); was != nil {
		return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("The host name %s belongs to app %s, which was destroyed and can still be brought back.", host, was.Name),
			fmt.Sprintf("Bring it back with bulwark apps restore %[1]s, or free the host name with bulwark apps destroy %[1]s --now.", was.Name), nil)
	}
	taken := fmt.Sprintf("The host name %s belongs to another app.", host)
	if theirs == org {
		return bulwark.Fail(bulwark.KindConflict, taken, "Remove it there first.", nil)
	}
	if !says(org) || says(theirs) {
		return &Unproven{Host: host, Why: bulwark.Fail(bulwark.KindConflict, taken, "Remove it there first. If it is your domain: "+l.howToProve(host, org)+
			" No record there may say that it is another's.", nil)}
	}
	r.From = owner
	_, err = tx.Exec(`UPDATE host SET app = ? WHERE host = ?`, app.ID, host)
	return err
}

// howToProve says which record to set.
func (l *Ledger) howToProve(host bulwark.HostName, org bulwark.OrgID) string {
	return fmt.Sprintf("Set the DNS record %s TXT %q, and run the command again.", ProofName(host), ProofWord(l.Node(), org))
}

// errAsked undoes what was only asked for.
var errAsked = errors.New("ledger: only asked")

// ProofNeeded tells whether the DNS has to say that a host is an app's before a claim of it counts.
func (l *Ledger) ProofNeeded(ctx context.Context, id bulwark.AppID, host bulwark.HostName) (needed bool, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		app, err := appByID(tx, id)
		if err != nil {
			return err
		}
		_, needed = errors.AsType[*Unproven](l.claimHost(tx, &Principal{}, app, host, Named{}, &Receipt{}))
		return errAsked
	})
	if errors.Is(err, errAsked) {
		err = nil
	}
	return needed, err
}
