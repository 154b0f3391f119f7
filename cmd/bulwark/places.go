package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (c *cli) orgsCommand() *cobra.Command {
	create := command("create NAME", "Make an organisation, whose first owner you are", "  $ bulwark orgs create acme", exactly(1, "the name of the organisation"), c.createOrg)
	create.Long = `Makes an organisation: people with their roles, and projects, apart from all others. Only the owners of the first
organisation, who run the installation, can make one.`
	return group("orgs", "Make and list organisations", "  $ bulwark orgs\n  $ bulwark orgs create acme", c.listOrgs,
		command("list", "List the organisations that you belong to", "  $ bulwark orgs list", exactly(0, ""), c.listOrgs), create)
}

func (c *cli) projectsCommand() *cobra.Command {
	var org string
	create := command("create NAME", "Make a project of an organisation's", "  $ bulwark projects create shop --org acme", exactly(1, "the name of the project"),
		func(ctx context.Context, args []string) error { return c.createProject(ctx, org, args[0]) })
	create.Flags().StringVar(&org, "org", "", "organisation, if you belong to several")
	rotate := command("rotate NAME", "Make a new key for the values of a project", "  $ bulwark projects rotate main", exactly(1, "the name of the project"),
		func(ctx context.Context, args []string) error { return c.rotateProject(ctx, org, args[0]) })
	rotate.Long = `Has the node make a new key for a project, seal all its config values and build secrets to it, and throw the old key
away. Nothing is deployed or restarted. The node does this by itself when a key becomes too old, after 90 days unless the
operator says otherwise (bulwark up --key-age); do it by hand after somebody may have seen the node's disk or a backup of it,
and then set anew what was secret, since what an old copy of the disk holds opens with the old key for ever.`
	rotate.Flags().StringVar(&org, "org", "", "organisation, if you belong to several")
	return group("projects", "Make and list projects, and their keys", "  $ bulwark projects\n  $ bulwark projects create shop", c.listProjects,
		command("list", "List the projects that you belong to, and how old their keys are", "  $ bulwark projects list", exactly(0, ""), c.listProjects), create, rotate)
}

func (c *cli) listOrgs(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	orgs, err := s.Orgs(ctx)
	if err != nil {
		return err
	}
	return c.result(list(orgs), func() {
		if len(orgs) == 0 {
			c.empty("You belong to no organisation. An owner lets you in with bulwark members set.")
			return
		}
		c.head("Organisations")
		var rows [][]string
		for _, o := range orgs {
			var names []string
			for _, p := range o.Projects {
				names = append(names, string(p.Name))
			}
			rows = append(rows, []string{string(o.Name), string(o.Role), "projects: " + strings.Join(names, ", ")})
		}
		c.table(rows)
	})
}

func (c *cli) createOrg(ctx context.Context, args []string) error {
	name, err := bulwark.ParseOrgName(args[0])
	if err != nil {
		return usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	org := statement.OrgCreate{Org: bulwark.NewOrgID(), Name: name}
	signed, err := s.sign(statement.KindOrgCreate, "", org)
	if err != nil {
		return err
	}
	if err := c.during("Making the organisation", func() error { return s.CreateOrg(ctx, signed) }); err != nil {
		return err
	}
	return c.result(client.Org{ID: org.Org, Name: name, Role: bulwark.Owner, Projects: []client.Project{}}, func() {
		c.say("Made the organisation %s. You are its owner. Next: bulwark projects create NAME --org %s", name, name)
	})
}

func (c *cli) createProject(ctx context.Context, org, text string) error {
	name, err := bulwark.ParseProjectName(text)
	if err != nil {
		return usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	o, err := s.org(ctx, org)
	if err != nil {
		return err
	}
	p := statement.ProjectCreate{Project: bulwark.NewProjectID(), Org: o.ID, Name: name}
	signed, err := s.sign(statement.KindProjectCreate, "", p)
	if err != nil {
		return err
	}
	if err := c.during("Making the project", func() error { return s.CreateProject(ctx, o.ID, signed) }); err != nil {
		return err
	}
	return c.result(client.Project{ID: p.Project, Name: name}, func() {
		c.say("Made the project %s of %s. Next: bulwark apps create NAME --project %s/%s", name, o.Name, o.Name, name)
	})
}

// org returns the organisation of a name, or the only one that the person belongs to.
func (s *session) org(ctx context.Context, name string) (client.Org, error) {
	orgs, err := s.Orgs(ctx)
	if err != nil {
		return client.Org{}, err
	}
	if name == "" && len(orgs) == 1 {
		return orgs[0], nil
	}
	if name == "" && len(orgs) > 1 {
		return client.Org{}, misuse("Which organisation? You belong to several.", "Give it with --org NAME; bulwark orgs lists them.")
	}
	if i := slices.IndexFunc(orgs, func(o client.Org) bool { return string(o.Name) == name }); i >= 0 {
		return orgs[i], nil
	}
	return client.Org{}, bulwark.Fail(bulwark.KindNotFound, "You belong to no such organisation.", "See bulwark orgs.", nil)
}

// within returns an organisation, or a project of it.
func (s *session) within(ctx context.Context, org, project string) (client.Org, statement.Place, error) {
	o, err := s.org(ctx, org)
	at := statement.Place{Org: o.ID}
	if err != nil || project == "" {
		return o, at, err
	}
	i := slices.IndexFunc(o.Projects, func(p client.Project) bool { return string(p.Name) == project })
	if i < 0 {
		return o, at, bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There is no project %s in %s, or you do not belong to it.", project, o.Name), "See bulwark projects.", nil)
	}
	at.Project = o.Projects[i].ID
	return o, at, nil
}

// projectFor returns the project that ORG/PROJECT or PROJECT names; without a name the only one, or the first organisation's.
func (s *session) projectFor(ctx context.Context, name string) (bulwark.ProjectID, error) {
	if name != "" {
		org, project, ok := strings.Cut(name, "/")
		if !ok {
			org, project = "", name
		}
		_, at, err := s.within(ctx, org, project)
		return at.Project, err
	}
	orgs, err := s.Orgs(ctx)
	if err != nil {
		return "", err
	}
	var all []bulwark.ProjectID
	for _, o := range orgs {
		for _, p := range o.Projects {
			if p.ID == bulwark.FirstProject {
				return p.ID, nil
			}
			all = append(all, p.ID)
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return "", misuse("Which project does the app belong to?", "Give it with --project ORG/PROJECT; bulwark projects lists those that you belong to.")
}

// roles are somebody's roles as a line for people.
func (c *cli) roles(ctx context.Context, s *session, me client.Me) string {
	orgs, err := s.Orgs(ctx)
	if err != nil || len(me.Roles) == 0 {
		return "none"
	}
	var words []string
	for _, g := range me.Roles {
		where := string(g.Org)
		for _, o := range orgs {
			if o.ID != g.Org {
				continue
			}
			where = string(o.Name)
			for _, p := range o.Projects {
				if p.ID == g.Project {
					where += "/" + string(p.Name)
				}
			}
		}
		words = append(words, fmt.Sprintf("%s of %s", g.Role, where))
	}
	return strings.Join(words, ", ")
}
