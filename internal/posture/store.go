package posture

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/db"
	"github.com/bulwark-paas/bulwark/internal/posture/postureapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// keep is how long records are kept: a year, and what it takes to write a report about it.
const keep = 400 * 24 * time.Hour

// PublicKeyFile is the name of the file, in the prober's folder, that the node reads the prober's public key from.
const PublicKeyFile = "key.pub"

// store keeps the records, numbered, chained and signed.
type store struct {
	db  *db.DB
	key ed25519.PrivateKey
}

func openStore(ctx context.Context, dir string) (*store, error) {
	key, err := openKey(dir)
	if err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, filepath.Join(dir, "posture.db"), []db.Migration{{ID: "posture-1", SQL: `
CREATE TABLE record (
	number   INTEGER PRIMARY KEY AUTOINCREMENT,
	run      INTEGER NOT NULL,
	control  TEXT NOT NULL,
	began    INTEGER NOT NULL,
	outcome  TEXT NOT NULL,
	envelope BLOB NOT NULL,
	UNIQUE (control, run)
) STRICT;
`}})
	if err != nil {
		return nil, err
	}
	return &store{db: d, key: key}, nil
}

// openKey reads the prober's key, or makes one. The records before a key that was lost stay what they are: signed by a key that the
// node vouched for at the time.
func openKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, "key.pem")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		if err := atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return nil, err
		}
		return key, publish(dir, key)
	}
	if err != nil {
		return nil, err
	}
	key, err := privateKey(b)
	if err != nil {
		return nil, fmt.Errorf("posture: %s: %w", path, err)
	}
	return key, publish(dir, key)
}

func privateKey(b []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("it is of another kind")
	}
	return key, nil
}

func publish(dir string, key ed25519.PrivateKey) error {
	return atomicfile.Write(filepath.Join(dir, PublicKeyFile), statement.NewKey(key.Public().(ed25519.PublicKey)).PKIX(), 0o600)
}

// put numbers, signs and keeps a record.
func (s *store) put(ctx context.Context, r *postureapi.Result) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		// AUTOINCREMENT's own table remembers numbers that were given, also when their rows are gone.
		var last sql.NullInt64
		if err := tx.QueryRow(`SELECT seq FROM sqlite_sequence WHERE name = 'record'`).Scan(&last); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		r.Number = uint64(last.Int64) + 1
		if err := tx.QueryRow(`SELECT coalesce(max(run), 0) + 1 FROM record WHERE control = ?`, r.Control).Scan(&r.Run); err != nil {
			return err
		}
		var before []byte
		err := tx.QueryRow(`SELECT envelope FROM record WHERE number = ?`, last.Int64).Scan(&before)
		switch {
		case err == nil:
			r.Before = bulwark.Sum(before)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		envelope, err := statement.Seal(payloadType, r, s.key)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO record (number, run, control, began, outcome, envelope) VALUES (?,?,?,?,?,?)`,
			r.Number, r.Run, r.Control, r.Began.Unix(), r.Outcome, envelope); err != nil {
			return err
		}
		// The newest of each control stays, however old.
		_, err = tx.Exec(`DELETE FROM record WHERE began < ? AND number NOT IN (SELECT max(number) FROM record GROUP BY control)`,
			r.Began.Add(-keep).Unix())
		return err
	})
}

// latest returns the newest record of a control, when its run began, and what came of it; nil if it never ran.
func (s *store) latest(ctx context.Context, control string) (envelope []byte, began time.Time, outcome postureapi.Outcome, err error) {
	var at int64
	err = s.db.Reader().QueryRowContext(ctx, `SELECT envelope, began, outcome FROM record WHERE control = ? ORDER BY number DESC LIMIT 1`, control).
		Scan(&envelope, &at, &outcome)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, time.Time{}, "", nil
	}
	return envelope, time.Unix(at, 0), outcome, err
}
