package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// setShield changes what protects an app at the edge.
func (l *Ledger) setShield(tx *sql.Tx, app *App, c bulwark.ShieldChange) error {
	for _, n := range c.DenyAS { // what the edge could not tell must not look as if it were denied
		if l.operators == nil || !l.operators.Has(n) {
			return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("No network of %s is known here.", n),
				"Whose networks are whose is in a table that the operator of the installation gives: bulwark up --as-table FILE.", nil)
		}
	}
	was, err := shieldOf(tx, app.ID)
	if err != nil {
		return err
	}
	next, err := was.With(c)
	if err != nil {
		return err
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if len(next.Pages) > 0 {
		if err := roomOf(tx, app, len(b), `SELECT coalesce(sum(length(s.body)), 0) FROM shield s JOIN app a ON a.id = s.app JOIN project p ON p.id = a.project WHERE p.org = ? AND a.id <> ?`, app.ID); err != nil {
			return err
		}
	}
	_, err = tx.Exec(`INSERT INTO shield (app, body) VALUES (?,?) ON CONFLICT DO UPDATE SET body = excluded.body`, app.ID, string(b))
	return err
}

func shieldOf(tx *sql.Tx, app bulwark.AppID) (s bulwark.Shield, err error) {
	var b string
	err = tx.QueryRow(`SELECT body FROM shield WHERE app = ?`, app).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(b), &s)
	}
	return s, err
}

// Shield returns what an app's people chose of what protects it at the edge.
func (l *Ledger) Shield(ctx context.Context, app bulwark.AppID) (s bulwark.Shield, err error) {
	err = l.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := appByID(tx, app); err != nil {
			return err
		}
		s, err = shieldOf(tx, app)
		return err
	})
	return s, err
}

// Shields returns the shields of all apps that have another than the default, in the order of their ids, each with the host names that
// lead to the app.
func (l *Ledger) Shields(ctx context.Context) ([]bulwark.Shielded, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT app.id, app.name, shield.body, coalesce((SELECT json_group_array(host) FROM (SELECT host FROM host WHERE host.app = app.id ORDER BY host)), '[]')
		FROM shield JOIN app ON app.id = shield.app WHERE app.destroyed = 0 ORDER BY app.id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []bulwark.Shielded{}
	for rows.Next() {
		var s bulwark.Shielded
		var name, body, hosts string
		if err := rows.Scan(&s.App, &name, &body, &hosts); err != nil {
			return nil, err
		}
		if err := errors.Join(json.Unmarshal([]byte(body), &s.Shield), json.Unmarshal([]byte(hosts), &s.Hosts)); err != nil {
			return nil, err
		}
		s.Hosts = append(s.Hosts, bulwark.HostName(name)+"."+l.domain)
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return l.belowPatterns(ctx, out)
}

// belowPatterns adds the hosts of apps without a shield of their own that are part of another app's pattern: else the pattern's shield would be theirs.
func (l *Ledger) belowPatterns(ctx context.Context, out []bulwark.Shielded) ([]bulwark.Shielded, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT host.host, host.app FROM host JOIN app ON app.id = host.app WHERE app.destroyed = 0
		AND EXISTS (SELECT 1 FROM host WHERE host LIKE '*.%') AND NOT EXISTS (SELECT 1 FROM shield WHERE shield.app = app.id) ORDER BY host.app, host.host`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	patterns := map[bulwark.HostName]bool{}
	for _, s := range out {
		for _, h := range s.Hosts {
			if _, is := h.Wildcard(); is {
				patterns[h] = true
			}
		}
	}
	for rows.Next() {
		var h bulwark.HostName
		var app bulwark.AppID
		if err := rows.Scan(&h, &app); err != nil {
			return nil, err
		}
		if !patterns["*."+h.Above()] {
			continue
		}
		if n := len(out); n > 0 && out[n-1].App == app {
			out[n-1].Hosts = append(out[n-1].Hosts, h)
		} else {
			out = append(out, bulwark.Shielded{App: app, Hosts: []bulwark.HostName{h}})
		}
	}
	return out, rows.Err()
}

// Patch is a virtual patch with who made it.
type Patch struct {
	bulwark.Patch
	Version int              // of this name
	Person  bulwark.PersonID // who signed for it
	Added   time.Time
}

func addPatch(tx *sql.Tx, p bulwark.Patch, r *Receipt, now time.Time) error {
	if err := p.Check(); err != nil {
		return err
	}
	if !p.Until.After(now) {
		return bulwark.Invalid("The patch would end before it begins.", "Give a later end.")
	}
	if p.Until.After(now.Add(bulwark.MaxPatchLife)) {
		return bulwark.Invalid("A patch is for a year at most.", "Give an earlier end; it can be made again.")
	}
	var others int
	if err := tx.QueryRow(`SELECT count(*) FROM patch WHERE removed = 0 AND name <> ?`, p.Name).Scan(&others); err != nil {
		return err
	}
	if others >= bulwark.MaxPatches {
		return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("There are %d patches already, which is the most.", others), "Remove one first, or have one patch do what several do.", nil)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO patch (name, version, body, person, at, removed) VALUES (?,1,?,?,?,0)
		ON CONFLICT DO UPDATE SET version = version + 1, body = excluded.body, person = excluded.person, at = excluded.at, removed = 0`,
		p.Name, string(b), r.Person, now.UTC().Format(time.RFC3339))
	return err
}

func removePatch(tx *sql.Tx, name bulwark.PatchName) error {
	res, err := tx.Exec(`UPDATE patch SET removed = 1, body = '{}' WHERE name = ? AND removed = 0`, name)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return bulwark.Fail(bulwark.KindNotFound, fmt.Sprintf("There is no patch %s.", name), "See bulwark shield patch list.", nil)
	}
	return nil
}

// Patches returns the virtual patches that were not removed, in the order of their names; those too that have come to their end.
func (l *Ledger) Patches(ctx context.Context) ([]Patch, error) {
	rows, err := l.db.Reader().QueryContext(ctx, `SELECT version, body, person, at FROM patch WHERE removed = 0 ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Patch
	for rows.Next() {
		var p Patch
		var body, at string
		if err := rows.Scan(&p.Version, &body, &p.Person, &at); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(body), &p.Patch); err != nil {
			return nil, err
		}
		p.Added, _ = time.Parse(time.RFC3339, at) // written by addPatch
		out = append(out, p)
	}
	return out, rows.Err()
}
