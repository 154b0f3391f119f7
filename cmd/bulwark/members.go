package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/enrol"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

type memberFlags struct {
	org, project, role string
	expires            string
}

func (f *memberFlags) place(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.org, "org", "", "organisation, if you belong to several")
	cmd.Flags().StringVar(&f.project, "project", "", "in this project alone")
	return cmd
}

func (f *memberFlags) roles(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.role, "role", "", "owner, developer, viewer or auditor")
	if err := cmd.MarkFlagRequired("role"); err != nil {
		panic(err) // the flag was made one line above
	}
	if err := cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"owner", "developer", "viewer", "auditor"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
	return f.place(cmd)
}

func (c *cli) membersCommand() *cobra.Command {
	var f memberFlags
	add := f.roles(command("add NAME", "Invite somebody", "  $ bulwark members add ana@example.org --role developer", exactly(1, "who it is for"),
		func(ctx context.Context, args []string) error { return c.invite(ctx, args[0], f) }))
	add.Long = `Makes an invitation: whoever has it becomes a person of the installation, with the role, by "bulwark login" and the invitation in
place of a token. It is good once. Send it by a way of your own: the server never sees it, and so cannot take it up.`
	add.Flags().StringVar(&f.expires, "expires", "7d", "how long the invitation is good: 12h, 7d")
	set := f.roles(command("set PERSON", "Give somebody who has signed in another role", "  $ bulwark members set p_8s… --role viewer", exactly(1, "a person, as bulwark members lists them"),
		func(ctx context.Context, args []string) error { return c.setMember(ctx, args[0], f) }))
	remove := f.place(command("remove PERSON", "Take a role away, at once", "  $ bulwark members remove p_8s…", exactly(1, "a person, as bulwark members lists them"),
		func(ctx context.Context, args []string) error { return c.removeMember(ctx, args[0], f) }))
	withdraw := f.place(command("withdraw NAME", "Withdraw an invitation that nobody has taken up", "  $ bulwark members withdraw ana@example.org",
		exactly(1, "whom it is for, as bulwark members lists it"), func(ctx context.Context, args []string) error { return c.withdraw(ctx, args[0], f) }))
	leave := f.place(command("leave", "Give up your own role", "  $ bulwark members leave --org acme", exactly(0, ""),
		func(ctx context.Context, _ []string) error { return c.removeMember(ctx, "", f) }))
	show := func(ctx context.Context, _ []string) error { return c.listMembers(ctx, f.org) }
	ls := command("list", "List who belongs to an organisation", "  $ bulwark members list", exactly(0, ""), show)
	ls.Flags().StringVar(&f.org, "org", "", "organisation, if you belong to several")
	return group("members", "Invite and list people, and change their roles", "  $ bulwark members\n  $ bulwark members add ana@example.org --role developer", show,
		ls, add, withdraw, set, remove, leave)
}

func (c *cli) listMembers(ctx context.Context, org string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	o, err := s.org(ctx, org)
	if err != nil {
		return err
	}
	all, err := s.Members(ctx, o.ID)
	if err != nil {
		return err
	}
	return c.result(list(all), func() {
		c.head("Members of %s", o.Name)
		var rows [][]string
		for _, m := range all {
			where := "all projects"
			for _, p := range o.Projects {
				if p.ID == m.Project {
					where = "project " + string(p.Name)
				}
			}
			state := string(m.Person)
			if m.Invited != nil {
				state = "invited until " + m.Invited.Format(time.DateTime)
			}
			rows = append(rows, []string{clean(m.Name), string(m.Role), where, state})
		}
		c.table(rows)
	})
}

// invitation is what members add leads to.
type invitation struct {
	Name       string       `json:"name"`
	Role       bulwark.Role `json:"role"`
	Invitation string       `json:"invitation"`
	Until      time.Time    `json:"until"`
}

func (c *cli) invite(ctx context.Context, name string, f memberFlags) error {
	role, err := bulwark.ParseRole(f.role)
	if err != nil {
		return usage(err)
	}
	life, err := parseLife(f.expires)
	if err != nil {
		return err
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	_, at, err := s.within(ctx, f.org, f.project)
	if err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	until := c.now().Add(life).UTC().Truncate(time.Second)
	signed, err := s.sign(statement.KindMemberInvite, "", statement.MemberInvite{Place: at, Role: role, Name: name,
		Key: statement.NewKey(key.Public().(ed25519.PublicKey)).PKIX(), Until: until})
	if err != nil {
		return err
	}
	if err := c.during("Inviting "+name, func() error { return s.ChangeMembers(ctx, at, signed) }); err != nil {
		return err
	}
	text := enrol.FormatInvitation(s.server.key().Ed25519, key)
	return c.result(invitation{Name: name, Role: role, Invitation: text, Until: until}, func() {
		c.say("Send %s this invitation, which is good once, until %s:", name, until.Format(time.DateTime))
		c.say("  %s", text)
		c.say("It is taken up with: bulwark login %s", s.server.URL)
	})
}

// withdraw ends all open invitations to a place that are for somebody.
func (c *cli) withdraw(ctx context.Context, name string, f memberFlags) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	o, at, err := s.within(ctx, f.org, f.project)
	if err != nil {
		return err
	}
	all, err := s.Members(ctx, o.ID)
	if err != nil {
		return err
	}
	withdrawn := []client.Member{}
	for _, m := range all {
		if m.Invited == nil || m.Name != name || at.Project != "" && m.Project != at.Project {
			continue
		}
		signed, err := s.sign(statement.KindMemberUninvite, "", statement.MemberUninvite{Place: at, Invitation: m.Invitation})
		if err != nil {
			return err
		}
		if err := c.during("Withdrawing the invitation", func() error { return s.ChangeMembers(ctx, at, signed) }); err != nil {
			return err
		}
		withdrawn = append(withdrawn, m)
	}
	if len(withdrawn) == 0 {
		return bulwark.Fail(bulwark.KindNotFound, "No invitation for "+name+" is open there.", "See bulwark members. Whoever has taken one up: bulwark members remove.", nil)
	}
	return c.result(withdrawn, func() { c.say("Withdrawn: nobody can sign in with the invitation for %s any more.", name) })
}

// changed is what a change of members was about.
type changedMember struct {
	Person bulwark.PersonID `json:"person"`
	Role   bulwark.Role     `json:"role,omitempty"`
}

func (c *cli) setMember(ctx context.Context, person string, f memberFlags) error {
	role, err := bulwark.ParseRole(f.role)
	if err != nil {
		return usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	o, at, err := s.within(ctx, f.org, f.project)
	if err != nil {
		return err
	}
	id, err := s.member(ctx, o, person)
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindMemberSet, "", statement.MemberSet{Place: at, Person: id, Role: role})
	if err != nil {
		return err
	}
	if err := c.during("Changing the role", func() error { return s.ChangeMembers(ctx, at, signed) }); err != nil {
		return err
	}
	return c.result(changedMember{Person: id, Role: role}, func() { c.say("%s is %s now.", person, role) })
}

func (c *cli) removeMember(ctx context.Context, person string, f memberFlags) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	o, at, err := s.within(ctx, f.org, f.project)
	if err != nil {
		return err
	}
	me, err := s.Whoami(ctx)
	if err != nil {
		return err
	}
	id := me.Person
	if person != "" {
		if id, err = s.member(ctx, o, person); err != nil {
			return err
		}
	}
	signed, err := s.sign(statement.KindMemberRemove, "", statement.MemberRemove{Place: at, Person: id})
	if err != nil {
		return err
	}
	if err := c.during("Taking the role away", func() error {
		if id == me.Person {
			return s.Leave(ctx, at.Org, signed)
		}
		return s.ChangeMembers(ctx, at, signed)
	}); err != nil {
		return err
	}
	return c.result(changedMember{Person: id}, func() { c.say("Done. The app keeps running; what they have open ends, and nothing new is taken.") })
}

// member finds somebody by their id, or by their name if it is one person's.
func (s *session) member(ctx context.Context, o client.Org, text string) (bulwark.PersonID, error) {
	var id bulwark.PersonID
	if id.UnmarshalText([]byte(text)) == nil {
		return id, nil
	}
	all, err := s.Members(ctx, o.ID)
	if err != nil {
		return "", err
	}
	for _, m := range all {
		switch {
		case m.Name != text || m.Person == "" || m.Person == id:
		case id != "":
			return "", misuse("Several people are called "+text+".", "Give the person's id, as bulwark members lists it.")
		default:
			id = m.Person
		}
	}
	if id == "" {
		hint := "See bulwark members."
		if slices.ContainsFunc(all, func(m client.Member) bool { return m.Name == text && m.Invited != nil }) {
			hint = "There is an invitation that nobody has taken up: bulwark members withdraw " + text
		}
		return "", bulwark.Fail(bulwark.KindNotFound, "Nobody who belongs to "+string(o.Name)+" is called "+text+".", hint, nil)
	}
	return id, nil
}
