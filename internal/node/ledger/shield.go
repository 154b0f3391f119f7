package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/bulwark-paas/bulwark"
)

// setShield changes what protects an app at the edge.
func setShield(tx *sql.Tx, app *App, c bulwark.ShieldChange) error {
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
	return out, rows.Err()
}
