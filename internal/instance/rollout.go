package instance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/app"
	"github.com/bulwark-paas/bulwark/internal/job"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/release"
)

// Rollout brings a release up beside the one that serves: first one instance of each process type as a barrier, then
// the rest. It returns when all of them are healthy; nothing serves them yet. When it fails they end, and what served
// before is untouched.
func (m *Manager) Rollout(ctx context.Context, a *app.App, full *nodeapi.Released, log *job.Log) error {
	r := full.Release
	formation, err := Formation(ctx, m.db.Reader(), a.ID, r.Plan)
	if err != nil {
		return err
	}
	told := map[bulwark.InstanceID]bool{}
	for _, rest := range []bool{false, true} {
		if err := m.add(ctx, a, r.Generation, formation, rest); err != nil {
			return err
		}
		m.Kick()
		if err := m.await(ctx, a, r.Generation, "", told, log); err != nil {
			return errors.Join(err, m.Withdraw(ctx, a, r.Generation))
		}
	}
	return nil
}

// add makes the rows of a release that are missing: those with index 1, or all. Rows of an earlier run count.
func (m *Manager) add(ctx context.Context, a *app.App, number uint64, formation map[bulwark.ProcessType]int, all bool) error {
	first := maps.Clone(formation)
	for p, n := range first {
		if !all {
			first[p] = min(n, 1)
		}
	}
	return m.db.Tx(ctx, func(tx *sql.Tx) error { return fill(tx, a, number, first, number != a.Promoted) })
}

// fill makes the rows that a release lacks of a formation.
func fill(tx *sql.Tx, a *app.App, number uint64, formation map[bulwark.ProcessType]int, candidate bool) error {
	for p, n := range formation {
		for i := 1; i <= n; i++ {
			var have int
			if err := tx.QueryRow(`SELECT count(*) FROM instance WHERE app = ? AND release = ? AND process = ? AND number = ? AND want = 1`, a.ID, number, p, i).Scan(&have); err != nil {
				return err
			}
			if have > 0 {
				continue
			}
			if err := insert(tx, Row{ID: bulwark.NewInstanceID(), Project: a.Project, App: a.ID, Release: number, Process: p, Index: i, Candidate: candidate}); err != nil {
				return err
			}
		}
		// The release command's instance has no formation.
		if _, err := tx.Exec(`UPDATE instance SET want = 0 WHERE app = ? AND release = ? AND process = ? AND number > ? AND candidate = 0`, a.ID, number, p, n); err != nil {
			return err
		}
	}
	return nil
}

// await waits until every instance of a release is healthy, or one failed; with only, it waits for that one alone. told holds
// those whose arrival the user was told of.
func (m *Manager) await(ctx context.Context, a *app.App, number uint64, only bulwark.InstanceID, told map[bulwark.InstanceID]bool, log *job.Log) error {
	for {
		changed := m.Changed()
		rows, err := Rows(ctx, m.db.Reader(), a.ID)
		if err != nil {
			return err
		}
		missing := 0
		for _, r := range rows {
			if r.Release != number || !r.Want || only != "" && r.ID != only {
				continue
			}
			i, ok := m.State(r.ID)
			switch {
			case ok && i.Phase == nodeapi.PhaseHealthy:
				if !told[r.ID] {
					told[r.ID] = true
					log.Say(fmt.Sprintf("       %s is up", r.Name()))
				}
			case ok && i.Phase.Over():
				m.lastWords(ctx, r, log)
				return failed(r, i.Reason)
			case !ok && r.Crashes > 0:
				return failed(r, r.Reason)
			default:
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

func failed(r Row, reason string) error {
	return bulwark.Fail(bulwark.KindFailed, fmt.Sprintf("%s did not come up: %s.", r.Name(), strings.TrimSuffix(reason, ".")),
		"See bulwark logs; what served before still does.", nil)
}

// Promote makes a release the one that serves: in one transaction the app, the release and the rows; instances of other
// releases end after the edge has let go of them.
//
// The app may have been scaled during the rollout: what is missing starts now, and what is too much ends.
//
// When it fails the release's instances end. What the node has let through cannot fail any more, whoever cancels: it goes on until it is done
// or the server ends, and its successor goes on.
func (m *Manager) Promote(ctx context.Context, a *app.App, full *nodeapi.Released) error {
	number := full.Release.Generation
	if err := m.quiet(ctx, a, full); err != nil {
		return errors.Join(err, m.Withdraw(ctx, a, number))
	}
	// The node starts nothing older once it has let this through, and its answer may be lost: so it is asked until it has said so.
	ctx = m.closed
	promote := func() error { return m.node.Call(ctx, "promote", nodeapi.Promote{App: a.ID, Generation: number}, nil) }
	if err := m.insist(ctx, refused, promote); err != nil {
		if ctx.Err() != nil { // it may have been let through, and must then be there for who goes on
			return err
		}
		return errors.Join(err, m.Withdraw(ctx, a, number))
	}
	return m.change(a, full)
}

// Resume goes on with a release that the node let through for a server that did not live to write it down, and tells whether it is one.
func (m *Manager) Resume(ctx context.Context, a *app.App, full *nodeapi.Released) (bool, error) {
	last, err := m.promoted(ctx, a.ID)
	if err != nil || last != full.Release.Generation {
		return false, err
	}
	return true, m.change(a, full)
}

// promoted returns which release of an app the node let through last.
func (m *Manager) promoted(ctx context.Context, id bulwark.AppID) (uint64, error) {
	var last nodeapi.Promoted
	err := m.insist(ctx, refused, func() error { return m.node.Call(ctx, "promoted", nodeapi.Promoted{App: id}, &last) })
	return last.Generation, err
}

// adopt has each app be served by the release that the node let through last: a server that was killed between the two may have had an operation
// that is over by now.
func (m *Manager) adopt(ctx context.Context) error {
	all, err := app.Everywhere(ctx, m.db.Reader())
	if err != nil {
		return err
	}
	for _, a := range all {
		last, err := m.promoted(ctx, a.ID)
		if bulwark.KindOf(err) == bulwark.KindNotFound {
			continue
		}
		if err != nil {
			return err
		}
		now, err := app.ByID(ctx, m.db.Reader(), a.ID)
		if err != nil || last <= now.Promoted {
			continue
		}
		full, err := release.Get(ctx, m.db.Reader(), a.ID, last)
		if err != nil {
			m.log.Error("the node let a release through that is not known here", "app", a.Name, "release", last, "error", err)
			continue
		}
		if err := m.change(now, full); err != nil {
			return err
		}
	}
	return nil
}

// change has a release serve that the node has let through.
func (m *Manager) change(a *app.App, full *nodeapi.Released) error {
	ctx := m.closed
	if err := m.insist(ctx, gone, func() error { return m.switchTo(ctx, a, full) }); err != nil {
		return err
	}
	m.Kick()
	return m.insist(ctx, gone, func() error { return m.edge.Sync(ctx) })
}

// insist does something that must be done until it is, with growing pauses. A refusal ends it if may says that this is one.
func (m *Manager) insist(ctx context.Context, may func(error) bool, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if err == nil || may(err) {
			return err
		}
		m.log.Warn("a release cannot be switched to yet", "error", err)
		if err := m.rest(ctx, min(200*time.Millisecond<<min(try, 10), 5*time.Second)); err != nil {
			return err
		}
	}
}

// refused tells that somebody who was reached said no.
func refused(err error) bool { return bulwark.KindOf(err) != bulwark.KindUnavailable }

// gone tells that the app is not there any more.
func gone(err error) bool { return bulwark.KindOf(err) == bulwark.KindNotFound }

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// switchTo writes down that a release serves.
func (m *Manager) switchTo(ctx context.Context, a *app.App, full *nodeapi.Released) error {
	number := full.Release.Generation
	return m.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := app.ByID(ctx, tx, a.ID); err != nil { // destroyed; if it comes back, then with what the node let through
			return err
		}
		if err := app.SetPromoted(tx, a.ID, number); err != nil {
			return err
		}
		if err := release.Promote(tx, a.ID, number); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE instance SET candidate = 0 WHERE app = ? AND release = ?`, a.ID, number); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE instance SET want = 0 WHERE app = ? AND release <> ?`, a.ID, number); err != nil {
			return err
		}
		formation, err := Formation(ctx, tx, a.ID, full.Release.Plan)
		if err != nil {
			return err
		}
		return fill(tx, a, number, formation, false)
	})
}

// quiet waits, for an app that was scaled to no web instance, until the last of them has ended: the node lets a release be
// promoted of which nothing is healthy only if nothing of the app runs.
func (m *Manager) quiet(ctx context.Context, a *app.App, full *nodeapi.Released) error {
	if _, web := full.Release.Plan.Processes[bulwark.ProcessWeb]; !web {
		return nil
	}
	for {
		formation, err := Formation(ctx, m.db.Reader(), a.ID, full.Release.Plan)
		if err != nil || formation[bulwark.ProcessWeb] > 0 {
			return err
		}
		rows, err := Rows(ctx, m.db.Reader(), a.ID)
		if err != nil || !slices.ContainsFunc(rows, func(r Row) bool { return r.Process == bulwark.ProcessWeb }) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Withdraw ends the instances of a candidate.
func (m *Manager) Withdraw(ctx context.Context, a *app.App, number uint64) error {
	err := m.db.Tx(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE instance SET want = 0 WHERE app = ? AND release = ? AND candidate = 1`, a.ID, number)
		return err
	})
	m.Kick()
	return err
}

// Scale sets the formation and has rows follow it: new ones start, those with the highest numbers end. note is called in
// the same transaction.
func (m *Manager) Scale(ctx context.Context, id bulwark.AppID, want map[bulwark.ProcessType]int, note func(*sql.Tx) error) error {
	err := m.db.Tx(ctx, func(tx *sql.Tx) error {
		a, err := app.ByID(ctx, tx, id)
		if err != nil {
			return err
		}
		if a.Promoted == 0 {
			return bulwark.Fail(bulwark.KindConflict, fmt.Sprintf("App %s has no release yet.", a.Name), "Deploy it first: git push bulwark main.", nil)
		}
		full, err := release.Get(ctx, tx, a.ID, a.Promoted)
		if err != nil {
			return err
		}
		for p, n := range want {
			if _, ok := full.Release.Plan.Processes[p]; !ok || p == bulwark.ProcessRelease {
				return bulwark.Fail(bulwark.KindInvalid, fmt.Sprintf("App %s has no process type %s.", a.Name, p), "See bulwark ps.", nil)
			}
			if n < 0 || n > MaxCount {
				return bulwark.Invalid(fmt.Sprintf("A process type has from 0 to %d instances.", MaxCount), "")
			}
			if err := setFormation(tx, a, p, n); err != nil {
				return err
			}
		}
		formation, err := Formation(ctx, tx, a.ID, full.Release.Plan)
		if err != nil {
			return err
		}
		if err := fill(tx, a, a.Promoted, formation, false); err != nil {
			return err
		}
		return note(tx)
	})
	m.Kick()
	return err
}

// Restart replaces the instances of the promoted release by new ones: these first become healthy and get requests, then
// the old ones end. An app whose instances all crash is started again in the same way.
func (m *Manager) Restart(ctx context.Context, a *app.App, full *nodeapi.Released, log *job.Log) error {
	number := full.Release.Generation
	rows, err := Rows(ctx, m.db.Reader(), a.ID)
	if err != nil {
		return err
	}
	log.Say(fmt.Sprintf("-----> Restarting release v%d", number))
	// A restart that was cut off begins anew: its candidate takes no place of its own.
	if err := m.Withdraw(ctx, a, number); err != nil {
		return err
	}
	for _, old := range rows {
		if !old.Want || old.Candidate || old.Release != number {
			continue
		}
		fresh := Row{ID: bulwark.NewInstanceID(), Project: old.Project, App: old.App, Release: number, Process: old.Process, Index: old.Index, Candidate: true, Want: true}
		if err := m.db.Tx(ctx, func(tx *sql.Tx) error { return insert(tx, fresh) }); err != nil {
			return err
		}
		m.Kick()
		if err := m.await(ctx, a, number, fresh.ID, map[bulwark.InstanceID]bool{}, log); err != nil {
			return errors.Join(err, m.Withdraw(ctx, a, number))
		}
		err := m.db.Tx(ctx, func(tx *sql.Tx) error {
			var wanted int
			if err := tx.QueryRow(`SELECT count(*) FROM instance WHERE app = ? AND release = ? AND process = ? AND number = ? AND want = 1 AND id <> ?`,
				old.App, number, old.Process, old.Index, fresh.ID).Scan(&wanted); err != nil {
				return err
			}
			if wanted == 0 { // the app was scaled meanwhile
				_, err := tx.Exec(`UPDATE instance SET want = 0 WHERE id = ?`, fresh.ID)
				return err
			}
			if _, err := tx.Exec(`UPDATE instance SET candidate = 0 WHERE id = ?`, fresh.ID); err != nil {
				return err
			}
			// By its place: an instance that crashed meanwhile has another id.
			_, err := tx.Exec(`UPDATE instance SET want = 0 WHERE app = ? AND release = ? AND process = ? AND number = ? AND id <> ?`,
				old.App, number, old.Process, old.Index, fresh.ID)
			return err
		})
		if err != nil {
			return err
		}
		m.Kick()
	}
	return nil
}
