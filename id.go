package bulwark

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
)

// Ids are opaque: a prefix that tells the kind and 26 characters that say nothing (128 random bits). They are safe in
// a file name, a URL, a control group's name and a log line, and are never reused.
type (
	// OrgID names an organisation: people with their roles, and projects.
	OrgID string
	// ProjectID names a project: the tenant that owns apps. Every row of the store carries one.
	ProjectID string
	// AppID names an app for ever, while its AppName may pass on to another app after a destroy.
	AppID string
	// BuildID names one run of a builder.
	BuildID string
	// InstanceID names one running copy of a process type of a release.
	InstanceID string
	// StatementID names a statement that a person signed; the person's machine chooses it.
	StatementID string
	// PersonID names a person by pseudonym.
	PersonID string
	// OperationID names a piece of work on an app: a deploy, a rollback, a config change. Its record is also its lock.
	OperationID string
	// TokenID names an access token: a key that does in its maker's name what its scopes say.
	TokenID string
)

// The prefixes of the ids, one a kind.
const (
	prefixOrg       = "org_"
	prefixProject   = "prj_"
	prefixApp       = "app_"
	prefixBuild     = "bld_"
	prefixInstance  = "ins_"
	prefixStatement = "st_"
	prefixPerson    = "p_"
	prefixOperation = "op_"
	prefixToken     = "tok_"
)

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

func newID(prefix string) string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	return prefix + idEncoding.EncodeToString(b[:])
}

func parseID(prefix, what, s string) error {
	rest, ok := strings.CutPrefix(s, prefix)
	if ok && len(rest) == 26 {
		if b, err := idEncoding.DecodeString(rest); err == nil && idEncoding.EncodeToString(b) == rest {
			return nil
		}
	}
	return Invalid(fmt.Sprintf("%s is not the id of %s.", quote(s), what), "")
}

// The organisation and the project that every installation begins with. The first one's owners run the installation.
const (
	FirstOrg     = OrgID(prefixOrg + "00000000000000000000000000")
	FirstProject = ProjectID(prefixProject + "00000000000000000000000000")
)

// The organisation and the project of the prober, which attacks the installation from within as a tenant of its own.
const (
	PostureOrg     = OrgID(prefixOrg + "00000000000000000000000004")
	PostureProject = ProjectID(prefixProject + "00000000000000000000000004")
)

// NewOrgID returns a fresh id.
func NewOrgID() OrgID { return OrgID(newID(prefixOrg)) }

// NewTokenID returns a fresh id.
func NewTokenID() TokenID { return TokenID(newID(prefixToken)) }

// NewProjectID returns a fresh id.
func NewProjectID() ProjectID { return ProjectID(newID(prefixProject)) }

// NewAppID returns a fresh id.
func NewAppID() AppID { return AppID(newID(prefixApp)) }

// NewBuildID returns a fresh id.
func NewBuildID() BuildID { return BuildID(newID(prefixBuild)) }

// NewInstanceID returns a fresh id.
func NewInstanceID() InstanceID { return InstanceID(newID(prefixInstance)) }

// NewStatementID returns a fresh id.
func NewStatementID() StatementID { return StatementID(newID(prefixStatement)) }

// NewPersonID returns a fresh id.
func NewPersonID() PersonID { return PersonID(newID(prefixPerson)) }

// NewOperationID returns a fresh id.
func NewOperationID() OperationID { return OperationID(newID(prefixOperation)) }

// ParseAppID checks s.
func ParseAppID(s string) (AppID, error) { return AppID(s), parseID(prefixApp, "an app", s) }

// ParseBuildID checks s.
func ParseBuildID(s string) (BuildID, error) { return BuildID(s), parseID(prefixBuild, "a build", s) }

// ParseInstanceID checks s.
func ParseInstanceID(s string) (InstanceID, error) {
	return InstanceID(s), parseID(prefixInstance, "an instance", s)
}

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *OrgID) UnmarshalText(b []byte) error { return idInto(id, prefixOrg, "an organisation", b) }

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *TokenID) UnmarshalText(b []byte) error { return idInto(id, prefixToken, "a token", b) }

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *ProjectID) UnmarshalText(b []byte) error { return idInto(id, prefixProject, "a project", b) }

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *AppID) UnmarshalText(b []byte) error { return idInto(id, prefixApp, "an app", b) }

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *BuildID) UnmarshalText(b []byte) error { return idInto(id, prefixBuild, "a build", b) }

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *InstanceID) UnmarshalText(b []byte) error {
	return idInto(id, prefixInstance, "an instance", b)
}

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *StatementID) UnmarshalText(b []byte) error {
	return idInto(id, prefixStatement, "a statement", b)
}

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *PersonID) UnmarshalText(b []byte) error { return idInto(id, prefixPerson, "a person", b) }

// UnmarshalText implements [encoding.TextUnmarshaler]; an id that is not well formed is refused.
func (id *OperationID) UnmarshalText(b []byte) error {
	return idInto(id, prefixOperation, "an operation", b)
}

func idInto[T ~string](dst *T, prefix, what string, b []byte) error {
	if err := parseID(prefix, what, string(b)); err != nil {
		return err
	}
	*dst = T(b)
	return nil
}
