package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Queryer is what reads: a transaction or the store's read-only side.
type Queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

const columns = `SELECT seq, at, project, actor, key, origin, action, resource, outcome, detail, document, chain_seq, chain_hash, place FROM audit `

func records(rows *sql.Rows, err error) ([]Record, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Record{}
	for rows.Next() {
		var r Record
		var at string
		var p Place
		var index sql.NullInt64
		if err := rows.Scan(&r.Seq, &at, &r.Project, &r.Actor, &r.Key, &r.From, &r.Action, &r.Resource, &r.Outcome, &r.Detail, &r.Document, &p.Seq, &p.Hash, &index); err != nil {
			return nil, err
		}
		if r.Time, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return nil, fmt.Errorf("audit: entry %d has no time: %w", r.Seq, err)
		}
		if p.Seq > 0 {
			r.Chain = &p
		}
		if index.Valid {
			i := uint64(index.Int64)
			r.Index = &i
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// Query says which records are wanted. Empty fields want all.
type Query struct {
	Resource string
	Since    time.Time
	Most     int
}

// column is how the table has times: RFC 3339 in one width, so that they are in order as text.
const column = "2006-01-02T15:04:05.000000000Z07:00"

// List returns records, the newest first.
func List(ctx context.Context, q Queryer, in Query) ([]Record, error) {
	return records(q.QueryContext(ctx, columns+`WHERE (? = '' OR resource = ?) AND at >= ? ORDER BY seq DESC LIMIT ?`,
		in.Resource, in.Resource, in.Since.UTC().Format(column), in.Most))
}

// Waiting returns the oldest records that are not in the log yet, in their order.
func Waiting(ctx context.Context, q Queryer, most int) ([]Record, error) {
	return records(q.QueryContext(ctx, columns+`WHERE place IS NULL ORDER BY seq LIMIT ?`, most))
}

// Last returns the record with the highest place in the log; nil if none has one.
func Last(ctx context.Context, q Queryer) (*Record, error) {
	out, err := records(q.QueryContext(ctx, columns+`WHERE place IS NOT NULL ORDER BY place DESC LIMIT 1`))
	if err != nil || len(out) == 0 {
		return nil, err
	}
	return &out[0], nil
}

// Newest returns the number of the newest record.
func Newest(ctx context.Context, q Queryer) (seq uint64, err error) {
	err = q.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM audit`).Scan(&seq)
	return seq, err
}

// Place notes where in the log a record is.
func (r Record) Place(ctx context.Context, tx *sql.Tx, index uint64) error {
	res, err := tx.ExecContext(ctx, `UPDATE audit SET place = ? WHERE seq = ? AND place IS NULL`, index, r.Seq)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n != 1 {
		return fmt.Errorf("audit: entry %d is in the log already", r.Seq)
	}
	return nil
}

// GoOnAfter has the next record's number be the one after seq: an older store that was put back must not give out
// numbers that the log has.
func GoOnAfter(ctx context.Context, tx *sql.Tx, seq uint64) error {
	// SQLite keeps the last number in this table, which has a row as soon as there was an entry.
	res, err := tx.ExecContext(ctx, `UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'audit'`, seq)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		_, err = tx.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES ('audit', ?)`, seq)
	}
	return err
}

// Compared returns up to where the node's chain was compared with the entries; the number is 0 at first.
func Compared(ctx context.Context, q Queryer) (p Place, err error) {
	err = q.QueryRowContext(ctx, `SELECT seq, hash FROM audit_chain`).Scan(&p.Seq, &p.Hash)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return p, err
}

// SetCompared notes it.
func SetCompared(ctx context.Context, tx *sql.Tx, p Place) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO audit_chain (one, seq, hash) VALUES (1,?,?) ON CONFLICT DO UPDATE SET seq = excluded.seq, hash = excluded.hash`, p.Seq, p.Hash)
	return err
}

// Tells reports whether there is an entry about a place in the node's chain.
func Tells(ctx context.Context, q Queryer, seq uint64) (bool, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM audit WHERE chain_seq = ? AND chain_seq > 0`, seq).Scan(&n)
	return n > 0, err
}
