package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Principal is who signed: a person, or a token of that person's.
type Principal struct {
	Person bulwark.PersonID
	Token  bulwark.TokenID // empty for the person themselves
	Scopes []statement.Scope
	Grants []right.Grant // of the person
}

// queryer is a transaction or the reader.
type queryer interface {
	QueryRow(query string, args ...any) *sql.Row
	Query(query string, args ...any) (*sql.Rows, error)
}

// who returns whose key it is, with the public part: kind is "device" or "ssh". A token's key counts as a device's.
func (l *Ledger) who(q queryer, kind, fingerprint string) (*Principal, []byte, error) {
	p := &Principal{}
	person, public, err := key(q, kind, fingerprint)
	if bulwark.KindOf(err) == bulwark.KindForbidden && kind == "device" {
		if person, public, err = l.token(q, fingerprint, p, err); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, nil, err
	}
	p.Person = person
	p.Grants, err = grants(q, person)
	return p, public, err
}

// token reads a token into p, unless it has ended; unknown is what to say if there is none.
func (l *Ledger) token(q queryer, fingerprint string, p *Principal, unknown error) (bulwark.PersonID, []byte, error) {
	var person bulwark.PersonID
	var public []byte
	var scopes string
	var until int64
	err := q.QueryRow(`SELECT id, person, public, scopes, until FROM access_token WHERE fingerprint = ? AND ended = 0`, fingerprint).
		Scan(&p.Token, &person, &public, &scopes, &until)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil, unknown
	}
	if err != nil {
		return "", nil, err
	}
	if l.now().Unix() >= until {
		return "", nil, bulwark.Fail(bulwark.KindForbidden, "The access token has expired.", "Make a new one with bulwark tokens create.", nil)
	}
	return person, public, json.Unmarshal([]byte(scopes), &p.Scopes)
}

func grants(q queryer, person bulwark.PersonID) ([]right.Grant, error) {
	rows, err := q.Query(`SELECT org, project, role FROM member WHERE person = ? ORDER BY org, project`, person)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []right.Grant
	for rows.Next() {
		var g right.Grant
		if err := rows.Scan(&g.Org, &g.Project, &g.Role); err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, rows.Err()
}

// notAllowed is the one refusal for want of a right. Where somebody may not even look, an app does not exist.
func notAllowed(kind statement.Kind) error {
	return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("Your role does not allow this (%s).", kind), "Ask an owner; bulwark whoami shows your roles.", nil)
}

// authorize refuses what the signer may not sign for. It is the one place in which the node decides about that.
func (l *Ledger) authorize(tx *sql.Tx, p *Principal, s *statement.Statement) error {
	rule, ok := right.Rules()[s.Kind]
	if !ok {
		return bulwark.Invalid(fmt.Sprintf("There is no statement of kind %q.", s.Kind), "Use a bulwark command of the same version as the server.")
	}
	if p.Token != "" && !scoped(p, rule, s.App) {
		return bulwark.Fail(bulwark.KindForbidden, fmt.Sprintf("The access token is not made for this (%s).", s.Kind), "Make one with the scope that it needs: bulwark tokens create.", nil)
	}
	switch rule.On {
	case right.Self: // what is somebody else's is looked at where it is applied
		if len(p.Grants) == 0 && s.Kind != statement.KindKeyRemove {
			return notAllowed(s.Kind) // who was removed does not go on to write here
		}
		return nil
	case right.Installation:
		if !right.Has(p.Grants, bulwark.FirstOrg, "", rule.Roles...) {
			return notAllowed(s.Kind)
		}
		return nil
	case right.Place:
		org, project, err := placeOf(tx, s)
		if err != nil {
			return err
		}
		if !right.Has(p.Grants, org, project, rule.Roles...) {
			return notAllowed(s.Kind)
		}
		return nil
	case right.App:
		if err := l.onApp(tx, p, s.App, s.Kind); err != nil || s.Kind != statement.KindDeploy {
			return err
		}
		return decode(s, func(b statement.Deploy) error { return l.onImport(tx, p, s.App, b) })
	}
	return notAllowed(s.Kind)
}

// onApp refuses what the signer may not do to an app; one of which they may know nothing is not there.
func (l *Ledger) onApp(q queryer, p *Principal, id bulwark.AppID, kind statement.Kind) error {
	rule := right.Rules()[kind]
	app, org, graced, err := keptApp(q, id)
	if err != nil {
		return err
	}
	if right.Has(p.Grants, org, app.Project, rule.Roles...) {
		if graced && kind != statement.KindAppDestroy && kind != statement.KindAppRestore {
			return bulwark.WasDestroyed(app.Name)
		}
		return nil
	}
	if !right.Has(p.Grants, org, app.Project, bulwark.Owner, bulwark.Developer, bulwark.Viewer, bulwark.Auditor) {
		return bulwark.NoSuchApp()
	}
	return notAllowed(kind)
}

// onImport refuses an image that was built elsewhere from everybody but an owner: nothing is known of how it came to be.
func (l *Ledger) onImport(q queryer, p *Principal, id bulwark.AppID, b statement.Deploy) error {
	if b.Image == "" {
		return nil
	}
	org, project, err := appPlace(q, id)
	if err != nil {
		return err
	}
	if p.Token != "" || !right.Has(p.Grants, org, project, bulwark.Owner) {
		return bulwark.Fail(bulwark.KindForbidden, "An image that was built elsewhere needs an owner's signature.", "Push the source, or ask an owner to deploy the image.", nil)
	}
	return nil
}

func scoped(p *Principal, rule right.Rule, app bulwark.AppID) bool {
	return rule.Deed != "" && app != "" && slices.Contains(p.Scopes, statement.Scope{Do: rule.Deed, App: app})
}

// appPlace returns where an app belongs.
func appPlace(q queryer, id bulwark.AppID) (org bulwark.OrgID, project bulwark.ProjectID, err error) {
	err = q.QueryRow(`SELECT p.org, p.id FROM app a JOIN project p ON p.id = a.project WHERE a.id = ? AND a.destroyed = 0`, id).Scan(&org, &project)
	if errors.Is(err, sql.ErrNoRows) {
		err = bulwark.NoSuchApp()
	}
	return org, project, err
}

// placeOf returns which place a statement's body names. A place that is not there is one where nobody has a role.
func placeOf(tx *sql.Tx, s *statement.Statement) (bulwark.OrgID, bulwark.ProjectID, error) {
	var at statement.Place
	err := error(nil)
	switch s.Kind {
	case statement.KindProjectCreate:
		err = decode(s, func(b statement.ProjectCreate) error { at.Org = b.Org; return nil })
	case statement.KindProjectRotate: // the organisation's owners, for all that it has
		err = decode(s, func(b statement.ProjectRotate) error {
			return tx.QueryRow(`SELECT org FROM project WHERE id = ?`, b.Project).Scan(&at.Org)
		})
	case statement.KindMemberInvite:
		err = decode(s, func(b statement.MemberInvite) error { at = b.Place; return nil })
	case statement.KindMemberUninvite:
		err = decode(s, func(b statement.MemberUninvite) error { at = b.Place; return nil })
	case statement.KindMemberSet:
		err = decode(s, func(b statement.MemberSet) error { at = b.Place; return nil })
	case statement.KindAppCreate:
		err = decode(s, func(b statement.AppCreate) error { at.Project = b.Project; return nil })
		if at.Project == "" {
			at.Project = bulwark.FirstProject
		}
		if err == nil {
			err = tx.QueryRow(`SELECT org FROM project WHERE id = ?`, at.Project).Scan(&at.Org)
		}
	default:
		return "", "", bulwark.Failf(bulwark.KindInternal, "no place is known for %s", s.Kind)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", bulwark.Failf(bulwark.KindNotFound, "There is no such project.")
	}
	return at.Org, at.Project, err
}

// applyPeople gives the statements about people and places their effect. handled is false for any other kind.
func (l *Ledger) applyPeople(tx *sql.Tx, p *Principal, s *statement.Statement, r *Receipt) (handled bool, err error) {
	switch s.Kind {
	case statement.KindOrgCreate:
		return true, decode(s, func(b statement.OrgCreate) error { return createOrg(tx, p, b) })
	case statement.KindProjectCreate:
		return true, decode(s, func(b statement.ProjectCreate) error { return l.createProject(tx, b) })
	case statement.KindProjectRotate:
		return true, decode(s, func(b statement.ProjectRotate) error { return l.rotateFor(tx, b, r) })
	case statement.KindMemberInvite:
		return true, decode(s, func(b statement.MemberInvite) error { return l.invite(tx, p, b) })
	case statement.KindMemberUninvite:
		return true, decode(s, func(b statement.MemberUninvite) error { return l.uninvite(tx, b) })
	case statement.KindMemberSet:
		return true, decode(s, func(b statement.MemberSet) error { return setMember(tx, b) })
	case statement.KindMemberRemove:
		return true, decode(s, func(b statement.MemberRemove) error { return l.removeMember(tx, p, b) })
	case statement.KindTokenCreate:
		return true, decode(s, func(b statement.TokenCreate) error { return l.createToken(tx, p, b) })
	case statement.KindTokenRevoke:
		return true, decode(s, func(b statement.TokenRevoke) error { return revokeToken(tx, p, b) })
	}
	return false, nil
}

func conflictOn(err error, message string) error {
	if err == nil {
		return nil
	}
	return bulwark.Fail(bulwark.KindConflict, message, "Choose another name.", err)
}

func createOrg(tx *sql.Tx, p *Principal, b statement.OrgCreate) error {
	if b.Org == "" || b.Name == "" {
		return bulwark.Invalid("A new organisation needs an id and a name.", "")
	}
	if _, err := tx.Exec(`INSERT INTO org (id, name) VALUES (?,?)`, b.Org, b.Name); err != nil {
		return conflictOn(err, fmt.Sprintf("There is an organisation named %s already.", b.Name))
	}
	_, err := tx.Exec(`INSERT INTO member (person, org, project, role) VALUES (?,?,'',?)`, p.Person, b.Org, bulwark.Owner)
	return err
}

// Bounds on projects.
const (
	maxProjects    = 50
	maxAllProjects = 1000
)

func (l *Ledger) createProject(tx *sql.Tx, b statement.ProjectCreate) error {
	if b.Project == "" || b.Name == "" {
		return bulwark.Invalid("A new project needs an id and a name.", "")
	}
	// Each project has a key, which everybody is told who asks the node about itself.
	var own, all int
	if err := tx.QueryRow(`SELECT coalesce(sum(org = ?), 0), count(*) FROM project`, b.Org).Scan(&own, &all); err != nil {
		return err
	}
	if own >= maxProjects || all >= maxAllProjects {
		return bulwark.Failf(bulwark.KindTooLarge, "An organisation has at most %d projects, and an installation %d.", maxProjects, maxAllProjects)
	}
	if _, err := tx.Exec(`INSERT INTO project (id, org, name) VALUES (?,?,?)`, b.Project, b.Org, b.Name); err != nil {
		return conflictOn(err, fmt.Sprintf("The organisation has a project named %s already.", b.Name))
	}
	// Before the statement counts: what is set in the project must have a key to be sealed to.
	return l.firstKey(tx, b.Project, l.now())
}

// inPlace refuses a place that is not there.
func inPlace(tx *sql.Tx, at statement.Place) error {
	var n int
	err := tx.QueryRow(`SELECT count(*) FROM org o WHERE o.id = ? AND (? = '' OR EXISTS (SELECT 1 FROM project WHERE id = ? AND org = o.id))`,
		at.Org, at.Project, at.Project).Scan(&n)
	if err == nil && n == 0 {
		err = bulwark.Failf(bulwark.KindNotFound, "There is no such organisation or project.")
	}
	return err
}

// maxInvitation is how long an invitation may be good for.
const maxInvitation = 30 * 24 * time.Hour

func (l *Ledger) invite(tx *sql.Tx, p *Principal, b statement.MemberInvite) error {
	if err := inPlace(tx, b.Place); err != nil {
		return err
	}
	k, err := statement.ParseKey(b.Key)
	if err != nil {
		return err
	}
	if d := b.Until.Sub(l.now()); d <= 0 || d > maxInvitation {
		return bulwark.Invalid("An invitation is good for at most 30 days.", "Invite again with a shorter time.")
	}
	if _, err := tx.Exec(`INSERT INTO invitation (fingerprint, public, name, org, project, role, inviter, until) VALUES (?,?,?,?,?,?,?,?)`,
		k.Fingerprint, k.PKIX(), b.Name, b.Org, b.Project, b.Role, p.Person, b.Until.Unix()); err != nil {
		return conflictOn(err, "The invitation was made before.")
	}
	return nil
}

// uninvite ends an invitation to the place, or, if that is an organisation, to one of its projects.
func (l *Ledger) uninvite(tx *sql.Tx, b statement.MemberUninvite) error {
	res, err := tx.Exec(`UPDATE invitation SET ended = 1 WHERE fingerprint = ? AND org = ? AND (? = '' OR project = ?) AND ended = 0 AND until > ?`,
		b.Invitation, b.Org, b.Project, b.Project, l.now().Unix())
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return bulwark.Fail(bulwark.KindNotFound, "There is no such invitation any more.", "It was taken up, withdrawn, or has expired: see bulwark members.", nil)
	}
	return nil
}

// setMember changes a role; the last owner stays one.
func setMember(tx *sql.Tx, b statement.MemberSet) error {
	if err := inPlace(tx, b.Place); err != nil {
		return err
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM person WHERE id = ?`, b.Person).Scan(&n); err != nil {
		return err
	}
	if n == 0 || b.Role == "" {
		return bulwark.Failf(bulwark.KindNotFound, "There is no such person.")
	}
	if _, err := tx.Exec(`INSERT INTO member (person, org, project, role) VALUES (?,?,?,?) ON CONFLICT (person, org, project) DO UPDATE SET role = excluded.role`,
		b.Person, b.Org, b.Project, b.Role); err != nil {
		return err
	}
	return owned(tx, b.Org)
}

func (l *Ledger) removeMember(tx *sql.Tx, p *Principal, b statement.MemberRemove) error {
	if b.Person != p.Person && !right.Has(p.Grants, b.Org, b.Project, bulwark.Owner) {
		return notAllowed(statement.KindMemberRemove)
	}
	res, err := tx.Exec(`DELETE FROM member WHERE person = ? AND org = ? AND project = ?`, b.Person, b.Org, b.Project)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return bulwark.Failf(bulwark.KindNotFound, "This person has no role there.")
	}
	// An invitation that somebody sent who is no longer there must not bring anybody in.
	if _, err := tx.Exec(`UPDATE invitation SET ended = 1 WHERE inviter = ? AND org = ? AND (? = '' OR project = ?)`, b.Person, b.Org, b.Project, b.Project); err != nil {
		return err
	}
	return owned(tx, b.Org)
}

// owned refuses to leave an organisation without an owner: nobody could ever let anybody in again.
func owned(tx *sql.Tx, org bulwark.OrgID) error {
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM member WHERE org = ? AND project = '' AND role = ?`, org, bulwark.Owner).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return bulwark.Fail(bulwark.KindConflict, "That would leave the organisation without an owner.", "Make somebody else an owner first: bulwark members set.", nil)
	}
	return nil
}

// Bounds on tokens.
const (
	maxTokenLife = 366 * 24 * time.Hour
	maxScopes    = 50
	maxTokens    = 100 // of one person's that have not ended
)

func (l *Ledger) createToken(tx *sql.Tx, p *Principal, b statement.TokenCreate) error {
	k, err := statement.ParseKey(b.Key)
	if err != nil {
		return err
	}
	if d := b.Until.Sub(l.now()); d <= 0 || d > maxTokenLife {
		return bulwark.Invalid("A token is good for at most a year.", "Give a shorter time with --expires, such as 30d.")
	}
	if b.Token == "" || b.Name == "" || len(b.Name) > 100 || len(b.Scopes) == 0 || len(b.Scopes) > maxScopes {
		return bulwark.Invalid("A token has a name of at most 100 characters and between 1 and 50 scopes.", "")
	}
	for _, s := range b.Scopes {
		org, project, err := appPlace(tx, s.App)
		if err != nil {
			return err
		}
		if !right.Has(p.Grants, org, project, bulwark.Owner, bulwark.Developer, bulwark.Viewer, bulwark.Auditor) {
			return bulwark.NoSuchApp()
		}
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM access_token WHERE person = ? AND ended = 0 AND until > ?`, p.Person, l.now().Unix()).Scan(&n); err != nil {
		return err
	}
	if n >= maxTokens {
		return bulwark.Failf(bulwark.KindTooLarge, "You have %d tokens; at most that many are kept.", n)
	}
	scopes, err := json.Marshal(b.Scopes)
	if err != nil {
		return err
	}
	// A key has one meaning: one that is a device's cannot be a token's too.
	if _, _, err := key(tx, "device", k.Fingerprint); bulwark.KindOf(err) != bulwark.KindForbidden {
		return bulwark.Fail(bulwark.KindConflict, "The token's key is a device's.", "", err)
	}
	if _, err := tx.Exec(`INSERT INTO access_token (id, name, fingerprint, public, person, scopes, until) VALUES (?,?,?,?,?,?,?)`,
		b.Token, b.Name, k.Fingerprint, k.PKIX(), p.Person, string(scopes), b.Until.Unix()); err != nil {
		return conflictOn(err, "There is such a token already.")
	}
	return nil
}

func revokeToken(tx *sql.Tx, p *Principal, b statement.TokenRevoke) error {
	var person bulwark.PersonID
	var scopes string
	err := tx.QueryRow(`SELECT person, scopes FROM access_token WHERE id = ? AND ended = 0`, b.Token).Scan(&person, &scopes)
	if errors.Is(err, sql.ErrNoRows) {
		return noSuchToken()
	}
	if err != nil {
		return err
	}
	if person != p.Person {
		var all []statement.Scope
		if err := json.Unmarshal([]byte(scopes), &all); err != nil {
			return err
		}
		reach := false
		for _, s := range all {
			// In its grace too: the token would be there again when the app is.
			if app, org, _, err := keptApp(tx, s.App); err == nil && right.Has(p.Grants, org, app.Project, bulwark.Owner) {
				reach = true
			}
		}
		if !reach {
			return noSuchToken()
		}
	}
	_, err = tx.Exec(`UPDATE access_token SET ended = 1 WHERE id = ?`, b.Token)
	return err
}

func noSuchToken() error {
	return bulwark.Fail(bulwark.KindNotFound, "There is no such token, or it has ended.", "See bulwark tokens list.", nil)
}

// useInvitation spends the invitation whose key signed the proof, and returns the role that comes with it. Its inviter must
// still be somebody who may invite.
func (l *Ledger) useInvitation(tx *sql.Tx, e *statement.Enroll) (right.Grant, error) {
	var g right.Grant
	var public []byte
	var inviter bulwark.PersonID
	var until int64
	var name string
	err := tx.QueryRow(`SELECT public, name, org, project, role, inviter, until FROM invitation WHERE fingerprint = ? AND ended = 0`, e.Invitation).
		Scan(&public, &name, &g.Org, &g.Project, &g.Role, &inviter, &until)
	if errors.Is(err, sql.ErrNoRows) {
		return g, bulwark.Fail(bulwark.KindForbidden, "The invitation is not valid: it was used, or withdrawn, before.", "Ask for a new one: bulwark members add.", nil)
	}
	if err != nil {
		return g, err
	}
	k, err := statement.ParseKey(public)
	if err != nil {
		return g, err
	}
	if !enrol.Invited(k.Ed25519, e.Device, e.Proof) {
		return g, bulwark.Failf(bulwark.KindForbidden, "The invitation's signature does not match.")
	}
	if l.now().Unix() >= until {
		return g, bulwark.Fail(bulwark.KindForbidden, "The invitation has expired.", "Ask for a new one: bulwark members add.", nil)
	}
	of, err := grants(tx, inviter)
	if err != nil {
		return g, err
	}
	if !right.Has(of, g.Org, g.Project, right.Rules()[statement.KindMemberInvite].Roles...) {
		return g, bulwark.Fail(bulwark.KindForbidden, "Who invited you may not do so any more.", "Ask another owner for an invitation.", nil)
	}
	if name != "" {
		e.Name = name // by which the owners know them; two people cannot be mistaken for each other by a name that they chose
	}
	_, err = tx.Exec(`UPDATE invitation SET ended = 1 WHERE fingerprint = ?`, e.Invitation)
	return g, err
}

// still refuses what was accepted from somebody who may not sign for it any more: between a push and its release somebody may
// have been removed, or a token revoked.
func (l *Ledger) still(tx *sql.Tx, r *Receipt) error {
	kind := "device"
	if r.Kind == statement.KindPush {
		kind = "ssh"
	}
	p, _, err := l.who(tx, kind, r.Key)
	if err != nil {
		return err
	}
	if p.Token != "" && !scoped(p, right.Rules()[r.Kind], r.App) {
		return notAllowed(r.Kind)
	}
	if err := l.onApp(tx, p, r.App, r.Kind); err != nil || r.Kind != statement.KindDeploy {
		return err
	}
	var b statement.Deploy
	if err := statement.Strict(r.Body, &b); err != nil {
		return err
	}
	return l.onImport(tx, p, r.App, b)
}

// Still refuses an accepted document whose signer may not sign for it any more: a build that waited must not get what was set
// since, such as build secrets that were changed because somebody left.
func (l *Ledger) Still(ctx context.Context, r *Receipt) error {
	return l.db.Tx(ctx, func(tx *sql.Tx) error { return l.still(tx, r) })
}

// Expire ends for ever what has expired, so that a clock that is set back revives nothing.
func (l *Ledger) Expire(ctx context.Context) error {
	return l.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, q := range []string{`UPDATE access_token SET ended = 1 WHERE ended = 0 AND until <= ?`, `UPDATE invitation SET ended = 1 WHERE ended = 0 AND until <= ?`,
			`DELETE FROM token WHERE used = 0 AND until <= ?`} {
			if _, err := tx.Exec(q, l.now().Unix()); err != nil {
				return err
			}
		}
		return nil
	})
}
