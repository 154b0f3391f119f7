package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/right"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Me is who is signed in.
type Me struct {
	Person bulwark.PersonID  `json:"person"`
	Token  bulwark.TokenID   `json:"token,omitempty" doc:"set if it is an access token of the person's"`
	Scopes []statement.Scope `json:"scopes,omitempty"`
	Roles  []right.Grant     `json:"roles,omitempty"`
}

// Org is an organisation that the caller belongs to.
type Org struct {
	ID       bulwark.OrgID   `json:"id"`
	Name     bulwark.OrgName `json:"name"`
	Role     bulwark.Role    `json:"role,omitempty" doc:"empty for who belongs to some of its projects alone"`
	Projects []Project       `json:"projects"`
}

// Project is a project of an organisation's.
type Project struct {
	ID   bulwark.ProjectID   `json:"id"`
	Name bulwark.ProjectName `json:"name"`
}

// Member is somebody's role in a place.
type Member struct {
	Person  bulwark.PersonID  `json:"person,omitempty" doc:"empty for an invitation that nobody has taken up yet"`
	Name    string            `json:"name"`
	Project bulwark.ProjectID `json:"project,omitempty" doc:"empty for the whole organisation"`
	Role    bulwark.Role      `json:"role"`
	Invited *time.Time        `json:"invited_until,omitempty" doc:"an invitation that nobody has taken up yet"`
	// Invitation names it in a statement that withdraws it.
	Invitation string `json:"invitation,omitempty" doc:"the fingerprint of its key"`
}

// Token is an access token.
type Token struct {
	ID     bulwark.TokenID  `json:"id"`
	Name   string           `json:"name"`
	Person bulwark.PersonID `json:"person"`
	Scopes []string         `json:"scopes" doc:"deploy:shop"`
	Until  time.Time        `json:"until"`
	Ended  bool             `json:"ended,omitempty"`
	Used   *time.Time       `json:"used,omitempty" doc:"when it was used last, as far as is known"`
}

// Explanation is why something is allowed or refused.
type Explanation struct {
	Allowed  bool          `json:"allowed"`
	Reasons  []string      `json:"reasons,omitempty" doc:"the policies that decided; none: no policy permits it"`
	Roles    []right.Grant `json:"roles,omitempty"`
	Document string        `json:"document,omitempty" doc:"the policies themselves"`
}

// Orgs lists the organisations that the caller belongs to, with their projects.
func (c *Client) Orgs(ctx context.Context) ([]Org, error) {
	return ask[[]Org](ctx, c, http.MethodGet, "/orgs", nil)
}

// CreateOrg takes a statement of kind org.create.
func (c *Client) CreateOrg(ctx context.Context, s Signed) error {
	return c.call(ctx, http.MethodPost, "/orgs", s, nil)
}

// RotateProject takes a statement of kind project.rotate.
func (c *Client) RotateProject(ctx context.Context, org bulwark.OrgID, project bulwark.ProjectID, s Signed) error {
	return c.call(ctx, http.MethodPost, "/orgs/"+esc(string(org))+"/projects/"+esc(string(project))+"/rotate", s, nil)
}

// CreateProject takes a statement of kind project.create.
func (c *Client) CreateProject(ctx context.Context, org bulwark.OrgID, s Signed) error {
	return c.call(ctx, http.MethodPost, "/orgs/"+esc(string(org))+"/projects", s, nil)
}

// Members lists who belongs to an organisation or to projects of it.
func (c *Client) Members(ctx context.Context, org bulwark.OrgID) ([]Member, error) {
	return ask[[]Member](ctx, c, http.MethodGet, "/orgs/"+esc(string(org))+"/members", nil)
}

// ChangeMembers takes a statement of kind member.invite, member.uninvite, member.set or member.remove about a place.
func (c *Client) ChangeMembers(ctx context.Context, at statement.Place, s Signed) error {
	if at.Project != "" {
		return c.call(ctx, http.MethodPost, "/projects/"+esc(string(at.Project))+"/members", s, nil)
	}
	return c.call(ctx, http.MethodPost, "/orgs/"+esc(string(at.Org))+"/members", s, nil)
}

// Leave takes a statement of kind member.remove about the caller.
func (c *Client) Leave(ctx context.Context, org bulwark.OrgID, s Signed) error {
	return c.call(ctx, http.MethodPost, "/orgs/"+esc(string(org))+"/leave", s, nil)
}

// Tokens lists the caller's access tokens.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return ask[[]Token](ctx, c, http.MethodGet, "/tokens", nil)
}

// ChangeTokens takes a statement of kind token.create or token.revoke.
func (c *Client) ChangeTokens(ctx context.Context, s Signed) error {
	return c.call(ctx, http.MethodPost, "/tokens", s, nil)
}

// Explain says why a person may do something to an app or not; an empty person is the caller, an empty app the installation.
func (c *Client) Explain(ctx context.Context, action string, app bulwark.AppName, person bulwark.PersonID) (Explanation, error) {
	q := url.Values{"action": {action}}
	if app != "" {
		q.Set("app", string(app))
	}
	if person != "" {
		q.Set("as", string(person))
	}
	return ask[Explanation](ctx, c, http.MethodGet, "/policy?"+q.Encode(), nil)
}

// Policies returns the policies as a document.
func (c *Client) Policies(ctx context.Context) (string, error) {
	e, err := ask[Explanation](ctx, c, http.MethodGet, "/policy?document=true", nil)
	return e.Document, err
}
