package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// maxCount is the largest number of instances that a person can mean.
const maxCount = 100

func (c *cli) psCommand() *cobra.Command {
	scale := c.forApp(command("scale TYPE=NUMBER...", "Set how many instances each process type has", "  $ bulwark ps scale web=3 worker=1",
		between(0, 1<<20, ""), c.scale))
	restart := c.forApp(command("restart", "Replace every instance, one after the other", "  $ bulwark ps restart", exactly(0, ""), c.restart))
	resize := c.forApp(command("resize TYPE=SIZE...", "Choose the limits of process types, which makes a new release",
		"  $ bulwark ps resize web=large worker=tiny", atLeast(1, "TYPE=SIZE"), c.resize))
	resize.Long = "Chooses the limits of process types. The sizes:\n\n" + sizes()
	return c.forApp(group("ps", "Show, scale and restart instances", "  $ bulwark ps\n  $ bulwark ps scale web=3 worker=1", c.listInstances, scale, restart, resize))
}

func sizes() string {
	var b strings.Builder
	for _, z := range []bulwark.Size{bulwark.SizeTiny, bulwark.SizeSmall, bulwark.SizeMedium, bulwark.SizeLarge} {
		l := z.Limits()
		fmt.Fprintf(&b, "  %-8s %9s memory  %.1f cores\n", z, size(l.Memory), float64(l.CPU)/1000)
	}
	return b.String()
}

func (c *cli) listInstances(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	instances, err := s.Instances(ctx, name)
	if err != nil {
		return err
	}
	return c.result(list(instances), func() {
		if len(instances) == 0 {
			c.empty("Nothing of %s runs.", name)
			return
		}
		c.showInstances(instances)
	})
}

// showInstances prints a section per process type, web first.
func (c *cli) showInstances(all []client.Instance) {
	byType := map[bulwark.ProcessType][]client.Instance{}
	for _, i := range all {
		byType[i.Process] = append(byType[i.Process], i)
	}
	types := slices.SortedFunc(maps.Keys(byType), func(a, b bulwark.ProcessType) int {
		if (a == bulwark.ProcessWeb) != (b == bulwark.ProcessWeb) {
			return map[bool]int{true: -1, false: 1}[a == bulwark.ProcessWeb]
		}
		return strings.Compare(string(a), string(b))
	})
	for n, p := range types {
		if n > 0 {
			fmt.Fprintln(c.stdout)
		}
		instances := byType[p]
		c.head("%s (%s): %s (%d)", p, instances[0].Size, instances[0].Command, len(instances))
		var rows [][]string
		for _, i := range instances {
			note := strings.TrimSuffix(i.Reason, ".")
			if p == bulwark.ProcessRun && i.Command != instances[0].Command { // each has its own
				note = strings.TrimSuffix(i.Command+": "+note, ": ")
			}
			if i.Crashes > 0 {
				note = strings.TrimPrefix(note+", crashed "+times(i.Crashes), ", ")
			}
			rows = append(rows, []string{i.Name, i.State, releaseName(i.Release), ago(c.now(), i.Since), note})
		}
		c.table(rows)
	}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return counted(n, "time")
}

func (c *cli) scale(ctx context.Context, args []string) error {
	wanted := map[bulwark.ProcessType]int{}
	err := pairs(args, "web=3", func(p bulwark.ProcessType, text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxCount {
			return bulwark.Invalid(quote(text)+" is not a number of instances.", fmt.Sprintf("It is from 0 to %d, for example web=3.", maxCount))
		}
		wanted[p] = n
		return nil
	})
	if err != nil {
		return err
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	var app client.App
	err = c.during("Scaling "+string(name), func() (err error) {
		if len(wanted) == 0 {
			app, err = s.App(ctx, name)
			return err
		}
		app, err = s.Scale(ctx, name, wanted)
		return err
	})
	if err != nil {
		return err
	}
	return c.result(app, func() { c.say("%s: %s", name, formation(app.Formation)) })
}

// pairs reads arguments of the form TYPE=VALUE, each type once.
func pairs(args []string, example string, f func(bulwark.ProcessType, string) error) error {
	seen := map[bulwark.ProcessType]bool{}
	for _, arg := range args {
		left, right, ok := strings.Cut(arg, "=")
		if !ok {
			return misuse(quote(arg)+" is not of the form TYPE=VALUE.", "Write it as in "+example+".")
		}
		p, err := bulwark.ParseProcessType(left)
		if err != nil {
			return usage(err)
		}
		if seen[p] {
			return misuse(fmt.Sprintf("The process type %s is given twice.", p), "Give each once.")
		}
		seen[p] = true
		if err := f(p, right); err != nil {
			return usage(err)
		}
	}
	return nil
}

func (c *cli) restart(ctx context.Context, _ []string) error {
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	op, err := s.Restart(ctx, name)
	if err != nil {
		return err
	}
	done, err := c.watch(ctx, s, name, op)
	if err != nil || c.json {
		return err
	}
	if done.Message != "" {
		c.say("%s", done.Message)
		return nil
	}
	c.say("Restarted %s.", name)
	return nil
}

func (c *cli) resize(ctx context.Context, args []string) error {
	body := statement.Resize{Sizes: map[bulwark.ProcessType]bulwark.Size{}}
	err := pairs(args, "web=large", func(p bulwark.ProcessType, text string) (err error) {
		body.Sizes[p], err = bulwark.ParseSize(text)
		return err
	})
	if err != nil {
		return err
	}
	return c.change(ctx, statement.KindResize, body, "Resizing")
}

// change signs and sends what makes a release, and shows it.
func (c *cli) change(ctx context.Context, kind statement.Kind, body any, what string) error {
	s, name, app, err := c.withApp(ctx)
	if err != nil {
		return err
	}
	signed, err := s.sign(kind, app.ID, body)
	if err != nil {
		return err
	}
	var op client.Operation
	err = c.during(what+" "+string(name), func() (err error) {
		op, err = s.Change(ctx, name, signed)
		return err
	})
	if err != nil {
		return err
	}
	return c.released(ctx, s, name, op)
}
