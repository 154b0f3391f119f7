package audit

import (
	"context"
	"database/sql"
	"time"
)

// Witnessed is where somebody outside last saw the log stand, and signed for it.
type Witnessed struct {
	Witness string // key, in the form of package note
	Note    []byte // the checkpoint with both signatures
	Size    uint64
	At      time.Time // by the witness's clock
}

// maxWitnesses is how many witnesses' words are kept.
const maxWitnesses = 16

// PutWitnessed keeps a witness's word in place of an older one. It tells false if there is no room for another witness.
func PutWitnessed(ctx context.Context, tx *sql.Tx, w Witnessed) (bool, error) {
	var others int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM audit_witness WHERE witness <> ?`, w.Witness).Scan(&others); err != nil || others >= maxWitnesses {
		return false, err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO audit_witness (witness, note, size, at) VALUES (?, ?, ?, ?) ON CONFLICT (witness)
		DO UPDATE SET note = excluded.note, size = excluded.size, at = excluded.at WHERE excluded.size >= audit_witness.size AND excluded.at >= audit_witness.at`,
		w.Witness, w.Note, w.Size, w.At.UTC().Format(time.RFC3339))
	return true, err
}

// WitnessedBy returns what witnesses signed for, by their keys.
func WitnessedBy(ctx context.Context, q Queryer) ([]Witnessed, error) {
	rows, err := q.QueryContext(ctx, `SELECT witness, note, size, at FROM audit_witness ORDER BY witness`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Witnessed{}
	for rows.Next() {
		var w Witnessed
		var at string
		if err := rows.Scan(&w.Witness, &w.Note, &w.Size, &at); err != nil {
			return nil, err
		}
		if w.At, err = time.Parse(time.RFC3339, at); err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, rows.Err()
}
