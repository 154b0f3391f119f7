package ledger

import (
	"context"
	"encoding/json"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Member is somebody's role in an organisation, or in a project of it.
type Member struct {
	Person  bulwark.PersonID
	Name    string
	Project bulwark.ProjectID
	Role    bulwark.Role
	Invited *time.Time // until when an invitation is good that nobody has taken up; Person is empty then
	// Invitation is its key's fingerprint.
	Invitation string
}

// Members returns who belongs to an organisation, and who is invited.
func (l *Ledger) Members(ctx context.Context, org bulwark.OrgID) ([]Member, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `
		SELECT m.person, p.name, m.project, m.role, 0, '' FROM member m JOIN person p ON p.id = m.person WHERE m.org = ?
		UNION ALL SELECT '', name, project, role, until, fingerprint FROM invitation WHERE org = ? AND ended = 0 AND until > ?
		ORDER BY 2, 1`, org, org, l.now().Unix())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Member
	for rows.Next() {
		var m Member
		var until int64
		if err := rows.Scan(&m.Person, &m.Name, &m.Project, &m.Role, &until, &m.Invitation); err != nil {
			return nil, err
		}
		if until > 0 {
			t := time.Unix(until, 0).UTC()
			m.Invited = &t
		}
		out = append(out, m)
	}
	return out, rows.Err()
}

// AccessToken is a token without its key.
type AccessToken struct {
	ID     bulwark.TokenID
	Name   string
	Person bulwark.PersonID
	Scopes []statement.Scope
	Until  time.Time
	Ended  bool // revoked, or expired
}

// Tokens returns a person's tokens, the newest last.
func (l *Ledger) Tokens(ctx context.Context, person bulwark.PersonID) ([]AccessToken, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT id, name, person, scopes, until, ended FROM access_token WHERE person = ? ORDER BY rowid`, person)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []AccessToken
	for rows.Next() {
		var t AccessToken
		var scopes string
		var until int64
		if err := rows.Scan(&t.ID, &t.Name, &t.Person, &scopes, &until, &t.Ended); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(scopes), &t.Scopes); err != nil {
			return nil, err
		}
		t.Until = time.Unix(until, 0).UTC()
		t.Ended = t.Ended || l.now().Unix() >= until
		out = append(out, t)
	}
	return out, rows.Err()
}
