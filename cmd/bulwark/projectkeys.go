package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// orgKeys is an organisation with the keys of its projects: the server says which projects there are, the node which keys.
type orgKeys struct {
	client.Org
	Projects []projectKey `json:"projects"`
}

type projectKey struct {
	client.Project
	Key *keyVersion `json:"key,omitempty"`
}

type keyVersion struct {
	Version uint64    `json:"version"`
	Since   time.Time `json:"since"`
}

func (c *cli) listProjects(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	orgs, err := s.Orgs(ctx)
	if err != nil {
		return err
	}
	info, err := s.infoNow(ctx)
	if err != nil {
		return err
	}
	out := []orgKeys{}
	var rows [][]string
	for _, o := range orgs {
		v := orgKeys{Org: o, Projects: []projectKey{}}
		for _, p := range o.Projects {
			k := projectKey{Project: p}
			text := "the node knows no key"
			if i := slices.IndexFunc(info.Projects, func(have statement.ProjectKey) bool { return have.Project == p.ID }); i >= 0 {
				k.Key = &keyVersion{info.Projects[i].Version, info.Projects[i].Since}
				text = fmt.Sprintf("key version %d, made %s", k.Key.Version, ago(c.now(), k.Key.Since))
			}
			v.Projects = append(v.Projects, k)
			rows = append(rows, []string{string(o.Name) + "/" + string(p.Name), text})
		}
		out = append(out, v)
	}
	return c.result(out, func() {
		if len(rows) == 0 {
			c.empty("You belong to no project. An owner lets you in with bulwark members set.")
			return
		}
		c.head("Projects")
		c.table(rows)
	})
}

func (c *cli) rotateProject(ctx context.Context, org, text string) error {
	name, err := bulwark.ParseProjectName(text)
	if err != nil {
		return usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	o, at, err := s.within(ctx, org, string(name))
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindProjectRotate, "", statement.ProjectRotate{Project: at.Project})
	if err != nil {
		return err
	}
	if err := c.during("Making a new key", func() error { return s.RotateProject(ctx, o.ID, at.Project, signed) }); err != nil {
		return err
	}
	info, err := s.infoNow(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(info.Projects, func(p statement.ProjectKey) bool { return p.Project == at.Project })
	if i < 0 {
		return bulwark.Failf(bulwark.KindForbidden, "The node has signed for no key of the project %s.", name)
	}
	k := keyVersion{info.Projects[i].Version, info.Projects[i].Since}
	return c.result(projectKey{Project: client.Project{ID: at.Project, Name: name}, Key: &k}, func() {
		c.say("%s/%s has a new key, version %d. All values were sealed to it, and the old key is gone; nothing has to be deployed.", o.Name, name, k.Version)
	})
}
