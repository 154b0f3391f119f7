package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// noted is the effect of a statement that changes the node alone: an audit entry, which says whom or what it is about. People are
// named by their ids; what somebody is called is kept apart from the log.
func noted(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	on, detail := matter(r)
	return told(ctx, tx, r, on.Project, on, audit.Done, detail)
}

// matter is what a statement about people and keys is about. The node has verified it; what does not read here is no reason
// to write no entry.
func matter(r *nodeapi.Receipt) (access.Resource, string) {
	read := func(body any) bool { return json.Unmarshal(r.Body, body) == nil }
	switch r.Kind {
	case statement.KindProjectRotate:
		var b statement.ProjectRotate
		if read(&b) {
			return access.Project(b.Project), fmt.Sprintf("version %d of its key", r.Rotated)
		}
	case statement.KindMemberInvite:
		var b statement.MemberInvite
		if read(&b) {
			return place(b.Place), fmt.Sprintf("%s until %s by the invitation %s", b.Role, b.Until.UTC().Format("2006-01-02"), fingerprint(b.Key))
		}
	case statement.KindMemberUninvite:
		var b statement.MemberUninvite
		if read(&b) {
			return place(b.Place), "the invitation " + b.Invitation
		}
	case statement.KindMemberSet:
		var b statement.MemberSet
		if read(&b) {
			return place(b.Place), fmt.Sprintf("%s is %s", b.Person, b.Role)
		}
	case statement.KindMemberRemove:
		var b statement.MemberRemove
		if read(&b) {
			return place(b.Place), string(b.Person)
		}
	case statement.KindTokenCreate:
		var b statement.TokenCreate
		if read(&b) {
			var scopes []string
			for _, s := range b.Scopes {
				scopes = append(scopes, fmt.Sprintf("%s:%s", s.Do, s.App))
			}
			return access.Platform(), fmt.Sprintf("%s for %s until %s", b.Token, strings.Join(scopes, ","), b.Until.UTC().Format("2006-01-02"))
		}
	case statement.KindTokenRevoke:
		var b statement.TokenRevoke
		if read(&b) {
			return access.Platform(), string(b.Token)
		}
	case statement.KindKeyAdd:
		var b statement.KeyAdd
		if read(&b) && b.SSH != nil {
			if k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(b.SSH.Line)); err == nil {
				return access.Platform(), ssh.FingerprintSHA256(k)
			}
		} else if b.Device != nil {
			return access.Platform(), fingerprint(b.Device)
		}
	case statement.KindKeyRemove:
		var b statement.KeyRemove
		if read(&b) {
			return access.Platform(), b.Fingerprint
		}
	case statement.KindEnroll:
		var b statement.Enroll
		if read(&b) && b.Invitation != "" {
			return access.Platform(), "by the invitation " + b.Invitation
		}
	}
	return access.Platform(), ""
}

// fingerprint names a key in PKIX form.
func fingerprint(der []byte) string {
	k, err := statement.ParseKey(der)
	if err != nil {
		return "that cannot be read"
	}
	return k.Fingerprint
}

func place(p statement.Place) access.Resource {
	if p.Project != "" {
		on := access.Project(p.Project)
		on.Org = p.Org
		return on
	}
	return access.Org(p.Org)
}
