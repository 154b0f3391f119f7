// Package right says which role may sign for what: one table, which the node goes by when a statement comes, and which the
// server's policies are held to by a test.
//
// It promises that a kind of statement that is not in the table is allowed to nobody. It does no input or output and keeps no
// state. An attacker who could change it could give a role more; it is read by the node, so only its own code can.
package right

import (
	"slices"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// On is what a statement is about, and so whose role counts.
type On int

// What statements are about.
const (
	Self         On = iota + 1 // the signer's own: everybody may
	App                        // the project of an app, or its organisation
	Place                      // the organisation or project that the body names
	Installation               // the first organisation
)

// Rule is who may sign for a kind of statement.
type Rule struct {
	On    On
	Roles []bulwark.Role
	// Deed is the scope that a token needs; empty: no token may.
	Deed bulwark.Deed
}

func owners() []bulwark.Role     { return []bulwark.Role{bulwark.Owner} }
func developers() []bulwark.Role { return []bulwark.Role{bulwark.Owner, bulwark.Developer} }

// Rules returns the table.
func Rules() map[statement.Kind]Rule {
	return map[statement.Kind]Rule{
		statement.KindKeyAdd:       {On: Self},
		statement.KindKeyRemove:    {On: Self}, // of somebody else: the installation's owners
		statement.KindMemberRemove: {On: Self}, // of somebody else: the place's owners
		statement.KindTokenCreate:  {On: Self}, // never more than its maker may
		statement.KindTokenRevoke:  {On: Self}, // of somebody else: the owners of where it reaches

		statement.KindOrgCreate:      {On: Installation, Roles: owners()},
		statement.KindRegistryAllow:  {On: Installation, Roles: owners()},
		statement.KindRegistryRemove: {On: Installation, Roles: owners()},
		statement.KindPatchAdd:       {On: Installation, Roles: owners()},
		statement.KindPatchRemove:    {On: Installation, Roles: owners()},

		statement.KindProjectCreate:  {On: Place, Roles: owners()},
		statement.KindProjectRotate:  {On: Place, Roles: owners()}, // the organisation's
		statement.KindMemberInvite:   {On: Place, Roles: owners()},
		statement.KindMemberUninvite: {On: Place, Roles: owners()},
		statement.KindMemberSet:      {On: Place, Roles: owners()},
		statement.KindAppCreate:      {On: Place, Roles: developers()},

		statement.KindPush:         {On: App, Roles: developers(), Deed: bulwark.DeedDeploy},
		statement.KindDeploy:       {On: App, Roles: developers(), Deed: bulwark.DeedDeploy},
		statement.KindRollback:     {On: App, Roles: developers(), Deed: bulwark.DeedDeploy},
		statement.KindConfigSet:    {On: App, Roles: developers(), Deed: bulwark.DeedConfig},
		statement.KindBuildSecret:  {On: App, Roles: developers(), Deed: bulwark.DeedConfig},
		statement.KindConfigReveal: {On: App, Roles: developers()},
		statement.KindRun:          {On: App, Roles: developers(), Deed: bulwark.DeedRun},
		statement.KindResize:       {On: App, Roles: developers()},
		statement.KindDomainAdd:    {On: App, Roles: developers()},
		statement.KindDomainRemove: {On: App, Roles: developers()},
		statement.KindCertAdd:      {On: App, Roles: developers()},
		statement.KindCertRemove:   {On: App, Roles: developers()},
		statement.KindEgressAllow:  {On: App, Roles: owners()},
		statement.KindEgressDeny:   {On: App, Roles: developers()},
		statement.KindShieldSet:    {On: App, Roles: developers()},
		statement.KindAppDestroy:   {On: App, Roles: owners()},
		statement.KindAppRestore:   {On: App, Roles: owners()},
		statement.KindProtect:      {On: App, Roles: owners()},

		// No token: who approves is a person, and another than who brought it about.
		statement.KindApprove:        {On: App, Roles: developers()},
		statement.KindProtectApprove: {On: App, Roles: developers()},
	}
}

// Grant is a role somewhere: in all of an organisation if Project is empty.
type Grant struct {
	Org     bulwark.OrgID     `json:"org"`
	Project bulwark.ProjectID `json:"project,omitempty"`
	Role    bulwark.Role      `json:"role"`
}

// Covers tells whether a role there counts for a project of an organisation, or for the organisation if project is empty.
func (g Grant) Covers(org bulwark.OrgID, project bulwark.ProjectID) bool {
	return g.Org == org && (g.Project == "" || g.Project == project)
}

// Has tells whether grants give one of the roles in a place.
func Has(grants []Grant, org bulwark.OrgID, project bulwark.ProjectID, roles ...bulwark.Role) bool {
	return slices.ContainsFunc(grants, func(g Grant) bool { return g.Covers(org, project) && slices.Contains(roles, g.Role) })
}
