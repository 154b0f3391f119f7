package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/edge/waf"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// patchFlags are what a virtual patch is beside its rules.
type patchFlags struct {
	name, expires string
	dryRun        bool
}

func (c *cli) patchCommand() *cobra.Command {
	var f patchFlags
	add := command("add FILE", "Put a virtual patch over all apps", "  $ bulwark shield patch add cve-2026-1234.conf\n  $ bulwark shield patch add rules.conf --name cve-2026-1234 --dry-run",
		exactly(1, "a file of rules"), func(ctx context.Context, args []string) error { return c.addPatch(ctx, args[0], f) })
	add.Long = `Has the edge ask rules about every request to every app, from now on until the patch ends: a shield that is raised while the apps are
not mended yet. The file has rules in SecLang (SecRule, SecAction, SecMarker), with ids from 1000 on; a rule that matches refuses the request
unless it says "pass". "-" reads them from the standard input. A patch of the same name takes the place of the one before.

With --dry-run, what meets it is counted and shown, and passes. bulwark shield patch list says how often each was met.`
	add.Flags().StringVar(&f.name, "name", "", "name of the patch; else that of the file without its ending")
	add.Flags().StringVar(&f.expires, "expires", "30d", "how long it is needed: 12h, 30d, at most a year")
	add.Flags().BoolVar(&f.dryRun, "dry-run", false, "count what meets it, and let it pass")
	add.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	remove := command("remove NAME", "Take a virtual patch away", "  $ bulwark shield patch remove cve-2026-1234", exactly(1, "the name of a patch"),
		func(ctx context.Context, args []string) error { return c.removePatch(ctx, args[0]) })
	ls := command("list", "List the virtual patches, and how often each was met", "  $ bulwark shield patch list", exactly(0, ""), c.listPatches)
	return group("patch", "Put virtual patches over all apps", "  $ bulwark shield patch add cve-2026-1234.conf\n  $ bulwark shield patch", c.listPatches, add, remove, ls)
}

func (c *cli) addPatch(ctx context.Context, file string, f patchFlags) error {
	p, err := c.readPatch(file, f)
	if err != nil {
		return err
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindPatchAdd, "", p)
	if err != nil {
		return err
	}
	var v *client.VirtualPatch
	err = c.during("Raising the shield", func() error {
		if err := s.SetPatch(ctx, signed); err != nil {
			return err
		}
		v, err = c.raised(ctx, s, p)
		return err
	})
	if err != nil {
		return err
	}
	if v == nil || !v.Live {
		why := "The edge has not taken it yet."
		if v != nil && v.Error != "" {
			why = "The edge refuses it: " + clean(v.Error)
		}
		return bulwark.Fail(bulwark.KindUnavailable, fmt.Sprintf("The patch %s is signed and recorded, but not live. %s", p.Name, why), "See bulwark shield patch list.", nil)
	}
	return c.result(*v, func() {
		what := "what meets it is refused"
		if p.DryRun {
			what = "what meets it is counted, and passes"
		}
		c.say("The patch %s (version %d) is live over all apps until %s: %s.", p.Name, v.Version, p.Until.UTC().Format(time.DateOnly), what)
	})
}

// readPatch reads a file of rules, and looks whether they can be understood.
func (c *cli) readPatch(file string, f patchFlags) (p bulwark.Patch, err error) {
	life, err := parseLife(f.expires)
	if err != nil {
		return p, err
	}
	var b []byte
	if file == "-" {
		b, err = io.ReadAll(io.LimitReader(c.stdin, bulwark.MaxPatch+1))
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return p, usage(bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("The file %s cannot be read.", quote(file)), "Give a file of rules.", err))
	}
	if f.name == "" {
		if file == "-" {
			return p, misuse("The patch has no name.", "Give it with --name.")
		}
		base := filepath.Base(file)
		f.name = strings.TrimSuffix(base, filepath.Ext(base))
	}
	p = bulwark.Patch{Rules: string(b), DryRun: f.dryRun, Until: c.now().Add(life).UTC().Truncate(time.Second)}
	if p.Name, err = bulwark.ParsePatchName(f.name); err != nil {
		return p, usage(err)
	}
	if err := p.Check(); err != nil {
		return p, usage(err)
	}
	_, err = waf.ParsePatch(p.Name, p.Rules)
	return p, usage(err)
}

// How long it takes at most until a patch is live, and how often it is looked.
const (
	raisedWithin = 10 * time.Second
	raisedEvery  = 100 * time.Millisecond
)

// raised waits until the edge has a patch, or says why not.
func (c *cli) raised(ctx context.Context, s *session, p bulwark.Patch) (*client.VirtualPatch, error) {
	for end := time.Now().Add(raisedWithin); ; {
		all, err := s.Patches(ctx)
		if err != nil && bulwark.KindOf(err) != bulwark.KindUnavailable {
			return nil, err
		}
		i := slices.IndexFunc(all, func(v client.VirtualPatch) bool { return v.Digest() == p.Digest() })
		if i >= 0 && (all[i].Live || all[i].Error != "") {
			return &all[i], nil
		}
		if time.Now().After(end) {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(raisedEvery):
		}
	}
}

func (c *cli) removePatch(ctx context.Context, text string) error {
	name, err := bulwark.ParsePatchName(text)
	if err != nil {
		return usage(err)
	}
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	signed, err := s.sign(statement.KindPatchRemove, "", statement.PatchRemove{Name: name})
	if err != nil {
		return err
	}
	if err := c.during("Lowering the shield", func() error { return s.SetPatch(ctx, signed) }); err != nil {
		return err
	}
	return c.result(statement.PatchRemove{Name: name}, func() { c.say("The patch %s is gone.", name) })
}

func (c *cli) listPatches(ctx context.Context, _ []string) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	all, err := s.Patches(ctx)
	if err != nil {
		return err
	}
	return c.result(list(all), func() {
		if len(all) == 0 {
			c.empty("There is no virtual patch.")
			return
		}
		c.head("Virtual patches")
		var rows [][]string
		for _, p := range all {
			state := "live"
			switch {
			case p.Error != "":
				state = "not live: " + p.Error
			case !p.Live && !p.Until.After(c.now()):
				state = "ended"
			case !p.Live:
				state = "not live yet"
			case p.DryRun:
				state = "dry run"
			}
			hits := strconv.Itoa(p.Hits) + " hits"
			if !p.Last.IsZero() {
				hits += ", the last " + ago(c.now(), p.Last)
			}
			rows = append(rows, []string{string(p.Name), "v" + strconv.Itoa(p.Version), state, hits, "until " + p.Until.UTC().Format(time.DateOnly), string(p.Person)})
		}
		c.table(rows)
	})
}
