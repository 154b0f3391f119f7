package bulwark

// Tenant is a part of an installation: whole organisations, and single projects of others. A query of the store takes one, and
// sees nothing outside. The empty one is nobody's.
type Tenant struct {
	Orgs     []OrgID
	Projects []ProjectID
}
