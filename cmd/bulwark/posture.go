package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/posture"
	"github.com/bulwark-paas/bulwark/internal/posture/postureapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

type postureFlags struct {
	only                      []string
	run, wait, watch, details bool
}

func (c *cli) postureCommand() *cobra.Command {
	var f postureFlags
	cmd := command("posture", "Show which promises hold, as attacks on the running system found",
		"  $ bulwark posture\n  $ bulwark posture --only NET --details\n  $ bulwark posture --run --only ISO\n  $ bulwark posture --watch",
		exactly(0, ""), func(ctx context.Context, _ []string) error { return c.posture(ctx, f) })
	cmd.Long = `Shows each control with what the last attack on it came to. A control passes only if every attack was refused, and something in the
same run proved that the attack would have been noticed. What did not run within its period, could not be proved, or is not signed by the
prober, whose key the node vouches for, is unknown.

The exit code is 0 if every control that was asked for passes, else 1.`
	fl := cmd.Flags()
	fl.StringSliceVar(&f.only, "only", nil, "controls, by the beginning of their ids: NET, ISO-1")
	fl.BoolVar(&f.run, "run", false, "have the probes run now, and wait for them")
	fl.BoolVar(&f.wait, "wait", false, "wait until every probe has run once")
	fl.BoolVar(&f.watch, "watch", false, "go on, and show each new result")
	fl.BoolVar(&f.details, "details", false, "show what was tried")
	return cmd
}

// shownControl is a control as people and programs are shown it.
type shownControl struct {
	Control string             `json:"control"`
	Promise string             `json:"promise"`
	Outcome postureapi.Outcome `json:"outcome"`
	Why     string             `json:"why"`
	Every   bulwark.Duration   `json:"every"`
	*postureapi.Result
	running bool
}

// shown is the outcome of the command.
type shownPosture struct {
	Server   string         `json:"server"`
	Holds    bool           `json:"holds"`
	Waiting  string         `json:"waiting,omitempty"`
	Controls []shownControl `json:"controls"`
}

func (c *cli) posture(ctx context.Context, f postureFlags) error {
	s, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	key, err := s.proberKey(ctx)
	if err != nil {
		return err
	}
	p, err := c.readPosture(ctx, s, key, f.only)
	if err != nil {
		return err
	}
	switch {
	case f.run:
		p, err = c.runProbes(ctx, s, key, f.only, p)
	case f.wait:
		p, err = c.untilNewer(ctx, s, key, f.only, nil)
	}
	if err != nil {
		return err
	}
	if err := c.result(p, func() { c.showPosture(p, f) }); err != nil {
		return err
	}
	if f.watch {
		return c.watchPosture(ctx, s, key, f, p)
	}
	if !p.Holds {
		return &exitError{1}
	}
	return nil
}

// proberKey is the key that records are signed with, as the node says.
func (s *session) proberKey(ctx context.Context) (statement.Key, error) {
	info, err := s.info(ctx)
	if err != nil {
		return statement.Key{}, err
	}
	if len(info.Posture) == 0 {
		return statement.Key{}, bulwark.Fail(bulwark.KindUnavailable, "The node knows no prober.", "Its process \"posture\" has not started; see the logs on the machine.", nil)
	}
	return statement.ParseKey(info.Posture)
}

// readPosture asks for the records and believes what is signed and fresh.
func (c *cli) readPosture(ctx context.Context, s *session, key statement.Key, only []string) (*shownPosture, error) {
	got, err := s.Posture(ctx)
	if err != nil {
		return nil, err
	}
	out := &shownPosture{Server: s.server.URL, Holds: true, Waiting: got.Waiting, Controls: []shownControl{}}
	for _, st := range got.Controls {
		if !chosen(st.Control, only) {
			continue
		}
		v := c.judged(st, key)
		out.Holds = out.Holds && v.Outcome == postureapi.Pass
		out.Controls = append(out.Controls, v)
	}
	if len(out.Controls) == 0 {
		return nil, misuse("There is no such control.", "See bulwark posture for all of them.")
	}
	return out, nil
}

func chosen(id string, only []string) bool {
	return len(only) == 0 || slices.ContainsFunc(only, func(o string) bool { return o != "" && strings.HasPrefix(id, strings.ToUpper(o)) })
}

// judged is a control with what its record says, if that can be believed.
func (c *cli) judged(st client.Standing, key statement.Key) shownControl {
	v := shownControl{Control: st.Control, Promise: st.Promise, Outcome: postureapi.Unknown, Every: st.Every, running: st.Running}
	if len(st.Record) == 0 {
		v.Why = "the probe has not run yet"
		return v
	}
	r, err := posture.Open(st.Record, key)
	if err != nil || r.Control != st.Control {
		v.Why = "the record is not signed by the prober"
		return v
	}
	v.Result, v.Promise, v.Every, v.Outcome, v.Why = r, r.Promise, r.Every, r.Outcome, r.Why
	if r.Stale(c.now()) {
		v.Outcome, v.Why = postureapi.Unknown, "the last run is older than two periods of "+time.Duration(r.Every).String()
	}
	return v
}

// runProbes asks for runs and waits until each control has one that is newer.
func (c *cli) runProbes(ctx context.Context, s *session, key statement.Key, only []string, before *shownPosture) (*shownPosture, error) {
	was := map[string]uint64{}
	for _, v := range before.Controls {
		was[v.Control] = v.number()
	}
	if err := s.RunProbes(ctx, only); err != nil {
		return nil, err
	}
	return c.untilNewer(ctx, s, key, only, was)
}

// number is that of the record, 0 if there is none.
func (v shownControl) number() uint64 {
	if v.Result == nil {
		return 0
	}
	return v.Number
}

// untilNewer waits until each control has a record that is newer than a number.
func (c *cli) untilNewer(ctx context.Context, s *session, key statement.Key, only []string, than map[string]uint64) (p *shownPosture, err error) {
	err = c.during("Running the probes", func() error {
		for {
			var err error
			if p, err = c.readPosture(ctx, s, key, only); err != nil && bulwark.KindOf(err) != bulwark.KindUnavailable {
				return err
			}
			if err == nil && !slices.ContainsFunc(p.Controls, func(v shownControl) bool { return v.number() <= than[v.Control] }) {
				return nil
			}
			if err := rest(ctx, time.Second/2); err != nil {
				return err
			}
		}
	})
	return p, err
}

func (c *cli) showPosture(p *shownPosture, f postureFlags) {
	c.head("%s", p.Server)
	if p.Waiting != "" {
		c.say("%s", p.Waiting)
	}
	rows := [][]string{}
	for _, v := range p.Controls {
		rows = append(rows, c.postureRow(v))
	}
	c.table(rows)
	var open []string
	for _, last := range []bool{false, true} { // what does not pass comes last, where it is seen
		for _, v := range p.Controls {
			if passes := v.Outcome == postureapi.Pass; passes != last {
				c.showChecks(v, f.details)
				if !passes {
					open = append(open, v.Control)
				}
			}
		}
	}
	if p.Holds {
		c.say("All of it holds.")
	} else {
		c.say("Not proved to hold: %s.", strings.Join(open, ", "))
	}
}

func (c *cli) postureRow(v shownControl) []string {
	when, took := "never", ""
	if v.Result != nil {
		when, took = v.Began.Local().Format("2006-01-02 15:04:05"), time.Duration(v.Took).Round(100*time.Millisecond).String()
	}
	if v.running {
		took = "running"
	}
	return []string{v.Control, string(v.Outcome), when, took, v.Promise}
}

// showChecks says why a control does not pass, and with details what was tried.
func (c *cli) showChecks(v shownControl, details bool) {
	if v.Outcome != postureapi.Pass || details {
		c.say("%s: %s", v.Control, v.Why)
	}
	if v.Result == nil {
		return
	}
	for _, k := range v.Attacks {
		if !k.Held {
			c.say("  came through: %s (%s)", k.What, k.Detail)
		} else if details {
			c.say("  refused: %s (%s)", k.What, k.Detail)
		}
	}
	for _, k := range v.Proven {
		if !k.Held {
			c.say("  not proved: %s (%s)", k.What, k.Detail)
		} else if details {
			c.say("  proved: %s (%s)", k.What, k.Detail)
		}
	}
}

// watchPosture shows results as they come, until it is ended.
func (c *cli) watchPosture(ctx context.Context, s *session, key statement.Key, f postureFlags, last *shownPosture) error {
	seen := map[string]uint64{}
	for {
		for _, v := range last.Controls {
			if v.Result == nil || seen[v.Control] == v.Number {
				continue
			}
			if _, known := seen[v.Control]; known {
				if err := c.result(v, func() { c.table([][]string{c.postureRow(v)}); c.showChecks(v, f.details) }); err != nil {
					return err
				}
			}
			seen[v.Control] = v.Number
		}
		if err := rest(ctx, 2*time.Second); err != nil {
			return err
		}
		now, err := c.readPosture(ctx, s, key, f.only)
		if err != nil {
			if bulwark.KindOf(err) != bulwark.KindUnavailable {
				return err
			}
			c.note("%v", err)
			continue
		}
		last = now
	}
}

// rest waits, unless it is ended.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
