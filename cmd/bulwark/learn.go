package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// learn shows, as a difference, which exclusions an app's own traffic would need, or takes those that look ordinary.
func (c *cli) learn(ctx context.Context, args []string) error {
	if len(args) != 1 || args[0] != "show" && args[0] != "accept" {
		return misuse("What of learned exclusions?", "Say learn show, or learn accept.")
	}
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	v, err := s.Shield(ctx, name)
	if err != nil {
		return err
	}
	if args[0] == "accept" {
		var take []bulwark.Exclusion
		for _, l := range v.Hour.Learned {
			if l.Ordinary() {
				take = append(take, l.Exclusion)
			}
		}
		if len(take) == 0 {
			return bulwark.Fail(bulwark.KindNotFound, "Nothing that was learned looks ordinary.", "See bulwark shield learn show; exclude a rule by hand where you know better.", nil)
		}
		change := bulwark.ShieldChange{Exclude: take}
		return c.setting(ctx, s, name, app.ID, statement.KindShieldSet, statement.Shield{Change: change}, fmt.Sprintf("Shield of %s: %s.", name, change))
	}
	learned := v.Hour.Learned
	if learned == nil {
		learned = []bulwark.LearnedExclusion{}
	}
	return c.result(learned, func() {
		c.head("%s: what the firewall would have to leave alone", name)
		if len(learned) == 0 {
			c.empty("Nothing of the app's traffic looked like an attack.")
			return
		}
		var rows [][]string
		for _, l := range learned {
			sign := "+"
			if !l.Ordinary() {
				sign = "?"
			}
			rows = append(rows, []string{sign, "exclude " + l.String(), l.Message, strconv.Itoa(l.Requests) + " requests, " + strconv.Itoa(l.Answered) + " answered, " + strconv.Itoa(l.Clients) + " clients", l.Example})
		}
		c.table(rows)
		c.note("+ looks ordinary: several clients sent it, and the app answered. ? may be an attack. Take those with + by: bulwark shield %s learn accept", name)
	})
}
