package statement

import (
	"time"

	"github.com/bulwark-paas/bulwark"
)

// OrgCreate makes an organisation. Its first owner is who signed.
type OrgCreate struct {
	Org  bulwark.OrgID   `json:"org"`
	Name bulwark.OrgName `json:"name"`
}

// ProjectCreate makes a project of an organisation's.
type ProjectCreate struct {
	Project bulwark.ProjectID   `json:"project"`
	Org     bulwark.OrgID       `json:"org"`
	Name    bulwark.ProjectName `json:"name"`
}

// ProjectRotate has the node make a new key for a project's values, and seal all that it holds to it.
type ProjectRotate struct {
	Project bulwark.ProjectID `json:"project"`
}

// Place is where a role counts: in an organisation with all its projects, or in one project alone.
type Place struct {
	Org     bulwark.OrgID     `json:"org"`
	Project bulwark.ProjectID `json:"project,omitempty"`
}

// MemberInvite lets the holder of a secret become a person of the installation, with a role. Key is the public half (PKIX,
// Ed25519) of a key that the inviter's machine made: its private half is the invitation, which goes to the invited person by
// another way than through the server, so that the server cannot take it up itself.
type MemberInvite struct {
	Place
	Role  bulwark.Role `json:"role"`
	Name  string       `json:"name"` // for people: whom it is for
	Key   []byte       `json:"key"`
	Until time.Time    `json:"until"`
}

// MemberUninvite withdraws an invitation that nobody has taken up. Invitation is the fingerprint of its key.
type MemberUninvite struct {
	Place
	Invitation string `json:"invitation"`
}

// MemberSet gives somebody who is a person of the installation a role, in place of the one that they have there.
type MemberSet struct {
	Place
	Person bulwark.PersonID `json:"person"`
	Role   bulwark.Role     `json:"role"`
}

// MemberRemove takes a role away. Everybody may leave.
type MemberRemove struct {
	Place
	Person bulwark.PersonID `json:"person"`
}

// TokenCreate makes an access token: a key of its own that signs statements within its scopes, in its maker's name and never
// with more rights than its maker has at that time.
type TokenCreate struct {
	Token  bulwark.TokenID `json:"token"`
	Name   string          `json:"name"`
	Key    []byte          `json:"key"` // PKIX, Ed25519
	Scopes []Scope         `json:"scopes"`
	Until  time.Time       `json:"until"`
}

// Scope is what a token may do to an app.
type Scope struct {
	Do  bulwark.Deed  `json:"do"`
	App bulwark.AppID `json:"app"`
}

// TokenRevoke ends a token for ever. Its maker may, and every owner of where it reaches.
type TokenRevoke struct {
	Token bulwark.TokenID `json:"token"`
}
