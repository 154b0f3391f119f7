package bulwark

import "fmt"

// Role is what somebody is in an organisation or a project.
type Role string

// The roles, from the one that may most. What each may is written in package right and in the server's policies.
const (
	Owner     Role = "owner"
	Developer Role = "developer"
	Viewer    Role = "viewer"
	Auditor   Role = "auditor"
)

// ParseRole checks s.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case Owner, Developer, Viewer, Auditor:
		return r, nil
	}
	return "", Invalid(fmt.Sprintf("%s is not a role.", quote(s)), "The roles are owner, developer, viewer and auditor.")
}

// UnmarshalText implements [encoding.TextUnmarshaler]; what is not a role is refused.
func (r *Role) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRole(string(b))
	return err
}

// Deed is what a token may be made for.
type Deed string

// The deeds.
const (
	DeedDeploy Deed = "deploy" // deploy, roll back
	DeedConfig Deed = "config" // set config variables and build secrets; reading them needs a person
	DeedRun    Deed = "run"    // commands in one-off instances
	DeedRead   Deed = "read"   // look at the app; every other deed brings it along
)

// ParseDeed checks s.
func ParseDeed(s string) (Deed, error) {
	switch d := Deed(s); d {
	case DeedDeploy, DeedConfig, DeedRun, DeedRead:
		return d, nil
	}
	return "", Invalid(fmt.Sprintf("%s is not what a token can be made for.", quote(s)), "A scope is deploy, config, run or read and an app: deploy:shop.")
}

// UnmarshalText implements [encoding.TextUnmarshaler]; what is not a deed is refused.
func (d *Deed) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDeed(string(b))
	return err
}
