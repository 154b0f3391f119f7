package server

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/audit"
	"github.com/bulwark-paas/bulwark/internal/instance"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

func (s *Server) destroyApp(ctx context.Context, actor access.Actor, in *appSignedIn) (client.App, error) {
	a, err := app.KeptByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.App{}, err
	}
	r, err := s.submit(ctx, in.Body.Envelope, a.ID, destroyed, statement.KindAppDestroy)
	s.instances.Kick()
	if err != nil {
		return client.App{}, err
	}
	// What is under way for the app finds it gone at its next step; this ends it at once.
	gone := bulwark.Fail(bulwark.KindCanceled, fmt.Sprintf("App %s was destroyed.", a.Name), "", nil)
	if _, err := s.jobs.Cancel(ctx, a.ID, "", gone); err != nil {
		return client.App{}, err
	}
	return client.App{ID: a.ID, Name: a.Name, Project: a.Project, State: client.StateDestroyed, Created: a.Created, Until: r.Until, Domains: []bulwark.HostName{},
		Formation: map[bulwark.ProcessType]int{}}, nil
}

// destroyed is the effect of an app's destruction: its instances end, and everything else waits for the end of its grace. If
// there is none, or its owner does without, it is gone now.
func destroyed(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	a, err := app.KeptByID(ctx, tx, r.App)
	if err != nil {
		return err
	}
	detail := "for good"
	if r.Until != nil {
		detail = "can be brought back until " + r.Until.UTC().Format(time.RFC3339)
		err = app.Destroy(tx, a.ID)
	} else {
		err = app.Finish(tx, a.ID)
	}
	if err != nil {
		return err
	}
	if err := instance.EndAll(tx, a.ID); err != nil {
		return err
	}
	return told(ctx, tx, r, a.Project, access.App(a.Name), audit.Done, detail)
}

func (s *Server) restoreApp(ctx context.Context, actor access.Actor, in *appSignedIn) (client.App, error) {
	a, err := app.KeptByName(ctx, s.db.Reader(), actor.Tenant(), in.App)
	if err != nil {
		return client.App{}, err
	}
	_, err = s.submit(ctx, in.Body.Envelope, a.ID, restored, statement.KindAppRestore)
	s.instances.Kick()
	if err != nil {
		return client.App{}, err
	}
	return s.getApp(ctx, actor, &in.AppPath)
}

// restored is the effect of an app's return: it runs what the node says that it runs, at the scale that it had.
func restored(ctx context.Context, tx *sql.Tx, r *nodeapi.Receipt) error {
	a, err := app.KeptByID(ctx, tx, r.App)
	if err != nil {
		return err
	}
	if err := app.Restore(tx, a.ID); err != nil {
		return err
	}
	// A rollout that the destruction cut off may have been promoted by the node, and not yet here.
	if r.Promoted > a.Promoted {
		_, err := release.Get(ctx, tx, a.ID, r.Promoted)
		if err == nil {
			err = errors.Join(app.SetPromoted(tx, a.ID, r.Promoted), release.Promote(tx, a.ID, r.Promoted))
			a.Promoted = r.Promoted
		}
		if err != nil && bulwark.KindOf(err) != bulwark.KindNotFound { // of a store that was put back, which knows older ones alone
			return err
		}
	}
	detail := "it has no release"
	if a.Promoted > 0 {
		full, err := release.Get(ctx, tx, a.ID, a.Promoted)
		if err != nil {
			return err
		}
		if err := instance.Again(ctx, tx, a, full.Release.Plan); err != nil {
			return err
		}
		detail = fmt.Sprintf("with v%d", a.Promoted)
	}
	return told(ctx, tx, r, a.Project, access.App(a.Name), audit.Done, detail)
}

// graceOver is the action of the entry about an app's end by the node: nobody signed for that moment, its owner signed for the
// destruction, and the node counted.
const graceOver = "app.final"

// finished writes that the node has ended an app for good. It is safe twice, and leaves one entry.
func finished(ctx context.Context, tx *sql.Tx, a *app.App) error {
	final, err := app.Final(ctx, tx, a.ID)
	if err != nil || final {
		return err
	}
	if err := app.Finish(tx, a.ID); err != nil {
		return err
	}
	if err := instance.EndAll(tx, a.ID); err != nil {
		return err
	}
	// Not from where the request came in which it may have been noticed.
	return audit.Write(audit.WithOrigin(ctx, &audit.Origin{}), tx, audit.Entry{Project: a.Project, Action: graceOver, Resource: access.App(a.Name).String(), Outcome: audit.Done, Detail: "its grace is over"})
}

// graces asks the node how destroyed apps stand.
func (s *Server) graces(ctx context.Context, apps []bulwark.AppID) (map[bulwark.AppID]nodeapi.Grace, error) {
	out := map[bulwark.AppID]nodeapi.Grace{}
	if len(apps) == 0 {
		return out, nil
	}
	var all []nodeapi.Grace
	if err := s.node.Call(ctx, "graces", nodeapi.Graces{Apps: apps}, &all); err != nil {
		return nil, err
	}
	for _, g := range all {
		out[g.App] = g
	}
	return out, nil
}

// tellGraces puts down until when destroyed apps can be brought back.
func (s *Server) tellGraces(ctx context.Context, apps []client.App) error {
	var ids []bulwark.AppID
	for _, a := range apps {
		if a.State == client.StateDestroyed {
			ids = append(ids, a.ID)
		}
	}
	all, err := s.graces(ctx, ids)
	for i := range apps {
		if g, ok := all[apps[i].ID]; ok && !g.Final {
			apps[i].Until = &g.Until
		}
	}
	return err
}

// graceEvery is how often the node is asked whether a grace is over.
const graceEvery = 10 * time.Second

// keepGraces follows the node: what it has ended for good is forgotten here, too. A server that is killed at any moment does
// the same again: rows first, in one transaction with the audit entry, then what lies in folders.
func (s *Server) keepGraces(ctx context.Context) {
	tick := time.NewTicker(graceEvery)
	defer tick.Stop()
	for {
		if err := errors.Join(s.endGraces(ctx), s.repos.Sweep(func(id bulwark.AppID) (bool, error) { return app.Final(ctx, s.db.Reader(), id) })); err != nil && ctx.Err() == nil {
			s.log.Warn("what is left of destroyed apps was not looked at", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// endGraces forgets the apps whose grace the node says is over.
func (s *Server) endGraces(ctx context.Context) error {
	apps, err := app.Graced(ctx, s.db.Reader())
	if err != nil || len(apps) == 0 {
		return err
	}
	var ids []bulwark.AppID
	for _, a := range apps {
		ids = append(ids, a.ID)
	}
	all, err := s.graces(ctx, ids)
	if err != nil {
		return err
	}
	for _, a := range apps {
		if !all[a.ID].Final {
			continue // one that the node does not know as destroyed was brought back, which is on its way here
		}
		if err := s.db.Tx(ctx, func(tx *sql.Tx) error { return finished(ctx, tx, &a) }); err != nil {
			return err
		}
		s.log.Info("an app is gone for good", "app", a.Name)
	}
	s.instances.Kick()
	return nil
}
